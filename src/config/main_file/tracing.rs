//! `tracing`: where spans go, and which requests have some.

use serde_json::{Value, json};

use super::raw::Tracing;
use crate::{
    config::{
        fault::Check,
        shape::{At, Definitions, Of, Shape, Text, Wrong, mismatch},
        tree::{Kind, Node},
    },
    model::tracing::{Collector, Forms, Sampling, TracingSettings},
};

impl Text for Collector {
    fn parse(text: &str) -> Result<Self, Wrong> {
        Self::parse(text)
            .map_err(|why| (why, "write http://HOST:PORT of its OTLP/HTTP receiver, for example http://127.0.0.1:4318, or off".into()))
    }
}

/// A share: a number from 0 to 1, or percent.
impl Shape for Sampling {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let share = match &node.kind {
            Kind::Integer(value) => Self::parse(&value.to_string()).ok(),
            Kind::Float(value) => Self::of(*value),
            Kind::Text { text, .. } => Self::parse(text).ok(),
            _ => None,
        };
        share.or_else(|| mismatch(node, "a share (0 to 1, or a text such as \"1%\")", check))
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": "^([0-9.]+ *%?|.*\\$\\{[A-Za-z0-9_]+\\}.*)$"}]})
    }
}

/// What the file says.
pub(super) fn tracing(raw: Option<&At<Tracing>>, check: &mut Check) -> TracingSettings {
    let Some(At { value, .. }) = raw else { return TracingSettings::default() };
    let propagate = value.propagate.as_ref().map(|At { value: words, place }| {
        let forms = Forms::parse(words.0.iter().map(|word| word.value.as_str()));
        forms.unwrap_or_else(|why| {
            check.fault(place, why, "name the headers that a trace is passed on in");
            Forms::default()
        })
    });
    TracingSettings {
        endpoint: value.endpoint.as_ref().map(|At { value: Of(collector), .. }| collector.clone()),
        service: value.service_name.as_ref().map(|name| name.value.as_str().into()),
        sampling: value.sampling.as_ref().map(|share| share.value),
        propagate,
    }
}
