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

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;

    fn decode(list: Value) -> Result<Vec<Intention>, String> {
        intentions(&serde_json::from_value(json!({ "db": list })).unwrap(), "db")
    }

    /// One intention from `web`, with these fields.
    fn with(fields: Value) -> Result<Intention, String> {
        let mut wire = json!({"SourceName": "web", "SourceNS": "default", "DestinationName": "db", "SourceType": "consul",
            "Precedence": 9, "Action": "allow", "Hash": "3q2+7w==", "CreateIndex": 7});
        for (key, value) in fields.as_object().unwrap() {
            wire[key] = value.clone();
        }
        decode(json!([wire])).map(|mut list| list.remove(0))
    }

    #[test]
    fn plain_intentions_are_read_with_their_source() {
        let allow = with(json!({})).unwrap();
        assert_eq!((allow.rule, allow.precedence, allow.destination.as_str()), (Rule::Action(Action::Allow), 9, "db"));
        let web = Source {
            peer: None,
            partition: "default".into(),
            namespace: Pattern::Exact("default".into()),
            name: Pattern::Exact("web".into()),
        };
        assert_eq!(allow.source, web);
        let other =
            with(json!({"SourceName": "*", "SourceNS": "*", "SourcePartition": "blue", "SourcePeer": "cluster2", "Action": "deny"}));
        let other = other.unwrap();
        assert_eq!((&other.source.name, &other.source.namespace), (&Pattern::Any, &Pattern::Any));
        assert_eq!((other.source.peer.as_deref(), &*other.source.partition), (Some("cluster2"), "blue"));
        assert_eq!(other.rule, Rule::Action(Action::Deny));
    }

    #[test]
    fn what_is_not_understood_never_allows() {
        for fields in [
            json!({"Action": "permit"}),
            json!({"Action": "Allow"}),
            json!({"Action": ""}),
            json!({"Action": "", "Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]}),
            json!({"Permissions": [{"Action": "allow"}]}),
            json!({"JWT": {"Providers": [{"Name": "okta"}]}}),
            json!({"SourceType": "external"}),
            json!({"SourceSamenessGroup": "all"}),
            json!({"OnlyOnWeekdays": true}),
        ] {
            assert!(matches!(with(fields.clone()).unwrap().rule, Rule::Unsupported(_)), "{fields}");
        }
    }

    #[test]
    fn a_list_whose_order_is_not_certain_is_refused_as_a_whole() {
        assert!(with(json!({"Precedence": 0})).is_err());
        assert!(with(json!({"Precedence": 10})).is_err());
        assert!(with(json!({"SourceName": ""})).is_err());
    }

    #[test]
    fn no_list_is_no_answer_but_an_empty_one_is() {
        assert!(intentions(&IntentionMatches::default(), "db").is_err());
        assert_eq!(decode(json!([])).unwrap(), []);
        assert_eq!(decode(Value::Null).unwrap(), []);
    }
}
