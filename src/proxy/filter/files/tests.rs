use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

/// A folder with something of everything, beside a secret outside of it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let www = folder.path().join("www");
    fs::create_dir_all(www.join("sub/deep")).unwrap();
    fs::create_dir_all(www.join(".git")).unwrap();
    fs::create_dir_all(www.join("list")).unwrap();
    fs::create_dir_all(folder.path().join("outside")).unwrap();
    for (name, text) in [
        ("secret", "SECRET"),
        ("outside/secret", "SECRET"),
        ("www/index.html", "<h1>home</h1>"),
        ("www/a.txt", "0123456789"),
        ("www/sub/index.html", "sub"),
        ("www/sub/b c.json", "{}"),
        ("www/list/one.txt", "1"),
        ("www/.env", "SECRET"),
        ("www/.git/config", "SECRET"),
        ("www/app.js", "plain"),
        ("www/app.js.gz", "gzipped"),
        ("www/empty", ""),
        ("www/back\\slash", "SECRET"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    symlink("../secret", www.join("out.txt")).unwrap();
    symlink(folder.path().join("secret"), www.join("absolute.txt")).unwrap();
    symlink("../outside", www.join("outside")).unwrap();
    symlink("sub/../../secret", www.join("around.txt")).unwrap();
    symlink("a.txt", www.join("within.txt")).unwrap();
    symlink("/proc/self/root/etc/passwd", www.join("magic")).unwrap();
    symlink("loop", www.join("loop")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, www.join("pipe"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    folder
}

fn rules(root: &Path) -> Files {
    Files {
        root: root.join("www"),
        index: vec!["index.htm".into(), "index.html".into()],
        listing: false,
        precompressed: false,
        cache_control: Some("max-age=60".into()),
        strip: "/".into(),
    }
}

fn request(method: &str, path: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
    for (name, value) in fields {
        head.append_header(*name, *value).unwrap();
    }
    head
}

/// Status, head and body of an answer.
async fn get(files: &Files, request: &RequestHeader) -> (u16, HeaderMap, String) {
    match find(files, request).await {
        Ok(FileAnswer { head, mut body, .. }) => {
            let mut all = Vec::new();
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                all.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            (head.status.as_u16(), head.headers.clone(), String::from_utf8(all).unwrap())
        }
        Err(Refusal::Answer(answer)) => {
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            (answer.status, answer.headers.into_iter().collect(), body)
        }
        Err(other) => panic!("{other}"),
    }
}

fn field(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

#[tokio::test]
async fn nothing_outside_the_folder_and_no_dot_file_is_served() {
    let folder = folder();
    let mut escapes = 0;
    for listing in [false, true] {
        let files = Files { listing, precompressed: true, ..rules(folder.path()) };
        for path in [
            "/../secret",
            "/..%2fsecret",
            "/%2e%2e/secret",
            "/%2e%2e%2fsecret",
            "/..%5csecret",
            "/sub/../../secret",
            "/sub/..%2f..%2fsecret",
            "/sub%2f..%2f..%2fsecret",
            "/%252e%252e/secret",
            "/....//secret",
            "/./.env",
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/.git/",
            "/sub/.%2e/.env",
            "/a.txt%00.html",
            "/%00",
            "/a.txt/",
            "/a.txt/x",
            "/%ff",
            "/%c0%ae%c0%ae/secret",
            "/back%5cslash",
            "/out.txt",
            "/absolute.txt",
            "/outside/",
            "/outside/secret",
            "/outside",
            "/around.txt",
            "/magic",
            "/loop",
            "/pipe",
            "/C:/secret",
            "//secret",
            "/etc/passwd",
            "/proc/self/environ",
            "/none",
            "/sub/none/",
            &format!("/{}", "a".repeat(5000)),
        ] {
            for method in ["GET", "HEAD"] {
                let (status, _, body) = get(&files, &request(method, path, &[("accept-encoding", "gzip")])).await;
                escapes += usize::from(body.contains("SECRET") || body.contains("root:"));
                assert_eq!(status, 404, "{method} {path}");
            }
        }
    }
    assert_eq!(escapes, 0);
}

#[tokio::test]
async fn files_folders_and_the_index_are_found() {
    let folder = folder();
    let files = rules(folder.path());
    for (path, status, kind, expected) in [
        ("/", 200, "text/html", "<h1>home</h1>"),
        ("/index.html", 200, "text/html", "<h1>home</h1>"),
        ("/a.txt", 200, "text/plain", "0123456789"),
        ("/%61.txt?v=1", 200, "text/plain", "0123456789"),
        ("/within.txt", 200, "text/plain", "0123456789"),
        ("/sub/", 200, "text/html", "sub"),
        ("/sub/b%20c.json", 200, "application/json", "{}"),
        ("/app.js", 200, "text/javascript", "plain"),
        ("/empty", 200, "application/octet-stream", ""),
        ("/list/", 404, "", "not found\n"),
    ] {
        let (got, headers, body) = get(&files, &request("GET", path, &[])).await;
        assert_eq!((got, &*field(&headers, "content-type"), &*body), (status, kind, expected), "{path}");
        if status == 200 {
            assert_eq!(
                (field(&headers, "content-length"), field(&headers, "cache-control")),
                (body.len().to_string(), "max-age=60".into())
            );
        }
    }
    for (path, location) in [("/sub", "/sub/"), ("/sub?a=b&c", "/sub/?a=b&c"), ("//sub", "/sub/"), ("/sub/deep", "/sub/deep/")] {
        let (status, headers, _) = get(&files, &request("GET", path, &[])).await;
        assert_eq!((status, field(&headers, "location")), (301, location.to_owned()), "{path}");
    }
    let below = Files { strip: "/static/".into(), ..rules(folder.path()) };
    for (path, status, location) in [
        ("/static/a.txt", 200, ""),
        ("/static", 301, "/static/"),
        ("/static/sub?x", 301, "/static/sub/?x"),
        ("/staticky", 404, ""),
        ("/a.txt", 404, ""),
    ] {
        let (got, headers, _) = get(&below, &request("GET", path, &[])).await;
        assert_eq!((got, field(&headers, "location")), (status, location.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn only_reading_is_possible() {
    let folder = folder();
    let files = rules(folder.path());
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        let (status, headers, _) = get(&files, &request(method, "/a.txt", &[])).await;
        assert_eq!((status, field(&headers, "allow")), (405, "GET, HEAD, OPTIONS".into()), "{method}");
    }
    let (status, headers, body) = get(&files, &request("OPTIONS", "/a.txt", &[])).await;
    assert_eq!((status, field(&headers, "allow"), &*body), (204, "GET, HEAD, OPTIONS".into(), ""));
    let (status, headers, body) = get(&files, &request("HEAD", "/a.txt", &[])).await;
    assert_eq!((status, field(&headers, "content-length"), &*body), (200, "10".into(), ""));
}

#[tokio::test]
async fn ranges_and_conditions_are_looked_at() {
    let folder = folder();
    let files = rules(folder.path());
    let ask = async |method: &str, fields: &[(&'static str, &str)]| {
        let (status, headers, body) = get(&files, &request(method, "/a.txt", fields)).await;
        (status, field(&headers, "content-range"), body)
    };
    let (_, headers, _) = get(&files, &request("GET", "/a.txt", &[])).await;
    let (tag, date) = (field(&headers, "etag"), field(&headers, "last-modified"));
    assert!(tag.starts_with('"') && field(&headers, "accept-ranges") == "bytes");
    let whole = || (200, String::new(), "0123456789".to_owned());
    let part = |range: &str, body: &str| (206, format!("bytes {range}/10"), body.to_owned());
    for (range, expected) in [
        ("bytes=0-3", part("0-3", "0123")),
        ("bytes=8-", part("8-9", "89")),
        ("bytes=8-99", part("8-9", "89")),
        ("bytes=-3", part("7-9", "789")),
        ("bytes=-99", whole()),
        ("bytes=10-", (416, "bytes */10".into(), String::new())),
        ("bytes=0-0,2-2", whole()),
        (&format!("bytes={}", ["0-0"; 1000].join(",")), whole()),
        ("bytes=5-2", whole()),
        ("bytes=", whole()),
        ("bytes=-", whole()),
        ("bytes=a-b", whole()),
        ("bytes=99999999999999999999-", whole()),
        ("items=0-3", whole()),
    ] {
        assert_eq!(ask("GET", &[("range", range)]).await, expected, "{range:.40}");
    }
    assert_eq!(ask("GET", &[("range", "bytes=0-1"), ("range", "bytes=2-3")]).await, whole());
    assert_eq!(ask("HEAD", &[("range", "bytes=0-1")]).await, (200, String::new(), String::new()), "ranges are for GET alone");
    for (known, expected) in [
        (&*tag, part("0-1", "01")),
        (&*date, part("0-1", "01")),
        (&*format!("W/{tag}"), whole()),
        ("\"other\"", whole()),
        ("Thu, 01 Jan 1970 00:00:00 GMT", whole()),
    ] {
        assert_eq!(ask("GET", &[("range", "bytes=0-1"), ("if-range", known)]).await, expected, "{known}");
    }
    assert_eq!(ask("GET", &[("range", "bytes=50-"), ("if-range", "\"other\"")]).await, whole());
    for (name, value, status) in [
        ("if-none-match", &*tag, 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", &*date, 304),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("if-match", &*tag, 200),
        ("if-match", "\"other\"", 412),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
    ] {
        let (got, headers, body) = get(&files, &request("GET", "/a.txt", &[(name, value)])).await;
        assert_eq!((got, body.is_empty()), (status, status != 200), "{name}: {value}");
        assert_eq!(field(&headers, "cache-control").is_empty(), status == 412, "{name}: {value}");
    }
}

#[tokio::test]
async fn precompressed_files_go_to_who_takes_them() {
    let folder = folder();
    for (precompressed, accepted, body, coding) in [
        (true, "gzip", "gzipped", "gzip"),
        (true, "br, gzip;q=0.5", "gzipped", "gzip"),
        (true, "br", "plain", ""),
        (true, "gzip;q=0", "plain", ""),
        (false, "gzip", "plain", ""),
    ] {
        let files = Files { precompressed, ..rules(folder.path()) };
        let (status, headers, got) = get(&files, &request("GET", "/app.js", &[("accept-encoding", accepted)])).await;
        assert_eq!((status, &*got, &*field(&headers, "content-encoding")), (200, body, coding), "{accepted}");
        assert_eq!(field(&headers, "content-type"), "text/javascript");
        assert_eq!(field(&headers, "vary").is_empty(), !precompressed);
    }
}

#[tokio::test]
async fn a_listing_shows_what_would_be_served() {
    let folder = folder();
    let files = Files { listing: true, index: Vec::new(), ..rules(folder.path()) };
    let (status, headers, page) = get(&files, &request("GET", "/", &[])).await;
    assert_eq!((status, &*field(&headers, "content-type")), (200, "text/html; charset=utf-8"));
    let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(links, ["../", "list/", "sub/", "a.txt", "app.js", "app.js.gz", "empty", "index.html", "within.txt"]);
}
