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
