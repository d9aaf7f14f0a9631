//! The layouts and spellings of both times, and how files come together.

use super::{main_of, routes, routes_of};
use crate::{config::upstreams::Upstreams, model::ingress::auth::AuthKind};

/// The routes of a file as `name -> servers`.
fn shown(upstreams: &Upstreams) -> Vec<String> {
    let routing = &upstreams.routing;
    let servers = |place: &usize| serde_json::json!(routing.pools[*place].source).to_string();
    let route = |route: &crate::model::ingress::IngressRoute| {
        format!("{} {}", route.route.name, route.route.legs[0].clusters.iter().map(servers).collect::<Vec<_>>().join(" "))
    };
    routing.routes.iter().map(route).collect()
}

#[test]
fn hosts_load_under_upstreams_and_at_the_top_level() {
    let inside = "provider: file\nupstreams:\n  a.test:\n    paths:\n      /: {servers: [\"127.0.0.1:1\"]}\n";
    let outside = "provider: file\na.test:\n  paths:\n    /: {servers: [\"127.0.0.1:1\"]}\n";
    assert_eq!(routes(inside).unwrap().routing, routes(outside).unwrap().routing);
    assert_eq!(shown(&routes(inside).unwrap()).len(), 1);
    let both = "upstreams: {a.test: {paths: {/: {servers: [\"b:1\"]}}}}\na.test: {paths: {/: {servers: [\"b:1\"]}}}\n";
    assert!(routes(both).unwrap_err().to_string().contains("is the same host as"));
}

#[test]
fn a_file_of_conf_d_replaces_whole_hosts_and_the_last_one_wins() {
    let first = "rate_limit: 5\nupstreams:\n  a.test: {paths: {/: {servers: [\"127.0.0.1:1\"]}, /x: {servers: [\"127.0.0.1:1\"]}}}\n  b.test: {paths: {/: {servers: [\"127.0.0.1:2\"]}}}\n";
    let second = "A.test: {paths: {/: {servers: [\"127.0.0.1:3\"]}}}\nc.test: {paths: {/: {servers: [\"127.0.0.1:4\"]}}}\n";
    let third = "upstreams: {a.test: {paths: {/y: {servers: [\"127.0.0.1:5\"]}}}}\n";
    let merged =
        routes_of(&[("u.yaml", first), ("conf.d/1.yaml", second), ("conf.d/2.yaml", third), ("conf.d/3.yaml", "# none\n")]).unwrap();
    let names: Vec<&str> = merged.routing.routes.iter().map(|route| &*route.route.name).collect();
    assert_eq!(names, ["a.test/y", "b.test/", "c.test/"]);
    assert!(merged.routing.routes.iter().all(|route| route.filters.limits[0].rate == 5), "what holds for all paths holds for these too");
    assert_eq!(merged.routing.hosts.find("A.TEST:80").unwrap().find("/y/z"), Some(0));
}

#[test]
fn both_spellings_of_keys_mean_the_same() {
    for (one, other) in [
        ("headers: [\"x: 1\"]", "client_headers: [\"x: 1\"]"),
        ("authorization: {type: apikey, creds: k}", "authorization: {type: apikey, data: k}"),
        ("sticky_sessions: 60", "sticky_sessions: 60s"),
        ("tls_server_name: b", "tls_name: b"),
    ] {
        let file = |keys: &str| format!("{keys}\nupstreams: {{a.test: {{paths: {{/: {{servers: [\"b:1\"]}}}}}}}}\n");
        assert_eq!(routes(&file(one)).unwrap().routing, routes(&file(other)).unwrap().routing, "{one} {other}");
    }
    let service = |keys: &str| {
        format!("provider: consul\nconsul: {{servers: [\"http://127.0.0.1:8500\"], services: [{{{keys}}}]}}\nupstreams: {{}}\n")
    };
    let seeds = routes(&service("proxy: a.test, real: web")).unwrap();
    assert_eq!(seeds.routing, routes(&service("hostname: a.test, upstream: web, path: /")).unwrap().routing);
    assert_eq!(seeds.routing, routes("upstreams: {a.test: {paths: {/: {consul: {service: web}}}}}\n").unwrap().routing);
    assert_eq!(seeds.consul[0].address, "http://127.0.0.1:8500");
    assert!(seeds.consul[0].ssl_verify);
}

