//! Tracing: where spans go, which requests have some, and in which headers a trace is passed on.

use std::sync::Arc;

use http::Uri;
use serde::{Serialize, Serializer};

/// Where collectors take traces of OTLP over HTTP (OpenTelemetry Protocol Specification, "OTLP/HTTP Request").
const TRACES_PATH: &str = "/v1/traces";

/// How a listener takes part in traces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Tracing {
    /// The URL of the collector's traces.
    pub endpoint: Arc<str>,
    /// `service.name` of the spans.
    pub service: Arc<str>,
    /// Which requests without a trace begin one.
    pub sampling: Sampling,
    /// In which forms a trace is passed on beside those that it came in.
    pub propagate: Forms,
}

/// What somebody said of tracing; `None` is left to whoever else may say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TracingSettings {
    /// Where spans go.
    pub endpoint: Option<Collector>,
    /// `service.name` of the spans.
    pub service: Option<Arc<str>>,
    /// Which requests without a trace begin one.
    pub sampling: Option<Sampling>,
    /// In which forms a trace is passed on beside those that it came in.
    pub propagate: Option<Forms>,
}

impl TracingSettings {
    /// How the listeners of `service` take part, where `defaults` hold for what is not said here; `None` without a collector.
    pub fn resolve(&self, defaults: &Self, service: &str) -> Option<Arc<Tracing>> {
        let Some(Collector::At(endpoint)) = self.endpoint.as_ref().or(defaults.endpoint.as_ref()) else { return None };
        Some(Arc::new(Tracing {
            endpoint: endpoint.clone(),
            service: self.service.as_ref().or(defaults.service.as_ref()).map_or_else(|| service.into(), Arc::clone),
            sampling: self.sampling.or(defaults.sampling).unwrap_or_default(),
            propagate: self.propagate.or(defaults.propagate).unwrap_or_default(),
        }))
    }
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Collector {
    /// Nowhere: there are none.
    Off,
    /// The URL of a collector's traces.
    At(Arc<str>),
}

impl Collector {
    /// `off`, or the URL of a collector; `/v1/traces` is added unless it stands there.
    ///
    /// # Errors
    /// Why it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.query().is_none() && !text.contains('#'));
        let fine = uri.is_some_and(|uri| {
            let Some(authority) = uri.authority() else { return false };
            let is_plain = !authority.as_str().contains('@') && !authority.as_str().ends_with(':') && authority.port_u16() != Some(0);
            matches!(uri.scheme_str(), Some("http" | "https")) && !authority.host().is_empty() && is_plain
        });
        if !fine {
            return Err(format!("{text:?} is no URL of a collector"));
        }
        let base = text.trim_end_matches('/');
        Ok(Self::At(format!("{}{TRACES_PATH}", base.strip_suffix(TRACES_PATH).unwrap_or(base)).into()))
    }
}

/// The share of requests without a trace that begin one, kept as OpenTelemetry's ratio sampler keeps it: the bound below which the lower 63 bits of a
/// trace's id must lie, so that every SDK with the same share decides the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sampling(u64);

impl Sampling {
    /// Of all shares the greatest bound: the lower 63 bits of an id are below it.
    const WHOLE: u64 = 1 << 63;

    /// Every request.
    pub const ALL: Self = Self(Self::WHOLE);
    /// No request.
    pub const NONE: Self = Self(0);

    /// A share from 0 to 1; nothing else is one.
    pub fn of(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self((share * Self::WHOLE as f64) as u64))
    }

    /// A share as text: `0.01` or `1%`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = text.trim().strip_suffix('%').map_or((text.trim(), 1.0), |percent| (percent.trim_end(), 0.01));
        let share = number.parse::<f64>().ok().and_then(|number| Self::of(number * unit));
        share.ok_or_else(|| format!("{text:?} is no share, 0 to 1 or 0% to 100%"))
    }

    /// Whether no request begins a trace.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Whether the trace with this id is one of those that are sampled.
    pub fn takes(self, trace: u128) -> bool {
        (trace as u64 & (Self::WHOLE - 1)) < self.0
    }
}

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / Self::WHOLE as f64)
    }
}

/// Forms of headers in which a trace is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Forms {
    /// `traceparent` and `tracestate` (W3C Trace Context).
    pub w3c: bool,
    /// `b3` (Zipkin's single header).
    pub b3: bool,
    /// `X-B3-TraceId` and its companions (Zipkin's several headers).
    pub b3_multi: bool,
}

impl Forms {
    /// The forms that words name: `w3c`, `b3`, `b3multi`, also as OpenTelemetry calls them.
    ///
    /// # Errors
    /// A word that names none.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut forms = Self::default();
        for word in words {
            match word {
                "w3c" | "tracecontext" => forms.w3c = true,
                "b3" => forms.b3 = true,
                "b3multi" => forms.b3_multi = true,
                other => return Err(format!("{other:?} is none of w3c, b3, b3multi")),
            }
        }
        Ok(forms)
    }

    /// These and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { w3c: self.w3c || other.w3c, b3: self.b3 || other.b3, b3_multi: self.b3_multi || other.b3_multi }
    }

    /// Whether it is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_url_and_its_path_is_added() {
        let at = |url: &str| Ok(Collector::At(url.into()));
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/", "https://otel.example/v1/traces"),
            ("http://[::1]:4318/tenant/", "http://[::1]:4318/tenant/v1/traces"),
            ("http://a/v1/traces", "http://a/v1/traces"),
        ] {
            assert_eq!(Collector::parse(text), at(url), "{text}");
        }
        assert_eq!(Collector::parse("off"), Ok(Collector::Off));
        for bad in [
            "",
            "127.0.0.1:4318",
            "grpc://a:4317",
            "http://",
            "http://u:p@a",
            "http://a:0",
            "http://a:",
            "http://a?b",
            "http://a/#c",
            "/v1",
        ] {
            assert!(Collector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_takes_its_part_of_the_ids() {
        for (text, share) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("100%", 1.0), ("12.5 %", 0.125), ("0%", 0.0)] {
            assert_eq!(Sampling::parse(text).unwrap(), Sampling::of(share).unwrap(), "{text}");
        }
        for bad in ["", "%", "-1%", "101%", "1.1", "NaN", "inf", "half"] {
            assert!(Sampling::parse(bad).is_err(), "{bad}");
        }
        let quarter = Sampling::of(0.25).unwrap();
        // Only the lower 63 bits count.
        let high = u128::from(u64::MAX) << 64 | 1 << 63;
        assert!(quarter.takes(high) && quarter.takes((1 << 61) - 1) && !quarter.takes(1 << 61) && !quarter.takes(u128::MAX));
        assert!(Sampling::ALL.takes(u128::MAX) && !Sampling::NONE.takes(0) && Sampling::NONE.is_none());
    }

    #[test]
    fn the_nearest_word_holds_and_without_a_collector_there_is_nothing() {
        let defaults = TracingSettings {
            endpoint: Some(Collector::At("http://a/v1/traces".into())),
            sampling: Some(Sampling::ALL),
            service: None,
            propagate: Some(Forms { b3: true, ..Forms::default() }),
        };
        let own = TracingSettings { sampling: Some(Sampling::NONE), ..TracingSettings::default() };
        let resolved = own.resolve(&defaults, "web").unwrap();
        assert_eq!((&*resolved.service, resolved.sampling, resolved.propagate.b3), ("web", Sampling::NONE, true));
        let off = TracingSettings { endpoint: Some(Collector::Off), ..TracingSettings::default() };
        assert_eq!((off.resolve(&defaults, "web"), own.resolve(&own, "web")), (None, None));
    }
}
