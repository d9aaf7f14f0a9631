mod nomad;

use std::{collections::HashMap, path::PathBuf, time::Duration};

use super::*;
use crate::{
    config::agent::ProxySelector,
    model::{intention::DefaultPolicy, secret::Secret},
    telemetry::log::Level,
};

fn parse_with(line: &[&str], env: &[(&str, &str)]) -> Result<Command, Exit> {
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    parse(std::iter::once("aralez").chain(line.iter().copied()), |name| env.get(name).map(|&value| value.to_owned()))
}

fn connect_with(line: &[&str], env: &[(&str, &str)]) -> ConnectOptions {
    let line: Vec<&str> = std::iter::once("connect").chain(line.iter().copied()).collect();
    match parse_with(&line, env) {
        Ok(Command::Connect(options)) => *options,
        other => panic!("{line:?} gave {other:?}"),
    }
}

fn connect(line: &[&str]) -> ConnectOptions {
    connect_with(line, &[])
}

#[test]
fn a_question_to_explain_has_its_request() {
    let line = ["explain", "-from", "web", "-to=api", "-H", "X-A: b:c", "-json", "--header", "y:", "POST", "/x?q"];
    let Ok(Command::Explain(options)) = parse_with(&line, &[("CONNECT_SIDECAR_FOR", "web-1")]) else { panic!("not understood") };
    assert_eq!(options.question, Question::Inbound { from: "web".to_owned(), to: "api".to_owned() });
    let headers: Vec<_> = options.request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!((options.request.method.as_str(), options.request.target.as_str(), options.json), ("POST", "/x?q", true));
    assert_eq!(headers, [("x-a", "b:c"), ("y", "")]);
    let Ok(Command::Explain(options)) = parse_with(&["explain"], &[("CONNECT_SIDECAR_FOR", "web-1")]) else { panic!("not understood") };
    assert!(matches!(options.question, Question::Outbound { upstream: None, .. }) && options.request.target == "/");
    for wrong in [&["-from", "web"][..], &["-from", "a", "-to", "b", "-upstream", "c"], &["-sidecar-for", "web", "/x"], &[]] {
        refusal(&[&["explain"], wrong].concat(), &[]);
    }
}

fn refusal(line: &[&str], env: &[(&str, &str)]) -> String {
    let exit = parse_with(line, env).unwrap_err();
    assert_eq!(exit.code, 2, "{line:?}: {}", exit.text);
    assert!(exit.text.starts_with("aralez: ") && !exit.text.contains('\n'), "{line:?} is not one line: {}", exit.text);
    exit.text
}

#[test]
fn one_dash_is_as_good_as_two() {
    for line in [
        &["-sidecar-for", "web"][..],
        &["-sidecar-for=web"],
        &["--sidecar-for", "web"],
        &["--sidecar-for=web"],
        &["-log-json", "-sidecar-for", "web"],
        &["-sidecar-for", "other", "-sidecar-for", "web"],
        &["-log-json=false", "--sidecar-for=web", "--", "-l", "debug", "--sidecar-for=other"],
    ] {
        assert_eq!(connect(line).selector, ProxySelector::SidecarFor("web".to_owned()), "{line:?}");
    }
}

#[test]
fn a_value_may_begin_with_a_dash() {
    for line in
        [&["-token", "-secret", "-proxy-id", "x"][..], &["-token=-secret", "-proxy-id=x"], &["-proxy-id", "x", "--token", "-secret"]]
    {
        let options = connect(line);
        assert_eq!(options.agent.token, Some(Secret::new("-secret")), "{line:?}");
        assert_eq!(options.selector, ProxySelector::ProxyId("x".to_owned()), "{line:?}");
    }
    assert_eq!(connect(&["-sidecar-for", "--"]).selector, ProxySelector::SidecarFor("--".to_owned()));
    assert_eq!(connect(&["-sidecar-for", "-h"]).selector, ProxySelector::SidecarFor("-h".to_owned()));
}

