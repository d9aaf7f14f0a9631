//! The status page: one file that asks for `/status.json` again and again, and for nothing else.

use std::sync::LazyLock;

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    response::{Html, IntoResponse},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use openssl::sha::sha256;

/// Markup, style and script in one.
const PAGE: &str = include_str!("page.html");

pub(super) async fn page() -> impl IntoResponse {
    static POLICY: LazyLock<String> = LazyLock::new(policy);
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_SECURITY_POLICY, &POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE))
}

/// Allows this style, this script and questions to this server, and nothing else: names that others chose stand on the page.
fn policy() -> String {
    let hash = |tag: &str| {
        let inside = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        BASE64_STANDARD.encode(sha256(inside.map_or("", |(text, _)| text).as_bytes()))
    };
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash("style"),
        hash("script")
    )
}
