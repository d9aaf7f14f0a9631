//! The keys of `authorization`.

use crate::config::{
    read::Url,
    shape::{Of, Several, Switch, Time, Within, Word, Words, section},
};

section! {
    /// Who may come.
    struct Auth {
        /// The kind: basic, apikey, jwt or forward.
        r#type: Word<Kind>,
        /// What is asked for. basic: user:password, one or several; apikey: the key, one or several; jwt: the secret; forward: the URL.
        creds ["data"]: Several<String>,
        /// A file that holds creds, a line each.
        creds_file: String,
        /// basic: a file of user:hash lines, bcrypt.
        htpasswd: String,
        /// basic: what browsers show. Default aralez.
        realm: String,
        /// jwt: the secret of HS256, HS384 and HS512.
        secret: String,
        /// jwt: a file that holds the secret.
        secret_file: String,
        /// jwt: public keys in PEM, in the file itself.
        pem: String,
        /// jwt: public keys, a PEM file.
        pem_file: String,
        /// jwt: a key set (JWKS), a file; read again when it changes.
        jwks_file ["jwks"]: String,
        /// jwt: a key set (JWKS), a URL; fetched again and again.
        jwks_url: Of<Url>,
        /// jwt: what iss must be. Default: anything.
        issuer ["iss"]: String,
        /// jwt: what aud must have one of. Default: anything.
        audience ["aud", "audiences"]: Several<String>,
        /// jwt: tolerance for exp and nbf. Default 30s.
        leeway: Time,
        /// forward: the URL that decides.
        url: Of<Url>,
        /// forward: how long its answer may take. Default 5s.
        timeout: Time,
        /// forward: headers of the request that it is shown. Default: all.
        request_headers: Several<Of<http::HeaderName>>,
        /// forward: headers of its answer that servers get; a * at the end is for all that begin so. Default: the usual ones of such servers.
        response_headers: Several<String>,
        /// Whether the credentials are kept from servers. Default false.
        strip: bool,
        /// Failures a minute and client before 429; 0 or false for no bound. Default 20, with forward no bound.
        failures: Switch<Within<0, 1_000_000>>,
        refused "algorithms": "a key verifies the algorithms of its own kind, and no others; take the key away",
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    Basic,
    ApiKey,
    Jwt,
    Forward,
}

impl Words for Kind {
    const WHAT: &'static str = "kind of authorization";
    const WORDS: &'static [(&'static str, Self)] =
        &[("basic", Self::Basic), ("apikey", Self::ApiKey), ("jwt", Self::Jwt), ("forward", Self::Forward)];
}
