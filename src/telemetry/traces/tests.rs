use aralez_integration::{net::Listener, otlp::Collector as Receiver};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::Status;

use super::*;
use crate::{
    model::tracing::{Forms, Sampling},
    telemetry::{
        record::Flag,
        testing::{http, inbound, record},
    },
};

const PATIENCE: Duration = Duration::from_secs(20);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

fn settings(endpoint: &str, sampling: Sampling) -> Settings {
    Arc::new(Tracing { endpoint: format!("{endpoint}/v1/traces").into(), service: "web".into(), sampling, propagate: Forms::default() })
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn begin(sampling: Sampling, fields: &[(&'static str, &str)]) -> Option<Trace> {
    Trace::begin(&settings("http://127.0.0.1:1", sampling), &headers(fields), Instant::now())
}

fn dropped() -> IntCounter {
    IntCounter::new("dropped", "dropped").unwrap()
}

#[test]
fn whoever_began_a_trace_has_decided_and_others_are_drawn() {
    let (yes, no) = (format!("{PARENT}-01"), format!("{PARENT}-00"));
    for sampling in [Sampling::NONE, Sampling::ALL] {
        assert!(begin(sampling, &[("traceparent", &yes)]).unwrap().is_sampled());
        assert!(begin(sampling, &[("traceparent", &no)]).is_none(), "nothing is to be said: the headers pass as they are");
        assert!(begin(sampling, &[("x-client-trace-id", "1")]).unwrap().is_sampled());
    }
    assert!(begin(Sampling::NONE, &[]).is_none());
    assert!(begin(Sampling::ALL, &[]).unwrap().is_sampled());
    // Of many about a quarter, and the others are told of that.
    let drawn: Vec<Trace> = (0..4000).map(|_| begin(Sampling::of(0.25).unwrap(), &[]).unwrap()).collect();
    let sampled = drawn.iter().filter(|trace| trace.is_sampled()).count();
    assert!((800..1200).contains(&sampled), "{sampled} of 4000");
}

fn passed_on(trace: &Trace) -> Vec<(&'static str, Option<String>)> {
    let mut all = Vec::new();
    trace.pass_on(|name, value| all.push((name, value)));
    all
}

#[test]
fn a_trace_is_passed_on_in_the_form_it_came_in_and_in_those_that_are_asked_for() {
    let names = |trace: &Trace| passed_on(trace).into_iter().map(|(name, value)| (name, value.is_some())).collect::<Vec<_>>();
    let yes = format!("{PARENT}-01");
    assert_eq!(names(&begin(Sampling::NONE, &[("traceparent", &yes), ("tracestate", "a=b")]).unwrap()), [("traceparent", true)]);
    assert_eq!(names(&begin(Sampling::NONE, &[("b3", "1")]).unwrap()), [("b3", true)]);
    let several = ["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"].map(|name| (name, true));
    assert_eq!(names(&begin(Sampling::NONE, &[("x-b3-sampled", "1")]).unwrap()), several);
    // A new trace has no state; neither has one whose traceparent nobody can read.
    for fields in [&[][..], &[("traceparent", "00-x"), ("tracestate", "a=b")]] {
        assert_eq!(names(&begin(Sampling::ALL, fields).unwrap()), [("tracestate", false), ("traceparent", true)]);
    }
    let both =
        Arc::new(Tracing { propagate: Forms { w3c: true, b3: true, b3_multi: false }, ..(*settings("http://a", Sampling::ALL)).clone() });
    let trace = Trace::begin(&both, &headers(&[("traceparent", &yes)]), Instant::now()).unwrap();
    assert_eq!(names(&trace), [("traceparent", true), ("b3", true)]);
}

#[test]
fn where_there_is_no_span_of_ours_the_callers_stands() {
    // The decision was left to us, and is passed on.
    let deferred = [("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331")];
    let trace = begin(Sampling::of(1e-18).unwrap(), &deferred).unwrap();
    let expected = ("b3", Some("0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0".to_owned()));
    assert_eq!((trace.is_sampled(), passed_on(&trace)), (false, vec![expected]));
}

#[test]
fn the_spans_are_the_steps_below_the_request() {
    let mut trace = begin(Sampling::NONE, &[("traceparent", &format!("{PARENT}-01"))]).unwrap();
    let earlier = trace.begun - Duration::from_millis(5);
    trace.preceded(Step::Tls, earlier, trace.begun);
    trace.lap(Step::Route, || None, || None);
    trace.lap(Step::Connect, || Some("127.0.0.1:1".to_owned()), || Some("refused".to_owned()));
    assert_eq!(trace.of_try(), Step::Connect);
    trace.lap(Step::Connect, || None, || None);
    assert_eq!(trace.of_try(), Step::Forward);
    let told = passed_on(&trace).remove(0).1.unwrap();
    trace.close(|| None);
    let (listener, refused) = (inbound(Default::default(), 0), std::io::Error::other("no such luck"));
    let record =
        Record { http: Some(http(503)), flag: Flag::UpstreamReset, details: "upstream_reset", why: Some(&refused), ..record(&listener) };
    let spans = spans::of(&trace, &record);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["GET", "tls", "route", "connect", "connect", "forward", "record"]);
    let root = &spans[0];
    assert_eq!((root.parent_span_id.to_string(), root.parent_span_is_remote), ("b7ad6b7169203331".to_owned(), true));
    assert_eq!(root.status, Status::error("no such luck"));
    assert!(spans.iter().skip(1).all(|span| span.parent_span_id == root.span_context.span_id()));
    assert_eq!(spans[3].status, Status::error("refused"));
    // Whoever is called has the step that calls above it.
    assert_eq!(told, format!("00-{}-{}-01", root.span_context.trace_id(), spans[5].span_context.span_id()));
    assert_eq!((root.start_time, spans[1].start_time), (record.start, record.start - Duration::from_millis(5)));
    assert!(spans.windows(2).skip(2).all(|pair| pair[0].end_time == pair[1].start_time), "where one ends the next begins");
    let attribute = |key: &str| root.attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.to_string());
    assert_eq!(attribute("error.type").as_deref(), Some("upstream_reset"));
    assert_eq!(attribute("http.response.status_code").as_deref(), Some("503"));
}

#[test]
fn queries_are_in_no_span() {
    let trace = begin(Sampling::ALL, &[]).unwrap();
    let listener = inbound(Default::default(), 0);
    let part = crate::telemetry::record::HttpPart { path: "/pay?card=4111", ..http(200) };
    let spans = spans::of(&trace, &Record { http: Some(part), ..record(&listener) });
    assert!(!format!("{spans:?}").contains("4111") && format!("{spans:?}").contains("/pay"));
}

/// Sends the spans of `count` requests.
fn send(traces: &Traces, settings: &Settings, count: usize) {
    let listener = inbound(Default::default(), 0);
    for _ in 0..count {
        let trace = Trace::begin(settings, &HeaderMap::new(), Instant::now()).unwrap();
        traces.send(&Record { http: Some(http(200)), trace: Some(&trace), ..record(&listener) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_every_span() {
    let (receiver, traces) = (Receiver::start().await.unwrap(), Traces::new(dropped()));
    send(&traces, &settings(&receiver.endpoint, Sampling::ALL), 1000);
    assert!(tokio::task::block_in_place(|| traces.flush(PATIENCE)));
    let spans = receiver.spans();
    assert_eq!((spans.len(), traces.dropped.get()), (2000, 0));
    assert!(spans.iter().all(|span| span.service == "web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_spans_and_nothing_else() {
    // The kernel takes the connection, and nobody ever answers.
    let (_silent, address) = Listener::loopback().await.unwrap();
    let traces = Traces::new(dropped());
    let (silent, begun) = (settings(&format!("http://{address}"), Sampling::ALL), Instant::now());
    send(&traces, &silent, 6000);
    assert!(begun.elapsed() < Duration::from_secs(8), "sending took {:?}", begun.elapsed());
    assert!(traces.dropped.get() > 0, "the queue has no bound");
    assert!(!tokio::task::block_in_place(|| traces.flush(Duration::from_millis(50))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_does_not_take_is_counted() {
    let (gone, address) = Listener::loopback().await.unwrap();
    drop(gone);
    let traces = Traces::new(dropped());
    send(&traces, &settings(&format!("http://{address}"), Sampling::ALL), 3);
    assert!(tokio::task::block_in_place(|| traces.flush(PATIENCE)));
    assert_eq!(traces.dropped.get(), 6);
}

#[test]
fn without_a_span_there_is_no_thread() {
    let traces = Traces::new(dropped());
    let listener = inbound(Default::default(), 0);
    let unsampled = Trace::begin(&settings("http://a", Sampling::of(1e-18).unwrap()), &HeaderMap::new(), Instant::now());
    traces.send(&record(&listener));
    traces.send(&Record { trace: unsampled.as_ref(), ..record(&listener) });
    assert!(traces.queue.get().is_none() && traces.flush(Duration::ZERO));
}
