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
    let web =
        Source { peer: None, partition: "default".into(), namespace: Pattern::Exact("default".into()), name: Pattern::Exact("web".into()) };
    assert_eq!(allow.source, web);
    let other = with(json!({"SourceName": "*", "SourceNS": "*", "SourcePartition": "blue", "SourcePeer": "cluster2", "Action": "deny"}));
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
        json!({"Permissions": [{"Action": "allow"}]}),
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

/// An intention with one permission that has these fields.
fn permitting(fields: Value) -> Intention {
    let mut permission = json!({"Action": "deny", "HTTP": {"PathPrefix": "/"}});
    for (key, value) in fields.as_object().unwrap() {
        permission[key] = value.clone();
    }
    let sound = json!({"Action": "allow", "HTTP": {"PathPrefix": "/"}});
    with(json!({"Action": "", "Permissions": [sound, permission]})).unwrap()
}

#[test]
fn permissions_are_read_whole() {
    let claims = json!([{"Path": ["perms", "role"], "Value": "admin"}]);
    let headers = json!([{"Name": "X-Foo", "Contains": "y", "Invert": true, "IgnoreCase": true}, {"Name": "Host", "Present": true},
        {"Name": ":path", "Regex": "/a.*"}]);
    let read = permitting(json!({"HTTP": {"PathExact": "/a", "Methods": ["get", "PUT"], "Header": headers},
        "JWT": {"Providers": [{"Name": "okta", "VerifyClaims": claims}, {"Name": "loc"}]}}));
    let Rule::Permissions(permissions) = &read.rule else { panic!("{read:?}") };
    let shown: Vec<String> = permissions.iter().map(ToString::to_string).collect();
    let second = "path exact \"/a\", method GET or PUT, header x-foo not contains \"y\" in any case, header host present, \
                  header :path regex /a.*, token of okta with perms.role \"admin\" or loc";
    assert_eq!(shown, ["path prefix \"/\"", second]);
    assert_eq!(permissions.iter().map(|p| p.action).collect::<Vec<_>>(), [Action::Allow, Action::Deny]);
    assert_eq!(read.jwt, None);
    let required = with(json!({"JWT": {"Providers": [{"Name": "okta"}]}})).unwrap();
    assert_eq!((required.rule, required.jwt.unwrap().providers.len()), (Rule::Action(Action::Allow), 1));
}

#[test]
fn a_permission_that_is_not_understood_denies_and_names_its_field() {
    let header = |fields: Value| json!({"HTTP": {"Header": [{"Name": "x", "Present": true}, fields]}});
    for (fields, path) in [
        (json!({"Action": "log"}), "Action: "),
        (json!({"Because": 1}), "Because "),
        (json!({"HTTP": null}), "HTTP "),
        (json!({"HTTP": {}}), "HTTP "),
        (json!({"HTTP": {"PathExact": "/a", "PathPrefix": "/b"}}), "HTTP.PathExact, PathPrefix, PathRegex: "),
        (json!({"HTTP": {"PathRegex": "a**"}}), "HTTP.PathRegex: "),
        (json!({"HTTP": {"PathSuffix": "/a"}}), "HTTP.PathSuffix "),
        (json!({"HTTP": {"Methods": ["GET", "A B"]}}), "HTTP.Methods: "),
        (header(json!({"Name": "x"})), "HTTP.Header[1].exactly one "),
        (header(json!({"Name": "x", "Exact": "a", "Regex": "b"})), "HTTP.Header[1].exactly one "),
        (header(json!({"Name": "x", "Regex": "["})), "HTTP.Header[1].Regex: "),
        (header(json!({"Name": "x", "Regex": "a", "IgnoreCase": true})), "HTTP.Header[1].IgnoreCase "),
        (header(json!({"Name": "x", "Present": true, "IgnoreCase": true})), "HTTP.Header[1].IgnoreCase "),
        (header(json!({"Name": "x", "Exact": "a", "Glob": "a*"})), "HTTP.Header[1].Glob "),
        (header(json!({"Name": "a b", "Present": true})), "HTTP.Header[1].Name: "),
        (header(json!({"Name": ":scheme", "Present": true})), "HTTP.Header[1].Name: "),
        (header(json!({"Present": true})), "HTTP.Header[1].Name: "),
        (json!({"JWT": {}}), "JWT.Providers "),
        (json!({"JWT": {"Providers": [{"Name": "a"}], "All": true}}), "JWT.All "),
        (json!({"JWT": {"Providers": [{}]}}), "JWT.Providers[0].Name "),
        (json!({"JWT": {"Providers": [{"Name": "a", "Age": 1}]}}), "JWT.Providers[0].Age "),
        (json!({"JWT": {"Providers": [{"Name": "a", "VerifyClaims": [{"Value": "b"}]}]}}), "JWT.Providers[0].VerifyClaims[0].Path "),
        (
            json!({"JWT": {"Providers": [{"Name": "a", "VerifyClaims": [{"Path": ["b"], "Not": 1}]}]}}),
            "JWT.Providers[0].VerifyClaims[0].Not ",
        ),
    ] {
        let Rule::Unsupported(why) = permitting(fields.clone()).rule else { panic!("{fields}") };
        assert!(why.starts_with(&format!("Permissions[1].{path}")), "{why}");
    }
    let Rule::Unsupported(why) = with(json!({"JWT": {}})).unwrap().rule else { panic!() };
    assert!(why.starts_with("JWT.Providers "), "{why}");
}
