//! What the grades of TLS allow.
//!
//! Scores are those of the SSL Labs server rating guide: 0.3 × protocols + 0.3 × key exchange + 0.4 × ciphers, 80 and more is an A, HSTS makes it an A+.

use openssl::{
    error::ErrorStack,
    ssl::{SslContextBuilder, SslOptions, SslVersion},
};

use crate::model::ingress::TlsGrade;

/// TLS 1.2 of `high`: forward secrecy and AEAD, 256-bit ciphers first.
const HIGH: &str = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:\
    ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256";
const HIGH_13: &str = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";

/// TLS 1.2 of `medium`: the same with the cheaper 128-bit ciphers first, then CBC with forward secrecy for clients that have no AEAD.
const MEDIUM: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:\
    ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA";
const MEDIUM_13: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/// `unsafe`: all that the library has, except what would leave out the server's certificate or the encryption.
const UNSAFE: &str = "ALL:!aNULL:!eNULL:!PSK:!SRP:@SECLEVEL=0";

/// Key exchange: the post-quantum hybrid that browsers offer first, then the usual curves.
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";

/// Sets versions, suites and key exchange of a grade. The server's order of suites counts, except that clients which prefer ChaCha20 (they have no AES
/// hardware) get it.
///
/// # Errors
/// What OpenSSL says, when it does not know a suite or a group.
pub(super) fn apply(grade: TlsGrade, context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    context.set_options(
        SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::PRIORITIZE_CHACHA | SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION,
    );
    match grade {
        TlsGrade::High => modern(context, HIGH, HIGH_13),
        TlsGrade::Medium => modern(context, MEDIUM, MEDIUM_13),
        TlsGrade::Unsafe => {
            context.set_security_level(0);
            context.set_min_proto_version(None)?;
            context.set_cipher_list(UNSAFE)
        }
    }
}

fn modern(context: &mut SslContextBuilder, suites: &str, suites_13: &str) -> Result<(), ErrorStack> {
    // 112 bits: no RSA or DH below 2048, no SHA-1 signatures.
    context.set_security_level(2);
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_cipher_list(suites)?;
    context.set_ciphersuites(suites_13)?;
    context.set_groups_list(GROUPS)
}