#[test]
fn go_switches_take_a_value_after_the_equals_sign_only() {
    assert!(connect(&["-sidecar-for=web", "-log-json"]).process.settings.log_json);
    assert!(connect(&["-sidecar-for=web", "-log-json=T"]).process.settings.log_json);
    assert!(!connect(&["-sidecar-for=web", "-log-json=0"]).process.settings.log_json);
    assert!(refusal(&["connect", "-sidecar-for=web", "-log-json=perhaps"], &[]).contains("neither true nor false"));
}

#[test]
fn the_proxy_id_wins_and_flags_win_over_variables() {
    let id = |text: &str| ProxySelector::ProxyId(text.to_owned());
    let service = |text: &str| ProxySelector::SidecarFor(text.to_owned());
    assert_eq!(connect(&["-sidecar-for=web", "-proxy-id=p"]).selector, id("p"));
    assert_eq!(connect_with(&["-sidecar-for=web"], &[("CONNECT_PROXY_ID", "p")]).selector, id("p"));
    assert_eq!(connect_with(&["-proxy-id=q"], &[("CONNECT_PROXY_ID", "p")]).selector, id("q"));
    assert_eq!(connect_with(&[], &[("CONNECT_SIDECAR_FOR", "web"), ("CONNECT_PROXY_ID", "")]).selector, service("web"));
    assert!(refusal(&["connect"], &[]).contains("-sidecar-for SERVICE-ID"));
}

#[test]
fn the_agent_is_described_as_for_consul() {
    let env = [
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
        ("CONSUL_HTTP_TOKEN", "t1"),
        ("CONSUL_HTTP_TOKEN_FILE", "/t"),
        ("CONSUL_HTTP_AUTH", "user:pass"),
        ("CONSUL_HTTP_SSL", "true"),
        ("CONSUL_HTTP_SSL_VERIFY", "0"),
        ("CONSUL_CACERT", "/ca"),
        ("CONSUL_CAPATH", "/cas"),
        ("CONSUL_CLIENT_CERT", "/cert"),
        ("CONSUL_CLIENT_KEY", "/key"),
        ("CONSUL_TLS_SERVER_NAME", "agent"),
        ("CONSUL_NAMESPACE", "team"),
        ("CONSUL_PARTITION", "blue"),
    ];
    let flag = connect_with(&["-sidecar-for=web", "-token=t2"], &env).agent;
    assert_eq!((flag.token, flag.token_file), (Some(Secret::new("t2")), None), "a flag wins over both variables");
    let agent = connect_with(&["-sidecar-for=web"], &env).agent;
    assert_eq!(agent.address, "unix:///run/consul.sock");
    assert_eq!((agent.token, agent.auth), (Some(Secret::new("t1")), Some(Secret::new("user:pass"))));
    assert!(agent.ssl && !agent.ssl_verify);
    let paths = [agent.token_file, agent.ca_file, agent.ca_path, agent.client_cert, agent.client_key];
    assert_eq!(paths.map(Option::unwrap), ["/t", "/ca", "/cas", "/cert", "/key"].map(std::path::PathBuf::from));
    let names = [agent.tls_server_name, agent.namespace, agent.partition];
    assert_eq!(names.map(Option::unwrap), ["agent", "team", "blue"]);

    let agent = connect_with(&["-sidecar-for=web", "-http-addr", "10.0.0.1:8500", "-token-file=/mine"], &env).agent;
    assert_eq!((agent.address.as_str(), agent.token_file.unwrap()), ("10.0.0.1:8500", "/mine".into()));

    let agent = connect(&["-sidecar-for=web"]).agent;
    assert!(agent.address.is_empty() && agent.token.is_none() && agent.ssl_verify && !agent.ssl);
    assert!(refusal(&["connect", "-sidecar-for=web"], &[("CONSUL_HTTP_SSL", "maybe")]).contains("CONSUL_HTTP_SSL"));
}

