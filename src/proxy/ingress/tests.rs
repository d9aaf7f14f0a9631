use super::*;
use crate::model::matching::PathMatch;

#[test]
fn a_rewritten_path_begins_with_one_slash() {
    for (prefix, rewrite, path, expected) in [
        ("/api", "", "/api/x", "/x"),
        ("/api", "", "/api", "/"),
        ("/api", "", "/api/", "/"),
        ("/api", "/", "/api/x", "/x"),
        ("/api", "/", "/api", "/"),
        ("/api", "/v2", "/api/x/y", "/v2/x/y"),
        ("/api", "/v2/", "/api/x", "/v2/x"),
        ("/api", "v2", "/api/x", "/v2/x"),
        ("/api/", "/v2", "/api/x", "/v2/x"),
        ("/", "/v2", "/x", "/v2/x"),
        ("/", "", "/x", "/x"),
        ("/", "/v2", "/", "/v2/"),
        ("/api", "", "/api//evil.example/x", "/evil.example/x"),
        ("/api", "//evil.example", "/api/x", "/evil.example/x"),
        ("/api", "", "/api/%0d%0aX:%20y", "/%0d%0aX:%20y"),
    ] {
        let mut route = Route { rewrite: Some(rewrite.into()), ..Route::to(Vec::new()) };
        route.matches.path = Some(PathMatch { text: TextMatch::Prefix(prefix.into()), ignore_case: false });
        assert_eq!(rewritten(&route, path).as_deref(), Some(expected), "{prefix} to {rewrite:?}: {path}");
    }
    assert_eq!(rewritten(&Route::to(Vec::new()), "/x"), None);
}

#[test]
fn routes_of_a_service_take_the_path_that_its_route_sends_on() {
    let to = |prefix: &str, rewrite: Option<&str>| {
        let mut route = Route { rewrite: rewrite.map(Into::into), ..Route::to(Vec::new()) };
        route.matches.path = Some(PathMatch { text: TextMatch::Prefix(prefix.into()), ignore_case: false });
        route
    };
    let further = vec![to("/v2/", Some("/")), to("/v3", None), Route::to(Vec::new())];
    let route = |rewrite, further: &[Route]| IngressRoute {
        route: to("/api", rewrite),
        further: further.to_vec(),
        action: Action::Forward,
        filters: Arc::default(),
    };
    let (stripped, whole, alone) = (route(Some(""), &further), route(None, &further), route(Some(""), &[]));
    for (route, path, place, sent) in [
        (&stripped, "/api/v2/x", 0, Some("/x")),
        (&stripped, "/api/v3/x", 1, Some("/v3/x")),
        (&stripped, "/api/v4/x", 2, Some("/v4/x")),
        (&whole, "/api/v2/x", 2, None),
        (&alone, "/api/v2/x", 0, Some("/v2/x")),
    ] {
        let request = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        let (taken_at, taken) = taken(route, &gate::view(&request)).unwrap();
        assert_eq!((taken_at, sent_on(route, taken, path).as_deref()), (place, sent), "{path}");
    }
    let only_v2 = route(None, &further[..1]);
    assert!(taken(&only_v2, &gate::view(&RequestHeader::build("GET", b"/api", None).unwrap())).is_none());
}
