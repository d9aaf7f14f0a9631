//! Who may call us: `GET /v1/connect/intentions/match`. Fails closed: what is not understood denies.

use consul_api_types::{Intention as Wire, IntentionMatches};

use crate::model::{
    identity::DEFAULT,
    intention::{Action, Intention, Pattern, Rule, Source},
};

/// Keys beside those of the API types that say nothing about who may call.
const HARMLESS: [&str; 4] = ["Hash", "LegacyMeta", "DefaultAddr", "DefaultPort"];

/// Decodes the intentions towards `service`.
///
/// # Errors
/// There is no list for the service, or an intention lacks what orders it among the others: the whole list is refused,
/// since leaving one out could let somebody pass.
pub fn intentions(matches: &IntentionMatches, service: &str) -> Result<Vec<Intention>, String> {
    let list = matches.0.get(service).ok_or_else(|| format!("it says nothing about {service}"))?;
    list.iter().enumerate().map(|(at, wire)| intention(wire).map_err(|why| format!("intention {at}: {why}"))).collect()
}

fn intention(wire: &Wire) -> Result<Intention, String> {
    if wire.source_name.is_empty() {
        return Err("SourceName is empty".to_owned());
    }
    if !(1..=9).contains(&wire.precedence) {
        return Err(format!("Precedence is {}, not 1 to 9", wire.precedence));
    }
    let or_default = |text: &str| if text.is_empty() { DEFAULT.to_owned() } else { text.to_owned() };
    let source = Source {
        peer: Some(wire.source_peer.as_str()).filter(|peer| !peer.is_empty()).map(Into::into),
        partition: or_default(&wire.source_partition).into(),
        namespace: Pattern::parse(&or_default(&wire.source_ns)),
        name: Pattern::parse(&wire.source_name),
    };
    Ok(Intention { source, destination: wire.destination_name.clone(), precedence: wire.precedence, rule: rule(wire) })
}

fn rule(wire: &Wire) -> Rule {
    let unsupported = |why: &str| Rule::Unsupported(why.to_owned());
    if !wire.permissions.is_empty() {
        return unsupported("permissions on requests (L7) are not supported yet");
    }
    if wire.jwt.is_some() {
        return unsupported("JWT requirements are not supported yet");
    }
    if !wire.source_sameness_group.is_empty() {
        return unsupported("sameness groups are not supported");
    }
    if !matches!(wire.source_type.as_str(), "" | "consul") {
        return Rule::Unsupported(format!("its source type {:?} is not known", wire.source_type));
    }
    if let Some(key) = wire.unknown.keys().find(|key| !HARMLESS.contains(&key.as_str())) {
        return Rule::Unsupported(format!("it has {key}, which is not known"));
    }
    match wire.action.as_str() {
        "allow" => Rule::Action(Action::Allow),
        "deny" => Rule::Action(Action::Deny),
        "" => unsupported("it has neither an action nor permissions"),
        other => Rule::Unsupported(format!("its action {other:?} is not known")),
    }
}
