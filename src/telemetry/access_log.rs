//! The access log: one JSON line a request or TCP connection.
//!
//! Keys and their order are those of Consul's default format (proxy-defaults `AccessLogs` without `JSONFormat`), which is Envoy's.
//! The data path formats a line and hands it over; a thread of its own writes. When that thread falls behind, lines are dropped
//! and counted: a slow disk or a full pipe never slows a request.

use std::{
    collections::HashMap,
    fmt,
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use prometheus::IntCounter;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use super::record::{HttpPart, Record};
use crate::model::{
    access_log::{AccessLog, Sink},
    listener::Address,
};

/// Lines that may wait for the writing thread.
const QUEUE: usize = 8192;

/// How long [`AccessLogger::flush`] waits before it asks a full queue again.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);

/// The front end of the writing thread, which ends when this is dropped.
#[derive(Debug)]
pub struct AccessLogger {
    queue: SyncSender<Message>,
    dropped: IntCounter,
}

enum Message {
    /// A line, and the settings that say where it goes.
    Line(Arc<AccessLog>, Vec<u8>),
    /// Answer once everything before this is written.
    Flush(SyncSender<()>),
}

impl AccessLogger {
    /// Starts the writing thread. Lines that cannot be written are counted in `dropped`.
    ///
    /// # Errors
    /// [`io::Error`] when the system gives no thread.
    pub fn start(dropped: IntCounter) -> io::Result<Self> {
        Self::start_with(dropped, Writer::default())
    }

    fn start_with(dropped: IntCounter, mut writer: Writer) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let lost = dropped.clone();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&lines, &lost))?;
        Ok(Self { queue, dropped })
    }

    /// Logs a record if its listener wants that. Never waits.
    pub fn log(&self, record: &Record<'_>) {
        let settings = &record.listener.access_log;
        if !settings.enabled {
            return;
        }
        let mut line = Vec::with_capacity(1024);
        let formatted = serde_json::to_writer(&mut line, &Line::of(record));
        line.push(b'\n');
        if formatted.is_err() || self.queue.try_send(Message::Line(settings.clone(), line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits, blocking the thread, until everything logged before is written; `false` when that takes longer than `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, written) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(refused) = self.queue.try_send(message) {
            let TrySendError::Full(again) = refused else { return false };
            if Instant::now() >= deadline {
                return false;
            }
            message = again;
            thread::sleep(FLUSH_PAUSE);
        }
        written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

/// The writing thread's sinks, opened when first used.
#[derive(Default)]
struct Writer {
    open: HashMap<Sink, BufWriter<Box<dyn Write + Send>>>,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Message>, dropped: &IntCounter) {
        while let Ok(first) = queue.recv() {
            // Whatever waits is written before anything is flushed: one system call for many lines under load.
            for message in std::iter::once(first).chain(queue.try_iter()) {
                match message {
                    Message::Line(settings, line) => self.write(&settings.sink, &line, dropped),
                    Message::Flush(done) => {
                        self.flush(dropped);
                        // The one who asked may have stopped waiting.
                        let _ = done.send(());
                    }
                }
            }
            self.flush(dropped);
        }
    }

    fn write(&mut self, sink: &Sink, line: &[u8], dropped: &IntCounter) {
        if let Err(why) = self.try_write(sink, line) {
            self.lose(sink, &why, dropped);
        }
    }

    fn try_write(&mut self, sink: &Sink, line: &[u8]) -> io::Result<()> {
        if !self.open.contains_key(sink) {
            self.open.insert(sink.clone(), BufWriter::new(open(sink)?));
        }
        self.open.get_mut(sink).map_or(Ok(()), |writer| writer.write_all(line))
    }

    fn flush(&mut self, dropped: &IntCounter) {
        let failed: Vec<_> = self.open.iter_mut().filter_map(|(sink, writer)| Some((sink.clone(), writer.flush().err()?))).collect();
        failed.iter().for_each(|(sink, why)| self.lose(sink, why, dropped));
    }

    /// Counts a loss and lets the sink go, with whatever it holds: the next line opens it anew.
    fn lose(&mut self, sink: &Sink, why: &io::Error, dropped: &IntCounter) {
        dropped.inc();
        tracing::warn!(?sink, %why, "access log lines are lost: the sink cannot be written");
        if let Some(writer) = self.open.remove(sink) {
            // Not dropped as it is: that would try to write once more.
            let _ = writer.into_parts();
        }
    }
}

fn open(sink: &Sink) -> io::Result<Box<dyn Write + Send>> {
    Ok(match sink {
        Sink::Stdout => Box::new(io::stdout()),
        Sink::Stderr => Box::new(io::stderr()),
        Sink::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

/// The 24 keys in their order. Numbers are numbers; what does not apply is `null`.
#[derive(Serialize)]
struct Line<'a> {
    start_time: Start,
    route_name: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
    /// 0 when no status was sent, and for TCP: as Envoy writes it.
    response_code: u16,
    response_flags: &'static str,
    response_code_details: Option<&'a str>,
    connection_termination_details: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u128,
    upstream_service_time: Option<u128>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    authority: Option<&'a str>,
    upstream_host: Option<Shown<&'a Address>>,
    upstream_cluster: Option<&'a str>,
    upstream_local_address: Option<Shown<SocketAddr>>,
    downstream_local_address: Option<Shown<SocketAddr>>,
    downstream_remote_address: Option<Shown<SocketAddr>>,
    requested_server_name: Option<&'a str>,
    upstream_transport_failure_reason: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(record: &Record<'a>) -> Self {
        let http: Option<&HttpPart<'a>> = record.http.as_ref();
        Self {
            start_time: Start(record.start),
            // Routes have no names yet.
            route_name: None,
            method: http.map(|h| h.method),
            path: http.map(|h| h.path),
            protocol: http.map(|h| h.version),
            response_code: http.map_or(0, |h| h.status),
            response_flags: record.flag.as_str(),
            response_code_details: http.is_some().then_some(record.details),
            connection_termination_details: http.is_none().then_some(record.details),
            bytes_received: record.received,
            bytes_sent: record.sent,
            duration: record.duration.as_millis(),
            upstream_service_time: http.and_then(|h| h.upstream_time).map(|time| time.as_millis()),
            x_forwarded_for: http.and_then(|h| h.forwarded_for),
            user_agent: http.and_then(|h| h.user_agent),
            request_id: http.and_then(|h| h.request_id),
            authority: http.map(|h| h.authority),
            upstream_host: record.endpoint.map(Shown),
            upstream_cluster: record.cluster,
            upstream_local_address: record.upstream_local.map(Shown),
            downstream_local_address: record.downstream_local.map(Shown),
            downstream_remote_address: record.downstream_remote.map(Shown),
            requested_server_name: record.server_name,
            upstream_transport_failure_reason: record.transport_failure,
        }
    }
}

/// A value as its text.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A moment in RFC 3339 with milliseconds, UTC.
struct Start(SystemTime);

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = OffsetDateTime::from(self.0);
        let (date, (hour, minute, second, milli)) = (at.date(), at.time().as_hms_milli());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        serializer.collect_str(&format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"))
    }
}

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;
    use crate::telemetry::{
        record::Flag,
        testing::{http, inbound, record},
    };

    const PATIENCE: Duration = Duration::from_secs(10);

    fn file_log(path: &std::path::Path) -> AccessLog {
        AccessLog { enabled: true, sink: Sink::File(path.to_owned()) }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[test]
    fn a_request_is_one_line_with_the_24_keys_in_order() {
        let (dir, dropped) = (tempfile::tempdir().unwrap(), counter());
        let path = dir.path().join("access.log");
        let listener = inbound(file_log(&path), 0);
        let logger = AccessLogger::start(dropped.clone()).unwrap();
        let app = Address::Tcp(([127, 0, 0, 1], 8080).into());
        let part = HttpPart { upstream_time: Some(Duration::from_micros(3_999)), user_agent: Some("curl"), ..http(200) };
        logger.log(&Record { http: Some(part), endpoint: Some(&app), cluster: Some("local_app"), ..record(&listener) });
        assert!(logger.flush(PATIENCE));
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = concat!(
            r#"{"start_time":"2023-11-14T22:13:20.042Z","route_name":null,"method":"GET","path":"/","protocol":"HTTP/1.1","#,
            r#""response_code":200,"response_flags":"-","response_code_details":"via_upstream","connection_termination_details":null,"#,
            r#""bytes_received":3,"bytes_sent":5,"duration":12,"upstream_service_time":3,"x_forwarded_for":null,"user_agent":"curl","#,
            r#""request_id":null,"authority":"web","upstream_host":"127.0.0.1:8080","upstream_cluster":"local_app","#,
            r#""upstream_local_address":null,"downstream_local_address":null,"downstream_remote_address":null,"#,
            r#""requested_server_name":null,"upstream_transport_failure_reason":null}"#,
            "\n"
        );
        assert_eq!(text, expected);
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_connection_has_no_http_values() {
        let listener = inbound(AccessLog::default(), 0);
        let record = Record { flag: Flag::Unauthorized, details: "intention_denied", ..record(&listener) };
        let line = serde_json::to_value(Line::of(&record)).unwrap();
        for key in ["method", "path", "protocol", "authority", "response_code_details", "upstream_service_time"] {
            assert_eq!(line[key], Value::Null, "{key}");
        }
        assert_eq!(line["response_code"], json!(0));
        assert_eq!(line["response_flags"], json!("UAEX"));
        assert_eq!(line["connection_termination_details"], json!("intention_denied"));
    }

    #[test]
    fn nothing_is_written_where_the_log_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let listener = inbound(AccessLog { enabled: false, ..file_log(&path) }, 0);
        let logger = AccessLogger::start(counter()).unwrap();
        logger.log(&record(&listener));
        assert!(logger.flush(PATIENCE));
        assert!(!path.exists());
    }

    #[test]
    fn a_sink_that_cannot_be_written_costs_lines_and_nothing_else() {
        let (dir, dropped) = (tempfile::tempdir().unwrap(), counter());
        let (bad, good) = (dir.path().join("absent/access.log"), dir.path().join("access.log"));
        let logger = AccessLogger::start(dropped.clone()).unwrap();
        logger.log(&record(&inbound(file_log(&bad), 0)));
        logger.log(&record(&inbound(file_log(&good), 0)));
        assert!(logger.flush(PATIENCE));
        assert_eq!(dropped.get(), 1);
        assert_eq!(std::fs::read_to_string(&good).unwrap().lines().count(), 1);
    }

    /// Stands still until the test drops the other end.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_sink_never_holds_up_the_data_path() {
        let (release, gate) = mpsc::channel();
        let sink: BufWriter<Box<dyn Write + Send>> = BufWriter::with_capacity(0, Box::new(Stuck(gate)));
        let (dropped, listener) = (counter(), inbound(AccessLog { enabled: true, sink: Sink::Stdout }, 0));
        let logger = AccessLogger::start_with(dropped.clone(), Writer { open: HashMap::from([(Sink::Stdout, sink)]) }).unwrap();
        let sent = QUEUE + 100;
        (0..sent).for_each(|_| logger.log(&record(&listener)));
        // One line may be with the thread already.
        assert!((99..=100).contains(&dropped.get()), "{} dropped", dropped.get());
        drop(release);
        assert!(logger.flush(PATIENCE));
    }

    proptest::proptest! {
        #[test]
        fn any_text_stays_one_valid_line(path in "\\PC*|[\\x00-\\x1f\"\\\\]{0,20}", agent in proptest::option::of(".*")) {
            let listener = inbound(AccessLog::default(), 0);
            let part = HttpPart { path: &path, user_agent: agent.as_deref(), ..http(200) };
            let line = serde_json::to_string(&Line::of(&Record { http: Some(part), ..record(&listener) })).unwrap();
            proptest::prop_assert!(!line.contains('\n'));
            let back: Value = serde_json::from_str(&line).unwrap();
            proptest::prop_assert_eq!(&back["path"], &json!(path));
            proptest::prop_assert_eq!(&back["user_agent"], &json!(agent));
        }
    }
}
