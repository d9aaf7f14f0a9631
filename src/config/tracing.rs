//! What the environment says of tracing, in OpenTelemetry's variables (OpenTelemetry Specification, "Environment Variable Specification"). It holds where
//! the configuration says nothing.

use crate::model::tracing::{Collector, Forms, Sampling, TracingSettings};

/// Reads the variables. A value that cannot be used is passed over and told, as the specification wants it.
///
/// Where the exporter itself reads variables (headers, timeout), they are not looked at here.
pub fn environment(env: impl Fn(&str) -> Option<String>) -> (TracingSettings, Vec<String>) {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    if env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || env("OTEL_TRACES_EXPORTER").as_deref() == Some("none")
    {
        return Default::default();
    }
    let mut told = Vec::new();
    let mut usable = |name: &str, why: String| told.push(format!("{name} in the environment: {why}; it has no effect"));
    let mut endpoint = None;
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        if let Some(text) = env(name) {
            match Collector::parse(&text) {
                Ok(collector) => endpoint = Some(collector),
                Err(why) => usable(name, why),
            }
        }
    }
    let words = env("OTEL_PROPAGATORS").unwrap_or_default();
    let words = words.split(',').map(str::trim).filter(|word| !matches!(*word, "" | "none" | "baggage"));
    let propagate = Forms::parse(words).map_err(|why| usable("OTEL_PROPAGATORS", why)).ok();
    let settings = TracingSettings {
        endpoint,
        service: env("OTEL_SERVICE_NAME").map(Into::into),
        sampling: sampling(&env).map_err(|(name, why)| usable(name, why)).ok().flatten(),
        propagate: propagate.filter(|forms| !forms.is_empty()),
    };
    (settings, told)
}

/// The share of the sampler that is named. Whoever is called with a trace follows its caller, whichever sampler it is.
fn sampling(env: &impl Fn(&str) -> Option<String>) -> Result<Option<Sampling>, (&'static str, String)> {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let Some(sampler) = env(SAMPLER) else { return Ok(None) };
    match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "always_on" => Ok(Some(Sampling::ALL)),
        "always_off" => Ok(Some(Sampling::NONE)),
        "traceidratio" => {
            env(ARGUMENT).map_or(Ok(Some(Sampling::ALL)), |text| Sampling::parse(&text).map(Some)).map_err(|why| (ARGUMENT, why))
        }
        _ => Err((SAMPLER, format!("{sampler:?} is none of always_on, always_off, traceidratio"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (TracingSettings, Vec<String>) {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        environment(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn opentelemetrys_variables_are_understood() {
        let (settings, told) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:4318/v1/traces"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_PROPAGATORS", "tracecontext, baggage,b3"),
        ]);
        let expected = TracingSettings {
            endpoint: Some(Collector::At("http://b:4318/v1/traces".into())),
            service: Some("shop".into()),
            sampling: Sampling::of(0.5),
            propagate: Some(Forms { w3c: true, b3: true, b3_multi: false }),
        };
        assert_eq!((settings, told), (expected, Vec::new()));
        for (sampler, share) in [("always_on", Sampling::ALL), ("parentbased_always_off", Sampling::NONE), ("traceidratio", Sampling::ALL)]
        {
            assert_eq!(read(&[("OTEL_TRACES_SAMPLER", sampler)]).0.sampling, Some(share), "{sampler}");
        }
    }

    #[test]
    fn what_is_not_usable_is_told_and_nothing_else_suffers() {
        let (settings, told) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "b:4317"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_PROPAGATORS", "xray"),
        ]);
        assert_eq!(settings.endpoint, Some(Collector::At("http://a:4318/v1/traces".into())));
        assert_eq!((settings.sampling, settings.propagate, told.len()), (None, None, 3), "{told:?}");
        assert!(told.iter().any(|line| line.contains("OTEL_TRACES_SAMPLER in the environment: \"jaeger_remote\"")), "{told:?}");
    }

    #[test]
    fn a_disabled_sdk_means_us_too() {
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(read(&[off, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318")]), Default::default(), "{off:?}");
        }
    }
}
