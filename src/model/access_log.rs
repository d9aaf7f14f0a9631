//! Access log settings, as proxy-defaults `AccessLogs` has them.

use std::{path::PathBuf, sync::Arc};

use http::HeaderName;
use serde::Serialize;

use super::{
    format::{Command, Format, Piece},
    moment::MomentFormat,
};

/// Where access log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// Standard output, Consul's default.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

/// Whether, where and how requests are logged. The default is off, as in Consul.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccessLog {
    /// One line for each request (http) or connection (tcp).
    pub enabled: bool,
    /// Also a line for each connection that was refused before it could be either: `DisableListenerLogs` is not set.
    pub refused: bool,
    /// Where the lines go.
    pub sink: Sink,
    /// What is in a line.
    pub format: LineFormat,
}

/// What is in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// A JSON object with the 24 keys of Consul's default, in its order.
    #[default]
    Standard,
    /// `JSONFormat`.
    Json(JsonFormat),
    /// `TextFormat`; the end of the line is in it.
    Text(TextFormat),
}

/// A JSON value whose texts are formats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonFormat {
    /// An object, sorted by key as Envoy does.
    Object(Vec<(Arc<str>, JsonFormat)>),
    /// A list.
    List(Vec<JsonFormat>),
    /// A text.
    Text(TextFormat),
    /// A number, `true`, `false` or `null` as it stands.
    Literal(serde_json::Value),
}

/// A text with operators in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextFormat(pub Vec<TextPiece>);

/// A piece of a [`TextFormat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextPiece {
    /// Text as it stands.
    Text(Arc<str>),
    /// An operator's value.
    Field {
        /// The operator.
        operator: Operator,
        /// The most bytes of the value that are taken.
        length: Option<usize>,
    },
}

/// A header's name in an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderField {
    /// The header looked at first.
    pub first: Field,
    /// The one taken when that is absent.
    pub otherwise: Option<Field>,
}

/// A header or HTTP/2 pseudo header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// `:method`.
    Method,
    /// `:path`: path and query.
    Path,
    /// `:authority`, which is `Host` in HTTP/1.
    Authority,
    /// `:status`.
    Status,
    /// A header's first line.
    #[serde(serialize_with = "header_name")]
    Header(HeaderName),
}

fn header_name<S: serde::Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

impl Field {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":status" => Self::Status,
            name => Self::Header(HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?),
        })
    }
}

impl HeaderField {
    fn parse(argument: Option<&str>) -> Result<Self, String> {
        let argument = argument.ok_or("it names no header")?;
        let (first, otherwise) = argument.split_once('?').map_or((argument, None), |(first, otherwise)| (first, Some(otherwise)));
        Ok(Self { first: Field::parse(first)?, otherwise: otherwise.map(Field::parse).transpose()? })
    }
}

/// How `%GRPC_STATUS%` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GrpcStatus {
    /// `DeadlineExceeded`.
    Camel,
    /// `DEADLINE_EXCEEDED`.
    Snake,
    /// `4`.
    Number,
}

/// What an operator of Envoy's format language stands for. The ones that mean nothing here are [`Operator::Unknown`] and have no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the variants without a comment are Envoy's operators of the same name, listed in `Operator::parse`")]
pub enum Operator {
    /// `%START_TIME%`, `%START_TIME(format)%`.
    StartTime(MomentFormat),
    /// `%REQ(a?b)%`, of the request as it came.
    Request(HeaderField),
    /// `%RESP(a?b)%`, of the answer as it was sent.
    Response(HeaderField),
    /// `%TRAILER(a?b)%`, of the answer.
    Trailer(HeaderField),
    /// `%GRPC_STATUS%`, `%GRPC_STATUS(…)%`, `%GRPC_STATUS_NUMBER%`.
    GrpcStatus(GrpcStatus),
    BytesReceived,
    BytesSent,
    ConnectionId,
    ConnectionTerminationDetails,
    DownstreamLocalAddress,
    DownstreamLocalIp,
    DownstreamLocalPort,
    DownstreamPeerUriSan,
    DownstreamRemoteAddress,
    DownstreamRemoteIp,
    DownstreamRemotePort,
    DownstreamTlsVersion,
    DownstreamTransportFailureReason,
    Duration,
    Hostname,
    Protocol,
    RequestDuration,
    RequestedServerName,
    ResponseCode,
    ResponseCodeDetails,
    ResponseDuration,
    ResponseFlags,
    ResponseTxDuration,
    RouteName,
    TraceId,
    UpstreamCluster,
    UpstreamHost,
    UpstreamLocalAddress,
    UpstreamRequestAttemptCount,
    UpstreamTransportFailureReason,
    /// No request has one here.
    VirtualClusterName,
    /// Not known; the name.
    Unknown(Arc<str>),
}

