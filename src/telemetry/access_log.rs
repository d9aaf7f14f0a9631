//! The access log: one line a request or TCP connection.
//!
//! Without a format of one's own a line is JSON; its keys and their order are those of Consul's default format (proxy-defaults
//! `AccessLogs` without `JSONFormat`), which is Envoy's. The data path formats a line and hands it over; a thread of its own writes.
//! When that thread falls behind, lines are dropped and counted: a slow disk or a full pipe never slows a request.

mod fields;
mod standard;
mod writer;

use std::{
    io::{self, Write},
    sync::{
        Arc,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;

use self::{fields::JsonLine, standard::Line, writer::Writer};
use super::record::Record;
use crate::model::access_log::{AccessLog, LineFormat};

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
    /// Open every file anew.
    Reopen,
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
        let formatted = write_line(&mut line, &settings.format, record);
        if formatted.is_err() || self.queue.try_send(Message::Line(settings.clone(), line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Logs a connection that was refused before it could become a request, unless its listener is told not to
    /// (`DisableListenerLogs`). Never waits.
    pub fn log_refused(&self, record: &Record<'_>) {
        if record.listener.access_log.refused {
            self.log(record);
        }
    }

    /// Opens the files anew before the next line: log rotation moves them away. Where the queue is full this is left out, for a file that was moved
    /// is noticed within a second anyway.
    pub fn reopen(&self) {
        let _ = self.queue.try_send(Message::Reopen);
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

/// Writes a record's line with its end.
fn write_line(line: &mut Vec<u8>, format: &LineFormat, record: &Record<'_>) -> io::Result<()> {
    match format {
        LineFormat::Standard => serde_json::to_writer(&mut *line, &Line::of(record))?,
        LineFormat::Json(format) => serde_json::to_writer(&mut *line, &JsonLine { format, record })?,
        LineFormat::Text(format) => return fields::write_text(line, format, record),
    }
    line.write_all(b"\n")
}

#[cfg(test)]
mod tests {

    use std::{collections::HashMap, io::BufWriter, sync::mpsc::Receiver};

    use serde_json::{Value, json};

    use super::{writer::Opened, *};
    use crate::{
        model::{access_log::Sink, listener::Address},
        telemetry::{
            record::{Flag, HttpPart},
            testing::{http, inbound, record},
        },
    };

    const PATIENCE: Duration = Duration::from_secs(10);

    fn file_log(path: &std::path::Path) -> AccessLog {
        AccessLog { enabled: true, sink: Sink::File(path.to_owned()), ..AccessLog::default() }
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
    fn refused_connections_have_a_line_where_that_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let logger = AccessLogger::start(counter()).unwrap();
        for refused in [false, true] {
            let listener = inbound(AccessLog { refused, ..file_log(&path) }, 0);
            logger.log_refused(&Record { details: "tls_handshake_failed", ..record(&listener) });
        }
        assert!(logger.flush(PATIENCE));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(r#""connection_termination_details":"tls_handshake_failed""#), "{text}");
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
        let stuck: Box<dyn Write + Send> = Box::new(Stuck(gate));
        let sink = Opened { writer: BufWriter::with_capacity(0, stuck), file: None };
        let (dropped, listener) = (counter(), inbound(AccessLog { enabled: true, ..AccessLog::default() }, 0));
        let logger =
            AccessLogger::start_with(dropped.clone(), Writer { open: HashMap::from([(Sink::Stdout, sink)]), ..Writer::default() }).unwrap();
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
