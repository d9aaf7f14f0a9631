//! What is refused, and in which words.

use super::{main_of, routes, routes_of};
use crate::config::fault::Faults;

/// A `main.yaml` that is in order but for one thing.
fn main_with(line: &str) -> String {
    format!("proxy_address_http: 127.0.0.1:8000\nupstreams_conf: upstreams.yaml\n{line}\n")
}

/// A routes file whose one path is in order but for one thing.
fn path_with(keys: &str) -> String {
    format!("upstreams:\n  a.test:\n    paths:\n      /:\n        {keys}\n")
}

/// What is amiss with what was told of a text: it must be exactly one line, which has the place and the words.
fn amiss(text: &str, told: Result<(), Faults>, expected: &str) -> Option<String> {
    let (place, words) = expected.split_once(' ').unwrap();
    let told = told.err().map(|faults| faults.to_string()).unwrap_or_default();
    let after_file = told.split_once(".yaml:").map_or("", |(_, rest)| rest);
    let is_it = told.lines().count() == 1 && after_file.starts_with(&format!("{place}: ")) && told.contains(words);
    (!is_it).then(|| format!("{text}\nexpected {expected}\ngave     {told}\n"))
}

/// Checks a table: every row is told in its words.
fn table<'a>(rows: impl IntoIterator<Item = (String, &'a str)>, load: impl Fn(&str) -> Result<(), Faults>) {
    let wrong: Vec<String> = rows.into_iter().filter_map(|(text, expected)| amiss(&text, load(&text), expected)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn main_file(text: &str) -> Result<(), Faults> {
    main_of(text).map(|_| ())
}

fn routes_file(text: &str) -> Result<(), Faults> {
    routes(text).map(|_| ())
}

#[test]
fn a_bad_main_file_is_told_in_these_words() {
    let rows = [
        ("thread: 2", "3:1 unknown key \"thread\"; did you mean \"threads\"?"),
        ("proxy_adress_tls: 127.0.0.1:1", "3:1 unknown key \"proxy_adress_tls\"; did you mean \"proxy_address_tls\"?"),
        ("bananas: 2", "3:1 unknown key \"bananas\"; the documentation and `aralez schema` name the known ones"),
        ("threads: many", "3:10 a text stands here, where a whole number from 0 to 1024 is wanted"),
        ("threads: \"2\"", "3:10 a text stands here"),
        ("threads: -1", "3:10 -1 is not a whole number from 0 to 1024"),
        ("threads: 1.5", "3:10 a number stands here, where a whole number"),
        ("threads:", "3:1 \"threads\" has no value; give it one, or take the key away"),
        ("threads: 1\nthreads: 2", "4:1 a second \"threads\"; the first is in line 3; keep one"),
        ("user: a\nrunuser: b", "4:1 \"runuser\" is the same key as \"user\"; the first is in line 3; keep one"),
        ("user: 33", "3:7 a number stands here, where a text (put it in quotes) is wanted"),
        ("daemon: maybe", "3:9 a text stands here, where true or false is wanted"),
        ("daemon: \"true\"", "3:9 where true or false is wanted"),
        ("log_level: loud", "3:12 \"loud\" is no log level; use trace, debug, info, warn, error, off"),
        ("log_format: xml", "3:13 \"xml\" is no log format; use text, json"),
        ("proxy_address_tls: 127.0.0.1:8001", "3:20 proxy_address_tls without certificates; name the folder"),
        ("proxy_address_tls: localhost\nproxy_certificates: c", "3:20 \"localhost\" is no address to listen on; use IP:port"),
        ("config_address: 127.0.0.1:70000", "3:17 \"127.0.0.1:70000\" is no address to listen on"),
        ("config_address: 127.0.0.1:8000", "3:17 config_address is the address of proxy_address_http too"),
        ("config_address: 0.0.0.0:8000", "3:17 config_address is the address of proxy_address_http too"),
        ("config_tls_address: 127.0.0.1:1", "3:21 config_tls_address without a certificate; name its files"),
        ("config_api_enabled: true", "3:21 config_api_enabled without master_key: everybody could push"),
        ("master_key: \"\"", "3:13 an empty master_key would let everybody in; write a long random one"),
        ("master_key_file: nowhere", "3:18 nowhere: cannot be read"),
        ("master_key: a\nmaster_key_file: b", "4:18 master_key and master_key_file exclude each other; keep one"),
        ("master_key: ${NO_SUCH}", "3:13 the environment variable NO_SUCH is not set; set it before the start"),
        ("master_key: ${NO-SUCH}", "3:13 \"NO-SUCH\" names no environment variable"),
        ("master_key: a${SECRET", "3:13 ${ has no }; write ${NAME}, or $${"),
        ("threads: ${SECRET}", "3:10 a text stands here, where a whole number"),
        ("proxy_tls_grade: best", "3:18 \"best\" is no TLS grade; use high, medium, unsafe"),
        ("proxy_certificates: a\nproxy_configs: b", "4:16 proxy_certificates and proxy_configs name the same folder; keep one"),
        ("hsts: true", "3:7 hsts without proxy_address_tls"),
        (
            "client_certificates: {required: true}\nproxy_address_tls: 127.0.0.1:1\nproxy_certificates: c",
            "3:22 client_certificates without ca",
        ),
        ("hc_method: PUT", "3:12 \"PUT\" is no method of health checks; use head, get, post"),
        ("hc_interval: 0", "3:14 hc_interval 0 would probe without a pause"),
        ("hc_interval: -2", "3:14 where a time (seconds, or a text such as \"200ms\""),
        ("hc_interval: soon", "3:14 where a time (seconds, or a text such as \"200ms\""),
        ("hc_interval: 999999999999", "3:14 at most ten years) is wanted"),
        ("file_server_folder: www", "3:21 file_server_folder without an address; say where to listen"),
        ("file_server_address: 127.0.0.1:1", "3:22 file_server_address without a folder"),
        ("trusted_proxies: 10.0.0.1/8", "3:18 \"10.0.0.1/8\" has bits behind its prefix; write 10.0.0.0/8"),
        ("trusted_proxies: [10.0.0.0/33]", "3:19 \"10.0.0.0/33\" is no network"),
        ("dns_servers: nowhere.example", "3:14 \"nowhere.example\" is no DNS server; write its IP or IP:port"),
        ("access_log: error", "3:13 the access log cannot be cut down to errors; write all, or off"),
        ("access_log: {format: \"%NOPE%\"}", "3:22 %NOPE% is no operator of the access log"),
        ("acme: {domains: [a.test]}", "3:7 acme without a folder for certificates"),
        ("acme: {}\nproxy_certificates: c", "3:7 acme without domains"),
        ("acme: {domains: [\"*.a.test\"]}\nproxy_certificates: c", "3:18 a wildcard needs the challenge dns-01"),
        ("acme: {domains: [a.test, A.test]}\nproxy_certificates: c", "3:26 \"A.test\" is ordered twice"),
        ("acme: {domains: [a.test], challenge: tls-alpn-01}\nproxy_certificates: c", "3:7 asks at proxy_address_tls, which is not there"),
        (
            "acme: {domains: [a.test], challenge: dns-01}\nproxy_certificates: c",
            "3:38 \"dns-01\" is no challenge; use http-01, tls-alpn-01",
        ),
        ("work_stealing: true", "3:1 \"work_stealing\" means nothing here; it is always on"),
        ("tcp_keepalive_idle: 10", "3:1 \"tcp_keepalive_idle\" means nothing here"),
        ("max_retries: 3", "3:1 \"max_retries\" means nothing here; retries belong to routes"),
        ("cache_size_mb: 3", "3:1 \"cache_size_mb\" means nothing here; answers are not cached"),
    ];
    table(rows.map(|(row, expected)| (main_with(row), expected)), main_file);
}

#[test]
fn a_main_file_that_lacks_what_it_needs_is_told_so() {
    let rows = [
        ("upstreams_conf: u", "1:1 proxy_address_http is missing; say where to listen"),
        ("proxy_address_http: 127.0.0.1:1", "1:1 upstreams_conf is missing; name the file with the routes"),
        ("", "1:1 nothing stands here, where a map is wanted"),
        ("[]", "1:1 a list stands here, where a map is wanted"),
        (
            "proxy_address_http: 127.0.0.1:3000\nupstreams_conf: u\nmaster_key: k",
            "1:1 is where the config API listens if nothing else is said",
        ),
    ];
    table(rows.map(|(row, expected)| (row.to_owned(), expected)), main_file);
}

#[test]
fn a_bad_path_is_told_in_these_words() {
    let rows = [
        ("server: [\"a:1\"]", "5:9 unknown key \"server\"; did you mean \"servers\"?"),
        ("{}", "5:9 the path \"/\" leads nowhere; give it servers, consul, kubernetes, files or redirect_to"),
        ("servers: []", "5:18 the path \"/\" has no server; list at least one"),
        ("servers: \"a:1\"", "5:18 a text stands here, where a list is wanted"),
        ("servers: [8080]", "5:19 a number stands here, where a server (\"host:port\", or a map with address) is wanted"),
        ("servers: [\"127.0.0.1\"]", "5:19 \"127.0.0.1\" has no port; write host:port"),
        ("servers: [\"127.0.0.1:0\"]", "5:19 \"0\" is no port; use 1 to 65535"),
        ("servers: [\"127.0.0.1:99999\"]", "5:19 \"99999\" is no port"),
        ("servers: [\"256.0.0.1:80\"]", "5:19 \"256.0.0.1\" is neither a host's name nor an address"),
        ("servers: [\"::1:80\"]", "5:19 \"::1:80\" has too many colons; put an IPv6 address in brackets"),
        ("servers: [\"[::1]\"]", "5:19 \"[::1]\" has no port"),
        ("servers: [\"[nope]:80\"]", "5:19 \"nope\" is neither a host's name nor an address"),
        ("servers: [\"a b:80\"]", "5:19 \"a b\" is neither a host's name nor an address"),
        ("servers: [\"ftp://a:80\"]", "5:19 \"ftp\" is no scheme of a server; use http, https, h2c, grpc or grpcs"),
        ("servers: [\"http://a:80/x\"]", "5:19 is more than a server; name its host and port only"),
        ("servers: [\"unix:run/app.sock\"]", "5:19 is no socket; write its path from the root on"),
        ("servers: [\"a:1\", \"A:1\"]", "5:26 a second server a:1; keep one; its weight is its share"),
        ("servers: [{weight: 2}]", "5:19 a server without address"),
        ("servers: [{address: \"a:1\", weight: 0}]", "5:44 0 is not a whole number from 1 to 128"),
        ("servers: [{address: \"a:1\", backup: true}]", "5:18 all servers are backup"),
        ("servers: [\"127.0.0.1:3000\"]", "5:19 127.0.0.1:3000 is the config API; name another server, or write allow_api: true"),
        ("servers: [\"[::]:3000\"]", "5:19 is the config API"),
        ("servers: [\"localhost:3000\"]", "5:19 localhost:3000 is the config API"),
        ("{servers: [\"a:1\"], consul: {service: s}}", "5:36 the path \"/\" has servers already"),
        ("{servers: [\"a:1\"], files: {root: www}}", "5:19 the path \"/\" has files already; keep files or servers"),
        ("files: {}", "5:16 files without root"),
        ("files: {root: w, index: a/b}", "5:33 \"a/b\" is no name of a file"),
        ("{redirect_to: \"https://a\", files: {root: w}}", "5:43 files and redirect_to exclude each other"),
        ("redirect_to: a.test", "5:22 \"a.test\" is no URL; write http:// or https:// with a host"),
        ("redirect_to: ftp://a.test", "5:22 is no URL"),
        ("redirect_to: \"https://a.test:x\"", "5:22 is no URL"),
        ("{redirect_to: \"https://a\", redirect_status: 304}", "5:53 this status is no redirect; use 301, 302, 303, 307 or 308"),
        ("{servers: [\"a:1\"], redirect_status: 301}", "5:45 redirect_status without redirect_to"),
        ("{servers: [\"a:1\"], rewrite: /a, strip_prefix: true}", "5:55 rewrite and strip_prefix exclude each other"),
        ("{servers: [\"a:1\"], rewrite: a}", "5:37 \"a\" is no path to rewrite to"),
        ("{redirect_to: \"https://a\", strip_prefix: true}", "5:50 only requests to servers are rewritten"),
        ("{servers: [\"a:1\"], headers: [\"no colon\"]}", "5:38 \"no colon\" is no header; write \"Name: value\""),
        ("{servers: [\"a:1\"], headers: [\"a b: c\"]}", "5:38 \"a b\" is no header's name"),
        ("{servers: [\"a:1\"], headers: [\"a: b\\r\\nc: d\"]}", "5:38 is no header's value; use one line"),
        ("{servers: [\"a:1\"], server_headers: [\"Content-Length: 5\"]}", "5:45 Content-Length belongs to the connection"),
        ("{servers: [\"a:1\"], request_headers: {set: {Upgrade: x}}}", "5:52 Upgrade belongs to the connection"),
        ("{servers: [\"a:1\"], response_headers: {remove: [\"a:b\"]}}", "5:56 \"a:b\" is no header's name"),
        ("{servers: [\"a:1\"], rate_limit: 0}", "5:40 0 is not a whole number from 1"),
        ("{servers: [\"a:1\"], rate_limit: -1}", "5:40 -1 is not a whole number from 1"),
        ("{servers: [\"a:1\"], rate_limit: true}", "5:40 rate_limit: true does not say enough; write for example rate_limit: 100"),
        ("{servers: [\"a:1\"], rate_limit: {burst: 2}}", "5:40 rate_limit without rate"),
        (
            "{servers: [\"a:1\"], rate_limit: {rate: 2, by: ip}}",
            "5:54 \"ip\" says not who shares a counter; use client, source, header:NAME or claim:NAME",
        ),
        ("{servers: [\"a:1\"], x4xx_limit: 5}", "5:28 \"x4xx_limit\" means nothing here; it would shut out everybody"),
        ("{servers: [\"a:1\"], cors: true}", "5:34 cors: true does not say enough"),
        ("{servers: [\"a:1\"], cors: {}}", "5:34 cors without origins"),
        ("{servers: [\"a:1\"], cors: {origins: a.test}}", "5:44 \"a.test\" is no origin; write it as browsers do"),
        ("{servers: [\"a:1\"], cors: {origins: \"https://a.test/\"}}", "5:44 is no origin"),
        (
            "{servers: [\"a:1\"], cors: {origins: \"*\", credentials: true}}",
            "5:44 origin * with credentials would let every site act for the user",
        ),
        ("{servers: [\"a:1\"], cors: {origins: \"*\", methods: \"get it\"}}", "5:58 \"get it\" is no method"),
        ("{servers: [\"a:1\"], body_limit: big}", "5:40 where a size (bytes, or a text such as \"64KB\" or \"10MiB\") is wanted"),
        ("{servers: [\"a:1\"], compression: 11}", "5:41 11 is not a whole number from 1 to 9"),
        ("{servers: [\"a:1\"], timeout: 0}", "5:37 timeout is 0; give it a time"),
        ("{servers: [\"a:1\"], connect_timeout: 0}", "5:45 connect_timeout is 0"),
        ("{servers: [\"a:1\"], retries: 11}", "5:37 11 is not a whole number from 1 to 10"),
        ("{servers: [\"a:1\"], retries: {on: never}}", "5:42 \"never\" is no condition of a retry"),
        (
            "{servers: [\"a:1\"], balance: fair}",
            "5:37 \"fair\" is no way to balance; use round_robin, least_request, random, ring_hash, maglev",
        ),
        ("{servers: [\"a:1\"], hash_by: client}", "5:37 hash_by without hashing; write balance: ring_hash or maglev"),
        ("{servers: [\"a:1\"], balance: maglev, hash_by: ip}", "5:54 \"ip\" says not what is hashed"),
        ("{servers: [\"a:1\"], sticky_sessions: 0}", "5:45 sticky_sessions of less than a second"),
        ("{servers: [\"a:1\"], sticky_sessions: {cookie: \"a b\"}}", "5:54 \"a b\" is no name of a cookie"),
        ("{servers: [\"a:1\"], healthcheck: {method: PUT}}", "5:50 \"PUT\" is no method of health checks"),
        ("{servers: [\"a:1\"], healthcheck: {path: health}}", "5:48 \"health\" cannot be asked for"),
        ("{servers: [\"a:1\"], healthcheck: {expect: 2000}}", "5:50 where a status from 100 to 599"),
        ("{servers: [\"a:1\"], healthcheck: {expect: \"299-200\"}}", "5:50 where a status from 100 to 599"),
        ("{servers: [\"a:1\"], healthcheck: {type: tcp, path: /}}", "5:59 path is of probes by http; take it away"),
        ("{servers: [\"a:1\"], healthcheck: {service: s}}", "5:51 service is of probes by grpc"),
        ("{servers: [\"a:1\"], healthcheck: {interval: 0}}", "5:52 interval is 0"),
        ("{servers: [\"a:1\"], tls_certificate: c}", "5:45 tls_certificate without tls_key"),
        ("{servers: [\"a:1\"], tls_ca: nowhere.pem}", "5:36 nowhere.pem: cannot be read"),
        ("{servers: [\"a:1\"], tls_server_name: \"a b\"}", "5:45 \"a b\" is no name of a server"),
        ("{servers: [\"a:1\"], proxy_header: v3}", "5:42 \"v3\" is no version of the PROXY protocol; use v1, v2, off"),
        ("{servers: [\"a:1\"], allow: 10.0.0.0/40}", "5:35 \"10.0.0.0/40\" is no network"),
        ("consul: {tags: [a]}", "5:17 a service of Consul without its name"),
        ("consul: {service: s, connect: true, tags: [a]}", "5:51 tags means nothing to sidecars; take it away"),
        ("consul: {service: s, scheme: http, connect: true}", "5:38 scheme means nothing to sidecars"),
        ("{consul: {service: s, connect: true}, proxy_header: v1}", "5:18 proxy_header means nothing to sidecars"),
        ("consul: {service: s, scheme: gopher}", "5:38 \"gopher\" is no scheme of a server"),
    ];
    table(rows.map(|(row, expected)| (path_with(row), expected)), routes_file);
}

#[test]
fn a_bad_authorization_is_told_in_these_words() {
    let rows = [
        ("true", "1:16 authorization: true does not say enough"),
        ("{creds: a}", "1:16 authorization without type; say which: basic, apikey, jwt or forward"),
        ("{type: digest, creds: a}", "1:23 \"digest\" is no kind of authorization; use basic, apikey, jwt, forward"),
        ("{type: basic}", "1:16 basic without creds would let nobody in"),
        ("{type: basic, creds: nobody}", "1:37 basic asks for user and password; write \"user:password\""),
        ("{type: basic, creds: [\"a:b\", \"a:c\"]}", "1:45 a second password of \"a\"; keep one"),
        ("{type: basic, creds: \"a:$apr1$x$y\"}", "1:37 the password of \"a\" is a hash of another kind than bcrypt"),
        ("{type: basic, creds: \"a:$2y$10$short\"}", "1:37 the password of \"a\" is no whole bcrypt hash"),
        ("{type: basic, creds: \"a:b\", secret: s}", "1:52 secret is of authorization by jwt"),
        ("{type: basic, htpasswd: nowhere}", "1:40 nowhere: cannot be read"),
        ("{type: apikey}", "1:16 apikey without creds would let nobody in"),
        ("{type: apikey, creds: \"\"}", "1:38 empty creds would let everybody in"),
        ("{type: apikey, creds: 42}", "1:38 a number stands here, where a text (put it in quotes) is wanted"),
        ("{type: apikey, creds: k, realm: r}", "1:48 realm is of authorization by basic"),
        ("{type: jwt}", "1:16 jwt without a key would let nobody in"),
        ("{type: jwt, creds: a, secret: b}", "1:35 creds beside secret: the keys come from one place"),
        ("{type: jwt, secret: \"\"}", "1:36 an empty secret would let everybody in"),
        ("{type: jwt, pem: rubbish}", "1:33 no usable key"),
        ("{type: jwt, jwks_url: nowhere}", "1:38 \"nowhere\" is no URL"),
        ("{type: forward, url: \"http://u:p@a\"}", "1:37 a URL here has no name and password before its host; take them out"),
        ("{type: jwt, algorithms: [HS256]}", "1:28 \"algorithms\" means nothing here; a key verifies the algorithms of its own kind"),
        ("{type: forward}", "1:16 forward asks one server; write its URL as url"),
        ("{type: forward, creds: nowhere}", "1:39 \"nowhere\" is no URL"),
        ("{type: forward, url: \"http://a\", response_headers: \"a b\"}", "1:67 \"a b\" is no header's name"),
        ("{type: forward, url: \"http://a\", timeout: 0}", "1:58 timeout is 0"),
    ];
    table(rows.map(|(row, expected)| (format!("authorization: {row}\nupstreams: {{}}\n"), expected)), routes_file);
}

#[test]
fn a_bad_routes_file_is_told_in_these_words() {
    let rows = [
        ("", "1:1 the file is empty; write at least upstreams: {}"),
        ("# nothing\n", "2:1 the file is empty"),
        ("- a\n", "1:1 a list stands here, where a map is wanted"),
        ("upstreams: []\n", "1:12 a list stands here, where a map is wanted"),
        ("upstreams:\n", "1:1 \"upstreams\" has no value"),
        ("rate_limits: 5\nupstreams: {}\n", "1:1 unknown key \"rate_limits\"; did you mean \"rate_limit\"?"),
        ("kubernetes: {context: a, server: \"10.0.0.1:6443\"}\nupstreams: {}\n", "1:23 context and server exclude each other"),
        ("kubernetes: {token_file: t}\nupstreams: {}\n", "1:26 token_file without server"),
        ("kubernetes: {server: \"http://10.0.0.1\"}\nupstreams: {}\n", "1:22 \"http://10.0.0.1\" is no address of an API server"),
        ("kubernetes: {controller: a/b}\nupstreams: {}\n", "1:26 controller is of Ingresses, which are not followed"),
        ("provider: kubernetes\nkubernetes: {status_address: \"a b\"}\nupstreams: {}\n", "2:30 \"a b\" is no address and no name"),
        ("kubernetes: {services: [{hostname: a.test}]}\nupstreams: {}\n", "1:25 a Service of Kubernetes without its name"),
        ("provider: etcd\nupstreams: {}\n", "1:11 \"etcd\" is no provider"),
        ("provider: consul\nupstreams: {}\n", "1:11 provider consul without consul"),
        ("globals: {}\nupstreams: {}\n", "1:1 \"globals\" means nothing here"),
        ("upstreams: {a.test: {}}\n", "1:21 the host \"a.test\" has no paths"),
        ("upstreams: {a.test: {paths: {}}}\n", "1:29 the host \"a.test\" has no paths"),
        ("upstreams: {\"a.test:80\": {paths: {/: {servers: [\"b:1\"]}}}}\n", "1:13 \"a.test:80\" is no host; write a name"),
        ("upstreams: {\"a..test\": {paths: {/: {servers: [\"b:1\"]}}}}\n", "1:13 \"a..test\" is no host"),
        ("upstreams: {\"*.*.test\": {paths: {/: {servers: [\"b:1\"]}}}}\n", "1:13 \"*.*.test\" is no host"),
        (
            "upstreams:\n  a.test: {paths: {/: {servers: [\"b:1\"]}}}\n  A.test.: {paths: {/: {servers: [\"b:1\"]}}}\n",
            "3:3 \"A.test.\" is the same host as \"a.test\" in line 2; keep one",
        ),
        (
            "upstreams:\n  DEFAULT: {paths: {/: {servers: [\"b:1\"]}}}\n  \"*\": {paths: {/: {servers: [\"b:1\"]}}}\n",
            "3:3 \"*\" is the same host as \"DEFAULT\" in line 2; keep one",
        ),
        (
            "upstreams:\n  a.test: {paths: {/: {servers: [\"b:1\"]}}}\n  a.test: {paths: {/: {servers: [\"b:1\"]}}}\n",
            "3:3 a second \"a.test\"",
        ),
        (
            "upstreams:\n  a.test: {paths: {/: {servers: [\"b:1\"]}, /: {servers: [\"b:2\"]}}}\n",
            "2:43 a second \"/\"; the first is in line 2; keep one",
        ),
        (
            "upstreams: {a.test: {paths: {api: {servers: [\"b:1\"]}}}}\n",
            "1:30 the path \"api\" does not begin with a slash; write \"/api\"",
        ),
        ("upstreams: {a.test: {paths: {\"/a/*\": {servers: [\"b:1\"]}}}}\n", "1:30 the path \"/a/*\" has a * at its end; write \"/a\""),
        ("upstreams: {a.test: {paths: {\"/a?b\": {servers: [\"b:1\"]}}}}\n", "1:30 has a query or a fragment"),
        ("upstreams: {a.test: {paths: {/a//b: {servers: [\"b:1\"]}}}}\n", "1:30 no request ever has the path \"/a//b\"; write \"/a/b\""),
        ("upstreams: {a.test: {paths: {/a/../b: {servers: [\"b:1\"]}}}}\n", "1:30 no request ever has the path \"/a/../b\"; write \"/b\""),
        ("upstreams: {a.test: {paths: {/%61: {servers: [\"b:1\"]}}}}\n", "1:30 no request ever has the path \"/%61\"; write \"/a\""),
        ("upstreams: {a.test: {paths: {\"/ä\": {servers: [\"b:1\"]}}}}\n", "1:30 cannot be asked for"),
        ("upstreams: {}\n---\nupstreams: {}\n", "3:1 a second document begins here; a file is one"),
        ("upstreams: {a.test: [\n", "1:21 unclosed bracket"),
        ("upstreams: &a [*a]\n", "1:16 "),
        ("consul: {servers: \"ftp://a\"}\nupstreams: {}\n", "1:19 \"ftp://a\" is no address of an agent"),
        ("consul: {services: [{hostname: a}]}\nupstreams: {}\n", "1:21 a service of Consul without its name"),
        ("consul: {services: [{service_name: a}]}\nupstreams: {}\n", "1:21 a service of Consul without its host"),
        ("consul: {connect: maybe}\nupstreams: {}\n", "1:19 "),
        ("consul: {service: a/b}\nupstreams: {}\n", "1:19 \"a/b\" is no name of a service"),
        (
            "consul: {services: [{real: s, proxy: a.test}]}\nupstreams: {a.test: {paths: {/: {servers: [\"b:1\"]}}}}\n",
            "1:21 the host \"a.test\" has the path \"/\" already, in line 2",
        ),
    ];
    table(rows.map(|(row, expected)| (row.to_owned(), expected)), routes_file);
}

#[test]
fn everything_is_told_at_once_in_order_with_its_file() {
    let first = "rate_limit: no\nupstreams:\n  a b: {}\n  a.test:\n    paths:\n      x: {servers: [\"a\"]}\n      /: {servers: [\"b:0\"], headers: [\"x\"], hsts: 1}\n";
    let second = "provider: file\nb.test: {paths: {/: {}}}\n";
    let third = "upstreams: {b.test\n";
    let told = routes_of(&[("upstreams.yaml", first), ("conf.d/a.yaml", second), ("conf.d/b.yaml", third)]).unwrap_err().to_string();
    let places: Vec<&str> = told.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "conf.d/a.yaml:1:1",
            "conf.d/a.yaml:2:21",
            "conf.d/b.yaml:1:12",
            "upstreams.yaml:1:13",
            "upstreams.yaml:3:3",
            "upstreams.yaml:6:7",
            "upstreams.yaml:6:21",
            "upstreams.yaml:7:21",
            "upstreams.yaml:7:39",
            "upstreams.yaml:7:45",
        ],
        "{told}"
    );
}
