//! Who may call us: `GET /v1/connect/intentions/match`. Fails closed: what is not understood denies.

mod permission;

use consul_api_types::{Intention as Wire, IntentionMatches};
use serde_json::{Map, Value};

use crate::model::{
    identity::DEFAULT,
    intention::{Action, Intention, Pattern, Rule, Source},
    jwt::JwtRequirement,
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
    let destination = wire.destination_name.clone();
    let (rule, jwt) = rule(wire).unwrap_or_else(|why| (Rule::Unsupported(why), None));
    Ok(Intention { source, destination, precedence: wire.precedence, rule, jwt })
}

/// # Errors
/// What is not understood, with the path of the field.
fn rule(wire: &Wire) -> Result<(Rule, Option<JwtRequirement>), String> {
    if !wire.source_sameness_group.is_empty() {
        return Err("SourceSamenessGroup: sameness groups are not supported".to_owned());
    }
    if !matches!(wire.source_type.as_str(), "" | "consul") {
        return Err(format!("SourceType: {:?} is not known", wire.source_type));
    }
    if let Some(key) = wire.unknown.keys().find(|key| !HARMLESS.contains(&key.as_str())) {
        return Err(format!("{key} is not known"));
    }
    let jwt = permission::jwt(wire.jwt.as_ref())?;
    let rule = match (wire.action.as_str(), wire.permissions.as_slice()) {
        ("", []) => return Err("it has neither Action nor Permissions".to_owned()),
        (text, []) => Rule::Action(action(text)?),
        ("", list) => {
            let decoded = list.iter().enumerate().map(|(at, wire)| permission::permission(wire).map_err(in_list("Permissions", at)));
            Rule::Permissions(decoded.collect::<Result<_, _>>()?)
        }
        (_, _) => return Err("it has both Action and Permissions".to_owned()),
    };
    Ok((rule, jwt))
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        other => Err(format!("Action: {other:?} is neither allow nor deny")),
    }
}

/// Refuses keys that the API types do not know.
fn nothing_unknown(unknown: &Map<String, Value>) -> Result<(), String> {
    unknown.keys().next().map_or(Ok(()), |key| Err(format!("{key} is not known")))
}

/// Puts the place in a list before what is wrong there.
fn in_list(list: &str, at: usize) -> impl Fn(String) -> String {
    move |why| format!("{list}[{at}].{why}")
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