impl Operator {
    /// The operator of a command; unknown ones are [`Operator::Unknown`].
    ///
    /// # Errors
    /// What is wrong with the argument.
    fn parse(command: &Command) -> Result<Self, String> {
        let argument = command.argument.as_deref();
        let operator = match &*command.name {
            "START_TIME" => Self::StartTime(argument.filter(|a| !a.is_empty()).map_or(Ok(MomentFormat::default()), MomentFormat::parse)?),
            "REQ" => Self::Request(HeaderField::parse(argument)?),
            "RESP" => Self::Response(HeaderField::parse(argument)?),
            "TRAILER" => Self::Trailer(HeaderField::parse(argument)?),
            "GRPC_STATUS" => Self::GrpcStatus(match argument {
                None | Some("" | "CAMEL_STRING") => GrpcStatus::Camel,
                Some("SNAKE_STRING") => GrpcStatus::Snake,
                Some("NUMBER") => GrpcStatus::Number,
                Some(other) => return Err(format!("{other} is none of CAMEL_STRING, SNAKE_STRING, NUMBER")),
            }),
            "GRPC_STATUS_NUMBER" => Self::GrpcStatus(GrpcStatus::Number),
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "CONNECTION_ID" => Self::ConnectionId,
            "CONNECTION_TERMINATION_DETAILS" => Self::ConnectionTerminationDetails,
            "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => Self::DownstreamLocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocalIp,
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocalPort,
            "DOWNSTREAM_PEER_URI_SAN" => Self::DownstreamPeerUriSan,
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::DownstreamRemoteAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemoteIp,
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Self::DownstreamRemotePort,
            "DOWNSTREAM_TLS_VERSION" => Self::DownstreamTlsVersion,
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Self::DownstreamTransportFailureReason,
            "DURATION" => Self::Duration,
            "HOSTNAME" => Self::Hostname,
            "PROTOCOL" => Self::Protocol,
            "REQUEST_DURATION" => Self::RequestDuration,
            "REQUESTED_SERVER_NAME" => Self::RequestedServerName,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "RESPONSE_TX_DURATION" => Self::ResponseTxDuration,
            "ROUTE_NAME" => Self::RouteName,
            "TRACE_ID" => Self::TraceId,
            "UPSTREAM_CLUSTER" => Self::UpstreamCluster,
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Self::UpstreamHost,
            "UPSTREAM_LOCAL_ADDRESS" => Self::UpstreamLocalAddress,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::UpstreamRequestAttemptCount,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::UpstreamTransportFailureReason,
            "VIRTUAL_CLUSTER_NAME" => Self::VirtualClusterName,
            unknown => Self::Unknown(unknown.into()),
        };
        Ok(operator)
    }
}

impl TextFormat {
    /// Compiles a text. Operators that are not known are told to `unknown` and have no value.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn compile(text: &str, unknown: &mut dyn FnMut(&str)) -> Result<Self, String> {
        let piece = |piece: Piece| {
            Ok(match piece {
                Piece::Text(text) => TextPiece::Text(text),
                Piece::Command(command) => {
                    let operator = Operator::parse(&command).map_err(|why| format!("%{}%: {why}", command.name))?;
                    if let Operator::Unknown(name) = &operator {
                        unknown(name);
                    }
                    TextPiece::Field { operator, length: command.length }
                }
            })
        };
        Format::parse(text)?.pieces.into_iter().map(piece).collect::<Result<_, String>>().map(Self)
    }
}

impl AccessLog {
    /// Whether a line says something of an answer's trailers.
    pub fn reads_trailers(&self) -> bool {
        match &self.format {
            LineFormat::Standard => false,
            LineFormat::Json(format) => format.reads_trailers(),
            LineFormat::Text(format) => format.reads_trailers(),
        }
    }
}

impl TextFormat {
    fn reads_trailers(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, TextPiece::Field { operator: Operator::Trailer(_), .. }))
    }
}

impl JsonFormat {
    fn reads_trailers(&self) -> bool {
        match self {
            Self::Object(fields) => fields.iter().any(|(_, format)| format.reads_trailers()),
            Self::List(items) => items.iter().any(Self::reads_trailers),
            Self::Text(format) => format.reads_trailers(),
            Self::Literal(_) => false,
        }
    }

    /// Compiles a JSON value; `path` says where it stands. Operators that are not known are told to `unknown`, with their place.
    ///
    /// # Errors
    /// What is wrong with the form of a text in it, with its place.
    pub fn compile(value: serde_json::Value, path: &str, unknown: &mut dyn FnMut(&str, &str)) -> Result<Self, String> {
        Ok(match value {
            serde_json::Value::Object(fields) => {
                let field = |(key, value): (String, _)| {
                    let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    Ok((key.into(), Self::compile(value, &inner, unknown)?))
                };
                Self::Object(fields.into_iter().map(field).collect::<Result<_, String>>()?)
            }
            serde_json::Value::Array(items) => {
                let item = |(at, item)| Self::compile(item, &format!("{path}[{at}]"), unknown);
                Self::List(items.into_iter().enumerate().map(item).collect::<Result<_, _>>()?)
            }
            serde_json::Value::String(text) => {
                let compiled = TextFormat::compile(&text, &mut |name| unknown(path, name));
                Self::Text(compiled.map_err(|why| format!("{path}: {why}"))?)
            }
            literal => Self::Literal(literal),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_operators_are_told_with_their_place() {
        let mut told = Vec::new();
        let value = json!({"a": "%DURATION%", "b": ["x", {"c": "%FILTER_STATE(k)% %MOON%"}], "n": 1});
        JsonFormat::compile(value, "", &mut |path, name| told.push(format!("{path}: {name}"))).unwrap();
        assert_eq!(told, ["b[1].c: FILTER_STATE", "b[1].c: MOON"]);
    }

    #[test]
    fn a_broken_format_names_its_place() {
        for (bad, expected) in [
            ("%REQ%", "k: %REQ%: it names no header"),
            ("%REQ(a b)%", "k: %REQ%: \"a b\" is no header name"),
            ("%START_TIME(%Q)%", "k: %START_TIME%: %Q is no conversion of a time"),
            ("%GRPC_STATUS(ROMAN)%", "k: %GRPC_STATUS%: ROMAN is none of CAMEL_STRING, SNAKE_STRING, NUMBER"),
            ("50 %", "k: byte 3: not a command"),
        ] {
            let refused = JsonFormat::compile(json!({"k": bad}), "", &mut |_, _| {}).unwrap_err();
            assert_eq!(refused, expected, "{bad}");
        }
    }
}
