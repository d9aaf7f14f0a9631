//! The thread that sends spans to collectors, by OTLP over HTTP.

use std::{collections::HashMap, mem, sync::mpsc::SyncSender, thread, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use prometheus::IntCounter;
use tokio::{
    runtime::Builder,
    sync::mpsc::{self, Receiver, Sender},
    time::{Instant, timeout_at},
};

use super::Settings;
use crate::telemetry::hostname;

/// Requests whose spans may wait for the sending thread.
const QUEUE: usize = 2048;

/// Spans that are sent at once, as in OpenTelemetry's own batches.
const BATCH: usize = 512;

/// How long spans wait for others to be sent with.
const DELAY: Duration = Duration::from_secs(1);

/// What the thread is told.
pub(super) enum Message {
    /// The spans of a request, and where they go.
    Spans(Settings, Vec<SpanData>),
    /// Answer once everything before this is sent.
    Flush(SyncSender<()>),
}

/// Starts the thread; it ends when the queue is dropped. Spans that are not sent are counted in `dropped`.
pub(super) fn start(dropped: IntCounter) -> Sender<Message> {
    let (queue, messages) = mpsc::channel(QUEUE);
    let run = move || match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(Exporter { collectors: HashMap::new(), batches: HashMap::new(), dropped }.run(messages)),
        Err(why) => tracing::error!("no spans are sent: {why}"),
    };
    if let Err(why) = thread::Builder::new().name("traces".to_owned()).spawn(run) {
        // What is sent from now on finds nobody, and is counted.
        tracing::error!("no spans are sent: {why}");
    }
    queue
}

struct Exporter {
    collectors: HashMap<Settings, Collector>,
    /// What waits to be sent.
    batches: HashMap<Settings, Vec<SpanData>>,
    dropped: IntCounter,
}

/// Where the spans of one service go.
struct Collector {
    exporter: SpanExporter,
    /// It took the last batch, or was not tried yet.
    is_well: bool,
}

impl Exporter {
    async fn run(mut self, mut messages: Receiver<Message>) {
        let mut due = None;
        loop {
            let message = match due {
                None => Ok(messages.recv().await),
                Some(at) => timeout_at(at, messages.recv()).await,
            };
            match message {
                Ok(Some(Message::Spans(settings, spans))) => {
                    let batch = self.batches.entry(settings).or_default();
                    batch.extend(spans);
                    due = due.or_else(|| Some(Instant::now() + DELAY));
                    if batch.len() < BATCH {
                        continue;
                    }
                    self.send().await;
                }
                Ok(Some(Message::Flush(done))) => {
                    self.send().await;
                    // Whoever asked may have given up.
                    let _ = done.send(());
                }
                Ok(None) => return self.send().await,
                Err(_) => self.send().await,
            }
            due = None;
        }
    }

    /// Sends what waits.
    async fn send(&mut self) {
        for (settings, spans) in mem::take(&mut self.batches) {
            let lost = spans.len() as u64;
            let sent = match self.collectors.get_mut(&settings) {
                Some(collector) => collector.send(&settings, spans).await,
                None => match Collector::new(&settings) {
                    Ok(new) => self.collectors.entry(settings.clone()).or_insert(new).send(&settings, spans).await,
                    Err(why) => {
                        tracing::warn!(endpoint = &*settings.endpoint, "spans cannot be sent: {why}");
                        false
                    }
                },
            };
            if !sent {
                self.dropped.inc_by(lost);
            }
        }
    }
}

impl Collector {
    fn new(settings: &Settings) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let mut exporter = builder.with_endpoint(&*settings.endpoint).build()?;
        let host = KeyValue::new("host.name", hostname());
        exporter.set_resource(&Resource::builder().with_service_name(settings.service.to_string()).with_attribute(host).build());
        Ok(Self { exporter, is_well: true })
    }

    /// Whether the spans were taken. A collector that is away is told once, until it is back.
    async fn send(&mut self, settings: &Settings, spans: Vec<SpanData>) -> bool {
        let sent = self.exporter.export(spans).await;
        match &sent {
            Err(why) if self.is_well => {
                tracing::warn!(endpoint = &*settings.endpoint, "the collector takes no spans, they are dropped until it does: {why}");
            }
            Ok(()) if !self.is_well => tracing::info!(endpoint = &*settings.endpoint, "the collector takes spans again"),
            _ => {}
        }
        self.is_well = sent.is_ok();
        sent.is_ok()
    }
}
