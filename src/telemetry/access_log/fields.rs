//! The values of operators, and the lines of formats of one's own.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use crate::{
    model::{
        access_log::{Field, GrpcStatus, HeaderField, JsonFormat, Operator, TextFormat, TextPiece},
        identity::SpiffeId,
        listener::Address,
        moment::MomentFormat,
    },
    telemetry::{
        self,
        record::{HttpPart, Record},
    },
};

/// What stands in a text for an operator without a value, as in Envoy.
const ABSENT: &str = "-";

/// The header in which Envoy tells how long the endpoint took, milliseconds. We tell it even where no such header is sent.
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// The names of gRPC's status codes, by their number.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// An operator's value. Nothing is made of it before it is written.
enum Value<'a> {
    Absent,
    Number(u64),
    Text(Cow<'a, str>),
    Socket(SocketAddr),
    Ip(IpAddr),
    Address(&'a Address),
    Id(&'a SpiffeId),
    Moment(&'a MomentFormat, SystemTime),
}

impl<'a> Value<'a> {
    fn of(operator: &'a Operator, record: &'a Record<'a>) -> Self {
        let http = record.http.as_ref();
        let text = |text: Option<&'a str>| text.filter(|t| !t.is_empty()).map_or(Self::Absent, |t| Self::Text(Cow::Borrowed(t)));
        let number = |number: Option<u64>| number.map_or(Self::Absent, Self::Number);
        let time = |time: Option<Duration>| time.map_or(Self::Absent, |time| Self::Number(milliseconds(time)));
        let socket = |address: Option<SocketAddr>| address.map_or(Self::Absent, Self::Socket);
        let ip = |address: Option<SocketAddr>| address.map_or(Self::Absent, |address| Self::Ip(address.ip()));
        let port = |address: Option<SocketAddr>| number(address.map(|address| address.port().into()));
        match operator {
            Operator::StartTime(format) => Self::Moment(format, record.start),
            Operator::Request(field) => header(field, |field| request_field(field, http?)),
            Operator::Response(field) => header(field, |field| response_field(field, http?)),
            Operator::Trailer(field) => header(field, |field| from_map(field, http?.trailers?)),
            Operator::GrpcStatus(form) => http.and_then(|h| h.grpc_status).map_or(Self::Absent, |status| grpc_status(status, *form)),
            Operator::BytesReceived => Self::Number(record.received),
            Operator::BytesSent => Self::Number(record.sent),
            Operator::ConnectionId => Self::Number(record.connection),
            Operator::ConnectionTerminationDetails => text(http.is_none().then_some(record.details)),
            Operator::DownstreamLocalAddress => socket(record.downstream_local),
            Operator::DownstreamLocalIp => ip(record.downstream_local),
            Operator::DownstreamLocalPort => port(record.downstream_local),
            Operator::DownstreamPeerUriSan => record.source.map_or(Self::Absent, Self::Id),
            Operator::DownstreamRemoteAddress => socket(record.downstream_remote),
            Operator::DownstreamRemoteIp => ip(record.downstream_remote),
            Operator::DownstreamRemotePort => port(record.downstream_remote),
            Operator::DownstreamTlsVersion => text(record.tls_version),
            Operator::DownstreamTransportFailureReason => text(record.downstream_failure),
            Operator::Duration => Self::Number(milliseconds(record.duration)),
            Operator::Hostname => text(Some(telemetry::hostname())),
            Operator::Protocol => text(http.map(|h| h.version)),
            Operator::RequestDuration => time(http.and_then(|h| h.request_time)),
            Operator::RequestedServerName => text(record.server_name),
            Operator::ResponseCode => Self::Number(http.map_or(0, |h| h.status.into())),
            Operator::ResponseCodeDetails => text(http.map(|_| record.details)),
            Operator::ResponseDuration => time(http.and_then(|h| h.response_time)),
            Operator::ResponseFlags => text(Some(record.flag.as_str())),
            Operator::ResponseTxDuration => time(http.and_then(|h| h.response_time).map(|began| record.duration.saturating_sub(began))),
            Operator::RouteName => text(record.route),
            Operator::TraceId => http.and_then(|h| h.trace).map_or(Self::Absent, |trace| Self::Text(trace.to_string().into())),
            Operator::UpstreamCluster => text(record.cluster),
            Operator::UpstreamHost => record.endpoint.map_or(Self::Absent, Self::Address),
            Operator::UpstreamLocalAddress => socket(record.upstream_local),
            Operator::UpstreamRequestAttemptCount => Self::Number(record.attempts.into()),
            Operator::UpstreamTransportFailureReason => text(record.transport_failure),
            Operator::VirtualClusterName | Operator::Unknown(_) => Self::Absent,
        }
    }
}

/// A duration in whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The first header of an operator that is there.
fn header<'a>(names: &'a HeaderField, find: impl Fn(&'a Field) -> Option<Cow<'a, str>>) -> Value<'a> {
    find(&names.first).or_else(|| names.otherwise.as_ref().and_then(find)).map_or(Value::Absent, Value::Text)
}

fn request_field<'a>(field: &'a Field, http: &HttpPart<'a>) -> Option<Cow<'a, str>> {
    match field {
        Field::Method => Some(http.method.into()),
        Field::Path => Some(http.path.into()),
        Field::Authority => Some(http.authority.into()),
        // An id that we made is not in the request as it came.
        Field::Header(name) if name == "x-request-id" => http.request_id.map(Cow::Borrowed),
        field => from_map(field, http.request),
    }
}

fn response_field<'a>(field: &'a Field, http: &HttpPart<'a>) -> Option<Cow<'a, str>> {
    match field {
        Field::Status => (http.status > 0).then(|| http.status.to_string().into()),
        Field::Header(name) if name == SERVICE_TIME => {
            let sent = http.response.and_then(|headers| from_map(field, headers));
            sent.or_else(|| Some(milliseconds(http.upstream_time?).to_string().into()))
        }
        field => from_map(field, http.response?),
    }
}

fn from_map<'a>(field: &'a Field, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
    let Field::Header(name) = field else { return None };
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()))
}

