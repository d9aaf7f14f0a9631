//! Started by Nomad: as a sidecar task of its own kind, and in the place of Envoy.

use std::{fs, os::unix::net::UnixListener, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const ID: &str = "_nomad-task-a1-group-front-web-9100-sidecar-proxy";

fn bootstrap() -> Value {
    let at = |ip: &str, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
    json!({
        "admin": {"address": at("127.0.0.2", 19001)},
        "node": {"cluster": "web", "id": ID},
        "static_resources": {"listeners": [{"name": "envoy_ready_listener", "address": at("127.0.0.1", 19101)}]},
        "dynamic_resources": {"ads_config": {"grpc_services": {"initial_metadata": [{"key": "x-consul-token", "value": "t0ps3cret"}]}}},
    })
}

/// The folders of a task, as Nomad makes them.
struct Task {
    folder: TempDir,
}

impl Task {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["secrets", "alloc/tmp"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn bootstrapped() -> Self {
        let task = Self::new();
        task.write("secrets/envoy_bootstrap.json", &bootstrap().to_string());
        task
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.folder.path().join(name), text).unwrap();
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn connect(&self, line: &[&str], more: &[(&str, &str)]) -> ConnectOptions {
        let (secrets, alloc) = (self.path("secrets"), self.path("alloc"));
        let own = [
            ("NOMAD_ALLOC_ID", "a1"),
            ("NOMAD_GROUP_NAME", "front"),
            ("NOMAD_SECRETS_DIR", secrets.as_str()),
            ("NOMAD_ALLOC_DIR", alloc.as_str()),
            ("NOMAD_IP_connect_proxy_web", "10.0.0.7"),
        ];
        connect_with(line, &[&own, more].concat())
    }
}

fn as_envoy(line: &[&str], env: &[(&str, &str)]) -> ConnectOptions {
    match parse_with(line, env) {
        Ok(Command::Connect(options)) => *options,
        other => panic!("{line:?} gave {other:?}"),
    }
}

#[test]
fn the_bootstrap_of_the_task_names_the_proxy_and_what_goes_with_it() {
    let task = Task::bootstrapped();
    let options = task.connect(&[], &[]);
    assert_eq!(options.selector, ProxySelector::ProxyId(ID.to_owned()));
    assert_eq!((options.agent.token.as_ref(), options.agent.token_file.as_ref()), (Some(&Secret::new("t0ps3cret")), None));
    assert_eq!(options.process.admin, AdminBind::At("127.0.0.2:19001".parse().unwrap()));
    assert_eq!(options.ready, Some("127.0.0.1:19101".parse().unwrap()));
    assert!(!format!("{options:?}").contains("t0ps3cret"));
    // The health check of its container asks there too.
    let status = parse_with(&["status"], &[("NOMAD_SECRETS_DIR", &task.path("secrets"))]);
    assert!(matches!(status, Ok(Command::Status(status)) if status.admin == "127.0.0.2:19001".parse().unwrap()));

    let token = task.write("secrets/si_token", "from-the-file");
    assert_eq!(task.connect(&[], &[]).agent.token_file, Some(token.into()));
}

#[test]
fn a_bootstrap_that_cannot_be_read_is_told() {
    let task = Task::new();
    assert!(task.connect(&[], &[]).notes.is_empty(), "a task need not have one");
    for broken in ["", "{\"node\": ", "{}"] {
        let file = task.write("secrets/envoy_bootstrap.json", broken);
        let notes = task.connect(&[], &[]).notes;
        assert!(matches!(notes.as_slice(), [note] if note.starts_with(&format!("{file} is not used: "))), "{notes:?}");
    }
}

#[test]
fn a_token_file_that_may_not_be_read_gives_way_to_the_bootstrap() {
    let task = Task::bootstrapped();
    // A socket cannot be opened, not even by root.
    let _socket = UnixListener::bind(task.path("secrets/si_token")).unwrap();
    let agent = task.connect(&[], &[]).agent;
    assert_eq!((agent.token, agent.token_file), (Some(Secret::new("t0ps3cret")), None));
}

#[test]
fn what_is_said_wins_over_the_bootstrap() {
    let task = Task::bootstrapped();
    task.write("secrets/si_token", "unused");
    let options = task.connect(
        &["-admin-bind=off", "-envoy-ready-bind-address=::1", "-envoy-ready-bind-port=7", "-http-addr=h:1"],
        &[("CONSUL_HTTP_TOKEN", "mine")],
    );
    assert_eq!((options.process.admin, options.ready), (AdminBind::Off, Some("[::1]:7".parse().unwrap())));
    assert_eq!((options.agent.token, options.agent.token_file), (Some(Secret::new("mine")), None));
    assert_eq!((options.agent.address.as_str(), options.agent.advice), ("h:1", None));

    for (line, env) in [(&["-proxy-id=other"][..], &[][..]), (&[], &[("CONNECT_PROXY_ID", "other")])] {
        fs::remove_file(task.path("secrets/si_token")).unwrap_or_default();
        let options = task.connect(line, env);
        assert_eq!(options.selector, ProxySelector::ProxyId("other".to_owned()));
        // The bootstrap is that of another proxy.
        assert_eq!((options.agent.token, options.process.admin, options.ready), (None, AdminBind::Usual, None));
    }
    let options = task.connect(&["-proxy-id", ID], &[]);
    assert_eq!(options.agent.token, Some(Secret::new("t0ps3cret")), "it is ours");
}

#[test]
fn without_a_bootstrap_the_allocation_is_looked_up() {
    let task = Task::new();
    let selector = |env: &[(&str, &str)]| task.connect(&[], env).selector;
    let of = |service: Option<&str>| {
        let service = service.map(str::to_owned);
        ProxySelector::NomadTask { allocation: "a1".to_owned(), group: "front".to_owned(), service }
    };
    assert_eq!(selector(&[]), of(None));
    assert_eq!(selector(&[("NOMAD_TASK_NAME", "aralez")]), of(None));
    assert_eq!(selector(&[("NOMAD_TASK_NAME", "connect-proxy-web")]), of(Some("web")));
    assert_eq!(selector(&[("CONNECT_SIDECAR_FOR", "web-1")]), ProxySelector::SidecarFor("web-1".to_owned()));
    task.write("secrets/envoy_bootstrap.json", "cut off in the mid");
    assert_eq!(selector(&[]), of(None));
    assert!(refusal(&["connect"], &[("NOMAD_GROUP_NAME", "front")]).contains("-sidecar-for SERVICE-ID"));
}

#[test]
fn the_agent_is_looked_for_where_nomad_may_have_put_it() {
    let task = Task::bootstrapped();
    let agent = |env: &[(&str, &str)]| task.connect(&[], env).agent;
    assert_eq!(agent(&[("CONSUL_HTTP_ADDR", "h:1")]).address, "h:1");
    let host = agent(&[]);
    assert_eq!(host.address, "10.0.0.7:8500");
    let advice = host.advice.unwrap();
    assert!(["10.0.0.7:8500", "CONSUL_HTTP_ADDR", "sidecar_task"].iter().all(|part| advice.contains(part)), "{advice}");
    assert_eq!(agent(&[("NOMAD_IP_connect_proxy_web", "")]).address, "127.0.0.1:8500");
    let socket = task.write("alloc/tmp/consul_http.sock", "");
    assert_eq!(agent(&[]).address, format!("unix://{socket}"));

    // A name as Nomad cleans it, in an injected task without a bootstrap.
    let named = [("NOMAD_TASK_NAME", "connect-proxy-my-api"), ("NOMAD_IP_connect_proxy_my_api", "fd00::1")];
    assert_eq!(Task::new().connect(&[], &named).agent.address, "[fd00::1]:8500");
    assert!(connect(&["-sidecar-for=web"]).agent.advice.is_none());
}

#[test]
fn the_arguments_of_envoy_are_understood() {
    let task = Task::bootstrapped();
    let file = task.path("secrets/envoy_bootstrap.json");
    let file = file.as_str();
    for (line, threads, level) in [
        (&["-c", file, "-l", "debug", "--concurrency", "3", "--disable-hot-restart"][..], 3, Level::Debug),
        (&["--config-path", file, "--log-level", "warning", "--concurrency", "0"], 1, Level::Warn),
        (&["--concurrency=2", "-l", "critical", "--base-id", "7", "-c", file], 2, Level::Error),
        (&["-c", file, "--restart-epoch", "0", "--drain-time-s", "600", "--allow-unknown-fields", "-l", "off"], 1, Level::Off),
        (&["-c", file, "--stats-tag", "a:b", "--stats-tag", "c:d", "--use-dynamic-base-id"], 1, Level::Info),
        (&["-c", file], 1, Level::Info),
        (&["serve", "-c", file], 1, Level::Info),
    ] {
        let options = as_envoy(line, &[]);
        assert_eq!(options.selector, ProxySelector::ProxyId(ID.to_owned()), "{line:?}");
        assert_eq!((options.process.settings.threads, options.process.settings.log_level), (threads, level), "{line:?}");
        assert_eq!(options.process.admin, AdminBind::At("127.0.0.2:19001".parse().unwrap()), "{line:?}");
        assert_eq!(options.agent.token, Some(Secret::new("t0ps3cret")), "{line:?}");
    }
    let nomads = as_envoy(&["-c", file, "-l", "info", "--concurrency", "1", "--disable-hot-restart"], &[]);
    assert!(nomads.notes.is_empty(), "{:?}", nomads.notes);
    assert!(nomads.agent.advice.unwrap().contains("CONSUL_HTTP_ADDR"));
    assert_eq!(as_envoy(&["-c", file, "--socket-mode", "600", "--log-path", "/l"], &[]).notes.len(), 1);

    let env = [("ARALEZ_THREADS", "4"), ("CONSUL_HTTP_ADDR", "h:1"), ("CONNECT_PROXY_ID", "other")];
    let options = as_envoy(&["-c", file, "-admin-bind=off"], &env);
    assert_eq!((options.process.settings.threads, options.process.admin), (4, AdminBind::Off));
    assert_eq!((options.agent.address.as_str(), options.selector), ("h:1", ProxySelector::ProxyId("other".to_owned())));
}

#[test]
fn arguments_of_envoy_without_its_file_are_refused_and_other_files_are_as_before() {
    let task = Task::bootstrapped();
    let (file, main) = (task.path("secrets/envoy_bootstrap.json"), task.write("main.yaml", "proxy_address_http: 127.0.0.1:1\n"));
    let absent = task.path("absent.json");
    for (line, part) in [
        (&["-c", &main, "--concurrency", "2"][..], "main.yaml is none"),
        (&["-c", &main, "--disable-hot-restart"], "main.yaml is none"),
        (&["-c", &absent, "-l", "info"], "No such file"),
        (&["-c", &file, "--config-yaml", "{}"], "write the bootstrap to a file"),
        (&["-c", &file, "--mode", "validate"], "leave it out"),
        (&["-c", &file, "-l", "loud"], "trace, debug, info"),
        (&["-c", &file, "-u"], "-upgrade-sock"),
    ] {
        let text = refusal(line, &[]);
        assert!(text.contains(part) && !text.contains("t0ps3cret"), "{line:?}: {text}");
    }
    for file in [main.as_str(), absent.as_str(), "/dev/null"] {
        let Ok(Command::Serve(options)) = parse_with(&["-c", file], &[]) else { panic!("{file}") };
        assert_eq!(options.conf, Path::new(file));
    }
}