#[test]
fn process_options_have_defaults_and_bounds() {
    let options = connect(&["-sidecar-for=web"]);
    assert_eq!(options.process.admin, AdminBind::Usual);
    assert_eq!((options.process.settings.threads, options.process.settings.grace), (1, Duration::from_secs(30)));
    assert_eq!((options.process.settings.log_level, options.process.settings.log_json, options.ready), (Level::Info, false, None));

    let env = [("ARALEZ_THREADS", "4"), ("ARALEZ_SHUTDOWN_GRACE_PERIOD_SECONDS", "5")];
    let options = connect_with(&["-sidecar-for=web", "-log-level=WARNING", "-admin-bind", "off"], &env);
    assert_eq!((options.process.settings.threads, options.process.settings.grace), (4, Duration::from_secs(5)));
    assert_eq!((options.process.settings.log_level, options.process.admin), (Level::Warn, AdminBind::Off));
    assert_eq!(connect_with(&["-sidecar-for=web", "-threads=2"], &env).process.settings.threads, 2);
    assert_eq!(connect(&["-sidecar-for=web", "-admin-bind=[::1]:0"]).process.admin, AdminBind::At("[::1]:0".parse().unwrap()));

    let files = ["-sidecar-for=web", "-d", "-user", "a", "-group=b", "-pid-file=p", "-error-log", "e", "-upgrade-sock", "u", "-u"];
    let settings = connect(&files).process.settings;
    assert_eq!([settings.pid_file, settings.error_log, settings.upgrade_sock].map(Option::unwrap), ["p", "e", "u"].map(PathBuf::from));
    assert_eq!((settings.user.as_deref(), settings.group.as_deref()), (Some("a"), Some("b")));
    assert!(settings.upgrade && settings.daemon);

    let ready = connect(&["-sidecar-for=web", "-envoy-ready-bind-address=0.0.0.0", "-envoy-ready-bind-port", "20000"]).ready;
    assert_eq!(ready, Some(([0, 0, 0, 0], 20000).into()));
}

#[test]
fn the_default_policy_can_be_stated() {
    assert_eq!(connect(&["-sidecar-for=web"]).default_policy, None);
    assert_eq!(connect(&["-sidecar-for=web", "-default-intention-policy", "allow"]).default_policy, Some(DefaultPolicy::Allow));
    assert_eq!(connect(&["-sidecar-for=web", "-default-intention-policy=deny"]).default_policy, Some(DefaultPolicy::Deny));
}

#[test]
fn wrong_usage_is_one_line_that_says_what_to_do() {
    for (line, part) in [
        (&["connect", "-sidecar-for=web", "-nonsense"][..], "--nonsense"),
        (&["connect", "-sidecar-fro", "web"], "--sidecar-for"),
        (&["connect", "-sidecar-for"], "--sidecar-for"),
        (&["connect", "-sidecar-for=web", "-threads=0"], "--threads"),
        (&["connect", "-sidecar-for=web", "-u"], "--upgrade-sock"),
        (&["connect", "-sidecar-for=web", "-log-level=loud"], "trace, debug, info, warn, error"),
        (&["connect", "-sidecar-for=web", "-admin-bind=19000"], "localhost:port"),
        (&["connect", "-sidecar-for=web", "-admin-bind=localhost"], "localhost:port"),
        (&["connect", "-sidecar-for=web", "-envoy-ready-bind-port=1"], "give both or neither"),
        (&["connect", "-sidecar-for=web", "-default-intention-policy=ask"], "allow, deny"),
        (&["connect", "-sidecar-for=web", "stray"], "stray"),
        (&["connect", "-sidecar-for=web", "-x"], "-x"),
        (&["teleport"], "teleport"),
        (&["-t"], "--conf"),
        (&["-c"], "--conf"),
        (&["-c", "m.yaml", "-admin-bind=x"], "localhost:port"),
        (&["-c", "m.yaml", "stray"], "stray"),
        (&["check"], "FILE"),
        (&["schema", "other"], "main, upstreams"),
        (&["dev", "a.yaml", "b.yaml"], "b.yaml"),
        (&["dev", "-sidecar-for=web"], "--sidecar-for"),
        (&[], "aralez dev"),
    ] {
        let text = refusal(line, &[]);
        assert!(text.contains(part), "{line:?}: {part:?} is not in {text:?}");
    }
    assert!(refusal(&["dev"], &[("ARALEZ_THREADS", "many")]).contains("ARALEZ_THREADS"));
}