fn grpc_status<'a>(status: u16, form: GrpcStatus) -> Value<'a> {
    let names = GRPC.get(usize::from(status));
    match (form, names) {
        (GrpcStatus::Camel, Some((camel, _))) => Value::Text(Cow::Borrowed(camel)),
        (GrpcStatus::Snake, Some((_, snake))) => Value::Text(Cow::Borrowed(snake)),
        _ => Value::Number(status.into()),
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str(ABSENT),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Socket(address) => address.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Id(id) => id.fmt(f),
            Self::Moment(format, at) => format.show(*at).fmt(f),
        }
    }
}

/// A piece with its record, to be shown.
struct ShownPiece<'a>(&'a TextPiece, &'a Record<'a>);

impl fmt::Display for ShownPiece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TextPiece::Text(text) => f.write_str(text),
            TextPiece::Field { operator, length: None } => Value::of(operator, self.1).fmt(f),
            TextPiece::Field { operator, length: Some(most) } => {
                let whole = Value::of(operator, self.1).to_string();
                f.write_str(whole.get(..whole.floor_char_boundary(*most)).unwrap_or_default())
            }
        }
    }
}

/// Writes a line of a text format, whose end is in the format.
pub(super) fn write_text(line: &mut Vec<u8>, format: &TextFormat, record: &Record<'_>) -> io::Result<()> {
    format.0.iter().try_for_each(|piece| write!(line, "{}", ShownPiece(piece, record)))
}

/// A whole text with its record, to be shown.
struct ShownText<'a>(&'a [TextPiece], &'a Record<'a>);

impl fmt::Display for ShownText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| ShownPiece(piece, self.1).fmt(f))
    }
}

/// A JSON format with its record. A text that is one operator and nothing else keeps the type of its value, and is `null` without
/// one; as in Envoy.
pub(super) struct JsonLine<'a> {
    pub(super) format: &'a JsonFormat,
    pub(super) record: &'a Record<'a>,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        match self.format {
            JsonFormat::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(key, format)| map.serialize_entry(&**key, &JsonLine { format, record }))?;
                map.end()
            }
            JsonFormat::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|format| list.serialize_element(&JsonLine { format, record }))?;
                list.end()
            }
            JsonFormat::Literal(value) => value.serialize(serializer),
            JsonFormat::Text(TextFormat(pieces)) => match pieces.as_slice() {
                [piece @ TextPiece::Field { operator, .. }] => match Value::of(operator, record) {
                    Value::Absent => serializer.serialize_none(),
                    Value::Number(number) => serializer.serialize_u64(number),
                    _ => serializer.collect_str(&ShownPiece(piece, record)),
                },
                pieces => serializer.collect_str(&ShownText(pieces, record)),
            },
        }
    }
}

