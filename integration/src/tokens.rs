//! JSON Web Tokens, signed as an identity provider signs them.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use serde_json::{Value, json};

/// An RSA key that signs tokens by RS256, with the key id that its key set and its tokens bear.
#[derive(Debug)]
pub struct Issuer {
    key: PKey<Private>,
    key_id: String,
}

impl Issuer {
    /// A new key of 2048 bits.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn new(key_id: &str) -> Result<Self> {
        Ok(Self { key: PKey::from_rsa(Rsa::generate(2048)?)?, key_id: key_id.into() })
    }

    /// The key set (RFC 7517) with the public key.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn key_set(&self) -> Result<Value> {
        let rsa = self.key.rsa()?;
        let (n, e) = (URL_SAFE_NO_PAD.encode(rsa.n().to_vec()), URL_SAFE_NO_PAD.encode(rsa.e().to_vec()));
        Ok(json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.key_id, "n": n, "e": e}]}))
    }

    /// The key set as a `jwt-provider` entry takes it: `JSONWebKeySet.Local.JWKS`, base64.
    ///
    /// # Errors
    /// As [`Issuer::key_set`].
    pub fn local_key_set(&self) -> Result<Value> {
        Ok(json!({"Local": {"JWKS": STANDARD.encode(self.key_set()?.to_string())}}))
    }

    /// A signed token (RFC 7515 §3.1) with these claims.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = Signer::new(MessageDigest::sha256(), &self.key)?.sign_oneshot_to_vec(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