#[test]
fn flags_for_envoy_are_accepted_with_a_note_or_refused_with_a_reason() {
    let line = [
        "-sidecar-for=web",
        "-envoy-binary",
        "/bin/envoy",
        "-ignore-envoy-compatibility",
        "-stale",
        "-grpc-addr=unix://x",
        "--",
        "-l",
        "info",
    ];
    let notes = connect(&line).notes;
    assert_eq!(notes.len(), 5, "{notes:#?}");
    assert!(notes.iter().any(|note| note.starts_with("-envoy-binary has no effect: ")), "{notes:#?}");
    assert!(connect(&["-sidecar-for=web", "-bootstrap=false"]).notes.is_empty());
    for flag in ["-bootstrap", "-gateway=mesh", "-mesh-gateway", "-register", "-service=web", "-upstream=db:1234", "-node-name=n"] {
        let name = flag.split('=').next().unwrap();
        let text = refusal(&["connect", "-sidecar-for=web", flag], &[]);
        assert!(text.contains(&format!("{name} is not supported: ")), "{text}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for line in [&["-h"][..], &["--help"], &["-help"], &["connect", "-h"], &["connect", "-help"], &["dev", "--help"]] {
        let exit = parse_with(line, &[]).unwrap_err();
        assert!(exit.code == 0 && exit.text.contains("Usage:"), "{line:?}: {exit:?}");
    }
    for line in [&["-v"][..], &["-V"], &["-version"], &["--version"], &["version"]] {
        let exit = parse_with(line, &[]).unwrap_err();
        assert_eq!((exit.code, exit.text), (0, version()), "{line:?}");
    }
    let help = parse_with(&["connect", "-h"], &[]).unwrap_err().text;
    assert!(help.contains("--sidecar-for") && !help.contains("--envoy-binary"), "{help}");
}

#[test]
fn the_reverse_proxy_is_started_as_its_users_know() {
    let plain = ServeOptions { conf: "m.yaml".into(), upgrade: false, daemon: false, admin: AdminBind::Usual };
    for line in [&["-c", "m.yaml"][..], &["-conf", "m.yaml"], &["--conf=m.yaml"], &["serve", "-c", "m.yaml"]] {
        assert!(matches!(parse_with(line, &[]), Ok(Command::Serve(options)) if options == plain), "{line:?}");
    }
    for line in [&["-d", "-u", "-c", "m.yaml"][..], &["-c", "m.yaml", "-upgrade", "--daemon"], &["serve", "-d", "-u", "-c", "m.yaml"]] {
        let Ok(Command::Serve(options)) = parse_with(line, &[]) else { panic!("{line:?}") };
        assert_eq!(options, ServeOptions { upgrade: true, daemon: true, ..plain.clone() }, "{line:?}");
    }
    for (line, env) in [(&["-c", "m.yaml", "-admin-bind", "off"][..], "localhost:7"), (&["-c", "m.yaml"], "off")] {
        let Ok(Command::Serve(options)) = parse_with(line, &[("ARALEZ_ADMIN_BIND", env)]) else { panic!() };
        assert_eq!(options.admin, AdminBind::Off);
    }
}

fn checked(line: &[&str]) -> Checked {
    match parse_with(line, &[("CONNECT_SIDECAR_FOR", "web-1")]) {
        Ok(Command::Check(options)) => options.checked,
        other => panic!("{line:?} gave {other:?}"),
    }
}

#[test]
fn a_live_sidecar_and_the_changes_of_a_file_can_be_checked() {
    for line in [&["check"][..], &["check", "-sidecar-for", "web-1", "-timeout-seconds=30"]] {
        let Checked::Sidecar { selector, timeout, .. } = checked(line) else { panic!("{line:?}") };
        assert_eq!((selector, timeout), (ProxySelector::SidecarFor("web-1".to_owned()), Duration::from_secs(30)), "{line:?}");
    }
    for (line, other) in [
        (&["check", "-c", "m.yaml", "-diff"][..], None),
        (&["check", "-diff", "m.yaml"], None),
        (&["check", "--conf=m.yaml", "--diff=old.yaml"], Some("old.yaml")),
    ] {
        let Checked::Changes { conf, with } = checked(line) else { panic!("{line:?}") };
        assert_eq!((conf, with), (PathBuf::from("m.yaml"), other.map(PathBuf::from)), "{line:?}");
    }
    let Ok(Command::Check(options)) = parse_with(&["check", "-format", "json", "m.yaml"], &[]) else { panic!("not understood") };
    assert!(options.json);
    for wrong in [&["check"][..], &["check", "-diff"], &["check", "-diff", "a", "b"], &["check", "-proxy-id", "p", "m.yaml"]] {
        refusal(wrong, &[]);
    }
}

#[test]
fn files_can_be_checked_and_schemas_printed() {
    for line in [&["-t", "-c", "m.yaml"][..], &["-c", "m.yaml", "--test"], &["check", "m.yaml"], &["serve", "-t", "-c", "m.yaml", "-u"]] {
        assert!(matches!(checked(line), Checked::Files(files) if files == [PathBuf::from("m.yaml")]), "{line:?}");
    }
    assert!(matches!(checked(&["check", "a", "b"]), Checked::Files(files) if files.len() == 2));
    for (line, wanted) in
        [(&["schema"][..], None), (&["schema", "main"], Some(SchemaOf::Main)), (&["schema", "upstreams"], Some(SchemaOf::Upstreams))]
    {
        assert!(matches!(parse_with(line, &[]), Ok(Command::Schema(file)) if file == wanted), "{line:?}");
    }
}

#[test]
fn dev_takes_a_mesh_and_process_options() {
    let Ok(Command::Dev(options)) = parse_with(&["dev", "-threads", "2", "mesh.yaml", "-admin-bind", "127.0.0.1:0"], &[]) else { panic!() };
    assert_eq!((options.mesh, options.process.settings.threads), (Some("mesh.yaml".into()), 2));
    assert_eq!(options.process.admin, AdminBind::At(([127, 0, 0, 1], 0).into()));
    let Ok(Command::Dev(options)) = parse_with(&["dev"], &[]) else { panic!() };
    assert_eq!(options.mesh, None);
}

#[test]
fn secrets_are_not_shown() {
    let options = connect_with(&["-sidecar-for=web", "-token=t0ps3cret"], &[("CONSUL_HTTP_AUTH", "user:t0ps3cret")]);
    assert!(!format!("{options:?}").contains("t0ps3cret"));
}

#[test]
fn a_running_one_is_asked_where_envoys_admin_api_is_unless_told() {
    let at = |line: &[&str]| match parse_with(line, &[]) {
        Ok(Command::Status(StatusOptions { admin, json })) => (admin.to_string(), json),
        other => panic!("{line:?} gave {other:?}"),
    };
    assert_eq!(at(&["status"]), ("127.0.0.1:19000".to_owned(), false));
    assert_eq!(at(&["status", "-admin", "[::1]:19001", "-format=json"]), ("[::1]:19001".to_owned(), true));
    let waited = parse_with(&["wait", "-timeout-seconds", "5"], &[]);
    assert!(matches!(waited, Ok(Command::Wait(admin, time)) if admin.port() == 19000 && time == Duration::from_secs(5)));
    assert!(matches!(parse_with(&["drain", "-admin=localhost:1"], &[]), Ok(Command::Drain(admin)) if admin.port() == 1));
    let drained = |line: &[&str], place: &str| match parse_with(line, &[("ARALEZ_ADMIN_BIND", place)]) {
        Ok(Command::Drain(admin)) => admin.to_string(),
        other => panic!("{line:?} gave {other:?}"),
    };
    assert_eq!(drained(&["drain"], "127.0.0.3:7"), "127.0.0.3:7");
    assert_eq!(drained(&["drain", "-admin=localhost:1"], "127.0.0.3:7"), "127.0.0.1:1");
    assert_eq!(drained(&["drain"], "off"), "127.0.0.1:19000");
    assert!(refusal(&["drain"], &[("ARALEZ_ADMIN_BIND", "x")]).contains("ARALEZ_ADMIN_BIND \"x\" is no address"));
    for wrong in [&["status", "-admin", "off"][..], &["status", "-format", "yaml"], &["drain", "-admin", "x"]] {
        refusal(wrong, &[]);
    }
}