/// A value as its text.
pub(super) struct Shown<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        model::access_log::AccessLog,
        telemetry::{
            record::Flag,
            testing::{http, id, inbound, record},
        },
    };

    /// What a text format makes of a rich request.
    fn text(format: &str) -> String {
        let compiled = TextFormat::compile(format, &mut |_| {}).unwrap();
        let mut line = Vec::new();
        with_record(|record| write_text(&mut line, &compiled, record).unwrap());
        String::from_utf8(line).unwrap()
    }

    fn json_line(format: serde_json::Value) -> String {
        let format = JsonFormat::compile(format, "", &mut |_, _| {}).unwrap();
        let mut line = String::new();
        with_record(|record| line = serde_json::to_string(&JsonLine { format: &format, record }).unwrap());
        line
    }

    fn with_record(look: impl FnOnce(&Record<'_>)) {
        let (listener, source) = (inbound(AccessLog::default(), 0), id("api"));
        let request = HeaderMap::from_iter([
            (http::HeaderName::from_static("user-agent"), http::HeaderValue::from_static("curl/8")),
            (http::HeaderName::from_static("x-weird"), http::HeaderValue::from_bytes(b"a\"b\\c").unwrap()),
        ]);
        let mut response = HeaderMap::new();
        response.append("x-twice", http::HeaderValue::from_static("first"));
        response.append("x-twice", http::HeaderValue::from_static("second"));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-message", http::HeaderValue::from_static("gone"));
        let app = Address::Tcp(([127, 0, 0, 1], 8080).into());
        let part = HttpPart {
            path: "/a/path?q=1",
            request: &request,
            response: Some(&response),
            trailers: Some(&trailers),
            request_id: Some("made-by-us"),
            grpc_status: Some(4),
            upstream_time: Some(Duration::from_micros(3_999)),
            request_time: Some(Duration::from_millis(1)),
            response_time: Some(Duration::from_millis(10)),
            ..http(503)
        };
        look(&Record {
            http: Some(part),
            source: Some(&source),
            flag: Flag::UpstreamConnectionFailure,
            endpoint: Some(&app),
            cluster: Some("local_app"),
            downstream_local: Some(([10, 0, 0, 1], 20000).into()),
            downstream_remote: Some(([10, 0, 0, 2], 3333).into()),
            server_name: Some("web.default.dc1"),
            transport_failure: Some("refused"),
            attempts: 2,
            connection: 7,
            route: Some("route 3"),
            tls_version: Some("TLSv1.3"),
            ..record(&listener)
        });
    }

    #[test]
    fn operators_have_the_values_that_envoy_gives_them() {
        for (format, expected) in [
            ("%START_TIME% %START_TIME(%s.%3f)%", "2023-11-14T22:13:20.042Z 1700000000.042"),
            ("%REQ(:METHOD)% %REQ(:path)% %REQ(:AUTHORITY)% %REQ(Host)%", "GET /a/path?q=1 web web"),
            ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):5% %REQ(x-none?User-Agent)%", "/a/pa curl/8"),
            ("%REQ(x-none)% %REQ(x-none?x-neither)% %REQ(X-Request-Id)%", "- - made-by-us"),
            ("%RESP(X-Twice)% %RESP(x-none)% %RESP(:status)% %TRAILER(grpc-message)%", "first - 503 gone"),
            ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "3"),
            ("%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "HTTP/1.1 503 UF via_upstream"),
            ("%BYTES_RECEIVED% %BYTES_SENT% %DURATION%", "3 5 12"),
            ("%REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "1 10 2"),
            ("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS%", "127.0.0.1:8080 local_app -"),
            ("%UPSTREAM_TRANSPORT_FAILURE_REASON% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "refused 2"),
            ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.2:3333 10.0.0.2"),
            ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.2:3333 10.0.0.2"),
            ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "10.0.0.1:20000 10.0.0.1"),
            ("%DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_REMOTE_PORT%", "20000 3333"),
            ("%REQUESTED_SERVER_NAME% %ROUTE_NAME% %CONNECTION_ID%", "web.default.dc1 route 3 7"),
            ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%", "DeadlineExceeded DEADLINE_EXCEEDED 4"),
            ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://td.consul/ns/default/dc/dc1/svc/api"),
            ("%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TRANSPORT_FAILURE_REASON%", "TLSv1.3 -"),
            ("%CONNECTION_TERMINATION_DETAILS% %VIRTUAL_CLUSTER_NAME% %MOON%", "- - -"),
            ("100%% %REQ(x-weird)%", "100% a\"b\\c"),
        ] {
            assert_eq!(text(format), expected, "{format}");
        }
        assert_ne!(text("%HOSTNAME%"), "-");
    }

    #[test]
    fn envoys_default_text_format_is_understood() {
        const ENVOYS: &str = concat!(
            r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% "#,
            r#"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
            r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%""#,
            "\n"
        );
        let expected = concat!(
            r#"[2023-11-14T22:13:20.042Z] "GET /a/path?q=1 HTTP/1.1" 503 UF 3 5 12 3 "-" "curl/8" "made-by-us" "web" "127.0.0.1:8080""#,
            "\n"
        );
        assert_eq!(text(ENVOYS), expected);
    }

    #[test]
    fn json_keeps_the_types_of_single_operators() {
        let line = json_line(json!({
            "zz": "%RESPONSE_CODE%", "two": "%RESPONSE_CODE%%DURATION%", "text": "code %RESPONSE_CODE% %REQ(x-none)%", "none": "%REQ(x-none)%",
            "cut": "%REQ(:path):3%", "nested": {"b": "%BYTES_SENT%", "a": ["%BYTES_RECEIVED%", "x", {"c": "%PROTOCOL%"}]},
            "five": 5, "yes": true, "null": null, "empty": "", "weird": "%REQ(x-weird)%",
        }));
        let expected = concat!(
            r#"{"cut":"/a/","empty":"","five":5,"nested":{"a":[3,"x",{"c":"HTTP/1.1"}],"b":5},"none":null,"null":null,"#,
            r#""text":"code 503 -","two":"50312","weird":"a\"b\\c","yes":true,"zz":503}"#
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn a_connection_has_no_http_values() {
        let listener = inbound(AccessLog::default(), 0);
        let plain = Record { details: "intention_denied", ..record(&listener) };
        let format = "%REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%";
        let mut line = Vec::new();
        write_text(&mut line, &TextFormat::compile(format, &mut |_| {}).unwrap(), &plain).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), "- - 0 - intention_denied");
    }
}