#[test]
fn both_spellings_of_main_yaml_mean_the_same() {
    let file = |keys: &str| format!("upstreams_conf: u\nproxy_address_http: 127.0.0.1:1\n{keys}\n");
    for (one, other) in [
        ("user: a\ngroup: b", "runuser: a\nrungroup: b"),
        ("proxy_certificates: c/certificates", "proxy_configs: c"),
        ("error_log: l", "log_file: l"),
        ("grace_period: 7s", "grace_period_seconds: 7"),
        ("hc_method: head", "hc_method: HEAD"),
        ("proxy_tls_grade: high", "proxy_tls_grade: High"),
    ] {
        let (one, other) = (main_of(&file(one)).unwrap(), main_of(&file(other)).unwrap());
        assert_eq!(one.process, other.process);
        assert_eq!((one.certificates, one.health), (other.certificates, other.health));
    }
    let main = main_of(&file("user: a\ngroup: b\nproxy_configs: c")).unwrap();
    assert_eq!((main.process.user.as_deref(), main.process.group.as_deref()), (Some("a"), Some("b")), "not swapped");
    assert_eq!(main.certificates.unwrap().to_str(), Some("/etc/aralez/c/certificates"));
    assert_eq!(main.upstreams.to_str(), Some("/etc/aralez/u"));
}

/// Every key of the seeds' table, with the values that stand in it.
#[test]
fn the_table_of_the_seeds_loads() {
    let table = r#"
threads: 12
user: aralez
group: aralez
daemon: false
upstream_keepalive_pool_size: 500
pid_file: /tmp/aralez.pid
error_log: /tmp/aralez_err.log
upgrade_sock: /tmp/aralez.sock
config_address: 0.0.0.0:3000
config_tls_address: 0.0.0.0:3001
config_tls_certificate: etc/server.crt
proxy_tls_grade: high
config_tls_key_file: etc/key.pem
proxy_address_http: 0.0.0.0:6193
proxy_address_tls: 0.0.0.0:6194
proxy_certificates: etc/certs/
upstreams_conf: etc/upstreams.yaml
log_level: info
hc_method: HEAD
hc_interval: 2
master_key: 5aeff7f9-7b94-447c-af60-e8c488544a3e
file_server_folder: /some/local/folder
file_server_address: 127.0.0.1:3002
config_api_enabled: true
"#;
    let main = main_of(table).unwrap();
    assert_eq!((main.process.threads, main.process.keepalive_pool, main.process.listen.len()), (12, Some(500), 5));
    assert!(main.api.enabled && main.api.tls.is_some() && main.api.master_key.is_some());
    assert_eq!(main.listeners.tls.unwrap().hsts.map(|time| time.as_secs()), Some(63_072_000));
}

#[test]
fn variables_stand_for_texts_numbers_and_truth_values() {
    let main = main_of("{threads: \"${NUMBER}\", daemon: \"${YES}\", hc_interval: \"${SECONDS}\", master_key: \"x${SECRET}y\", user: \"$${a}\", proxy_address_http: \"127.0.0.1:${PORT}\", upstreams_conf: u}").unwrap();
    assert_eq!((main.process.threads, main.process.daemon, main.health.interval.as_secs()), (7, true, 5));
    assert_eq!(main.api.master_key.unwrap().expose(), "xa-secret-out-of-the-environmenty");
    assert_eq!(main.process.user.as_deref(), Some("${a}"));
    let file = routes("rate_limit: \"${NUMBER}\"\nupstreams: {a.test: {paths: {/: {servers: [\"b:${PORT}\"]}}}}\n").unwrap();
    assert_eq!(file.routing.routes[0].filters.limits[0].rate, 7);
}

#[test]
fn anchors_and_merges_of_yaml_work() {
    let file = routes("upstreams:\n  a.test: &a {paths: {/: &p {servers: [\"b:1\"], rate_limit: 3}}}\n  c.test: *a\n  d.test: {paths: {/: {<<: *p, rate_limit: 4}}}\n").unwrap();
    let rates: Vec<u32> = file.routing.routes.iter().map(|route| route.filters.limits[0].rate).collect();
    assert_eq!(rates, [3, 3, 4]);
}

#[test]
fn secrets_may_have_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "in a file\n").unwrap();
    let text = "{proxy_address_http: 127.0.0.1:1, upstreams_conf: upstreams.yaml, master_key_file: key}";
    std::fs::write(folder.path().join("main.yaml"), text).unwrap();
    let routes = "authorization: {type: apikey, creds_file: key}\nupstreams: {a.test: {paths: {/: {servers: [\"b:1\"]}}}}\n";
    std::fs::write(folder.path().join("upstreams.yaml"), routes).unwrap();
    let main = crate::config::main_file::MainFile::load(&folder.path().join("main.yaml")).unwrap();
    assert_eq!(main.api.master_key.as_ref().unwrap().expose(), "in a file");
    let upstreams = crate::config::upstreams::load(&main).unwrap();
    let AuthKind::ApiKey(keys) = &upstreams.routing.routes[0].filters.auth.as_ref().unwrap().kind else { panic!("an API key") };
    assert_eq!(keys[0].expose(), "in a file");
    assert_eq!(upstreams.also_read, [folder.path().join("key")]);
}
