//! Key sets (RFC 7517) and the signatures they verify (RFC 7515, 7518, 8037). The signatures themselves are OpenSSL's work.
//!
//! What a key may verify is the key's own matter (`kty`, `crv`, `alg`, `use`, `key_ops`): a token merely names one of those algorithms. So
//! `none` verifies nothing, and a token "signed" by HMAC with the text of a public key finds no key that does HMAC.

use std::{fmt, sync::Arc};

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use openssl::{
    bn::BigNum,
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    error::ErrorStack,
    hash::MessageDigest,
    memcmp,
    nid::Nid,
    pkey::{Id, PKey, Public},
    rsa::{Padding, Rsa},
    sha::sha256,
    sign::{RsaPssSaltlen, Signer, Verifier},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

mod plain;

/// The smallest RSA modulus, bits (RFC 7518, section 3.3).
const RSA_BITS: u32 = 2048;

/// The shortest symmetric key, bytes: what the shortest HMAC gives (RFC 7518, section 3.2).
const SYMMETRIC_BYTES: usize = 32;

/// Key sets in the wild pad their numbers now and then, although RFC 7515 forbids it.
const TOLERANT: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The keys of a token issuer, ready to verify.
///
/// Two are equal if their texts and their sources are. Neither `Debug` nor `Serialize` shows more than ids and kinds: symmetric keys are secrets.
#[derive(Clone, Serialize)]
pub struct KeySet {
    keys: Vec<Key>,
    /// What in the set cannot be used, in words; the rest serves.
    pub skipped: Vec<String>,
    #[serde(skip)]
    digest: [u8; 32],
    #[serde(skip)]
    newer: Option<Arc<Notify>>,
}

/// Why a signature does not stand. Nothing of the token is repeated: these words reach logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The token's `alg` is `none` or not supported.
    #[error("its algorithm is not a supported one")]
    Algorithm,
    /// No key has the token's `kid`.
    #[error("the issuer's key set has no key of its key id")]
    UnknownKey,
    /// The keys that it may mean do not do its algorithm.
    #[error("its algorithm is not one that the issuer's key may verify")]
    Mismatch,
    /// The signature is not by the key.
    #[error("its signature is not by the issuer's key")]
    Signature,
}

impl KeySet {
    /// Reads a key set, or public keys in PEM. A key that cannot be used is left out, with a word in [`KeySet::skipped`].
    ///
    /// # Errors
    /// It is neither, or none of its keys can be used.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.trim_ascii_start().starts_with(plain::BEGIN.as_bytes()) {
            return Self::of_pem(text);
        }
        let wire: WireSet = serde_json::from_slice(text).map_err(|e| format!("not a key set: {e}"))?;
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (at, wire) in wire.keys.into_iter().enumerate() {
            match serde_json::from_value(wire).map_err(|_| "a member has the wrong type".to_owned()).and_then(Key::new) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(format!("key {at}: {why}")),
            }
        }
        Self::new(keys, skipped, sha256(text))
    }

    fn new(keys: Vec<Key>, skipped: Vec<String>, digest: [u8; 32]) -> Result<Self, String> {
        if keys.is_empty() {
            return Err(format!("no usable key in the key set{}{}", if skipped.is_empty() { "" } else { ": " }, skipped.join("; ")));
        }
        Ok(Self { keys, skipped, digest, newer: None })
    }

    /// The same keys, from a source that looks for newer ones when `newer` is notified.
    #[must_use]
    pub fn refreshed_by(self, newer: Arc<Notify>) -> Self {
        Self { newer: Some(newer), ..self }
    }

    /// Verifies a signature. A token that no key fits asks the source, if there is one, for newer keys: the issuer may have rotated.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn verify(&self, algorithm: &str, id: Option<&str>, message: &[u8], signature: &[u8]) -> Result<(), Unverified> {
        let algorithm = Algorithm::parse(algorithm).ok_or(Unverified::Algorithm)?;
        let named: Vec<&Key> = self.keys.iter().filter(|key| key.may_be(id)).collect();
        let mut able = named.iter().filter(|key| key.does(algorithm)).peekable();
        let why = match able.peek() {
            None if named.is_empty() => Unverified::UnknownKey,
            None => return Err(Unverified::Mismatch),
            Some(_) => Unverified::Signature,
        };
        // OpenSSL calls some malformed signatures an error rather than a "no".
        if able.any(|key| key.verify(algorithm, message, signature).unwrap_or(false)) {
            return Ok(());
        }
        if let Some(newer) = &self.newer {
            newer.notify_one();
        }
        Err(why)
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        let same_source = match (&self.newer, &other.newer) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.digest == other.digest && same_source
    }
}

impl Eq for KeySet {}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

/// A key set as it is written; each key is read by itself, so that one of an unknown make does not spoil the rest.
#[derive(Deserialize)]
struct WireSet {
    keys: Vec<serde_json::Value>,
}

/// A key as it is written.
#[derive(Deserialize)]
struct WireKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

/// One key.
#[derive(Clone, Serialize)]
struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm that it may verify, if the set says so; else all those of its kind.
    #[serde(rename = "algorithm")]
    only: Option<Algorithm>,
    #[serde(skip)]
    material: Material,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Kind {
    Symmetric,
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

#[derive(Clone)]
enum Material {
    Symmetric(Vec<u8>),
    Public(PKey<Public>),
}

/// A signature algorithm of RFC 7518 or RFC 8037; never `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Algorithm {
    Hmac(Hash),
    Rsa(Hash),
    RsaPss(Hash),
    Ecdsa(Hash),
    EdDsa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        if name == "EdDSA" {
            return Some(Self::EdDsa);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let hash = match bits {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        match family {
            "HS" => Some(Self::Hmac(hash)),
            "RS" => Some(Self::Rsa(hash)),
            "PS" => Some(Self::RsaPss(hash)),
            "ES" => Some(Self::Ecdsa(hash)),
            _ => None,
        }
    }
}

impl Hash {
    fn digest(self) -> MessageDigest {
        match self {
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }
}

impl Kind {
    fn does(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Hmac(_) => self == Self::Symmetric,
            Algorithm::Rsa(_) | Algorithm::RsaPss(_) => self == Self::Rsa,
            Algorithm::Ecdsa(Hash::Sha256) => self == Self::P256,
            Algorithm::Ecdsa(Hash::Sha384) => self == Self::P384,
            Algorithm::Ecdsa(Hash::Sha512) => self == Self::P521,
            Algorithm::EdDsa => self == Self::Ed25519,
        }
    }
}

impl Key {
    fn new(wire: WireKey) -> Result<Self, String> {
        if wire.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err("its use is not sig".to_owned());
        }
        if wire.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|o| o == "verify")) {
            return Err("verify is not among its key_ops".to_owned());
        }
        let (kind, material) = match wire.kty.as_str() {
            "RSA" => (Kind::Rsa, Material::Public(rsa(&wire)?)),
            "EC" => elliptic(&wire)?,
            "OKP" => (Kind::Ed25519, Material::Public(edwards(&wire)?)),
            "oct" => (Kind::Symmetric, Material::Symmetric(symmetric(&wire)?)),
            other => return Err(format!("its kty {other:?} is not supported")),
        };
        let only = match &wire.alg {
            None => None,
            Some(name) => match Algorithm::parse(name) {
                Some(algorithm) if kind.does(algorithm) => Some(algorithm),
                _ => return Err(format!("its alg {name:?} is not one of a key of its kind")),
            },
        };
        Ok(Self { id: wire.kid, kind, only, material })
    }

    /// Whether a token that names this key id, or none, may mean this key.
    fn may_be(&self, id: Option<&str>) -> bool {
        match (id, &self.id) {
            (Some(asked), Some(own)) => asked == own,
            _ => true,
        }
    }

    fn does(&self, algorithm: Algorithm) -> bool {
        self.kind.does(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        match (algorithm, &self.material) {
            (Algorithm::Hmac(hash), Material::Symmetric(secret)) => {
                let key = PKey::hmac(secret)?;
                let mac = Signer::new(hash.digest(), &key)?.sign_oneshot_to_vec(message)?;
                Ok(mac.len() == signature.len() && memcmp::eq(&mac, signature))
            }
            (Algorithm::Rsa(hash), Material::Public(key)) => Verifier::new(hash.digest(), key)?.verify_oneshot(signature, message),
            (Algorithm::RsaPss(hash), Material::Public(key)) => {
                let mut verifier = Verifier::new(hash.digest(), key)?;
                verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
                verifier.set_rsa_mgf1_md(hash.digest())?;
                verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
                verifier.verify_oneshot(signature, message)
            }
            (Algorithm::Ecdsa(hash), Material::Public(key)) => {
                // Two numbers of the field's size, one after the other (RFC 7518, section 3.4); OpenSSL wants them in DER.
                let size = usize::try_from(key.bits().div_ceil(8)).unwrap_or_default();
                let Some((r, s)) = signature.split_at_checked(size).filter(|(_, s)| s.len() == size) else { return Ok(false) };
                let der = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?.to_der()?;
                Verifier::new(hash.digest(), key)?.verify_oneshot(&der, message)
            }
            (Algorithm::EdDsa, Material::Public(key)) => Verifier::new_without_digest(key)?.verify_oneshot(signature, message),
            (Algorithm::Hmac(_), Material::Public(_)) | (_, Material::Symmetric(_)) => Ok(false),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("kind", &self.kind).field("only", &self.only).finish_non_exhaustive()
    }
}

/// A member of a key, decoded. Its text is never repeated, it may be a secret.
fn member(name: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("it has no {name}"))?;
    TOLERANT.decode(text).map_err(|_| format!("its {name} is not base64url"))
}

fn number(name: &str, text: Option<&str>) -> Result<BigNum, String> {
    BigNum::from_slice(&member(name, text)?).map_err(|_| format!("its {name} is no number"))
}

fn rsa(wire: &WireKey) -> Result<PKey<Public>, String> {
    let (n, e) = (number("n", wire.n.as_deref())?, number("e", wire.e.as_deref())?);
    strong_rsa(Rsa::from_public_components(n, e).and_then(PKey::from_rsa).map_err(|_| "it is no RSA key".to_owned())?)
}

fn strong_rsa(key: PKey<Public>) -> Result<PKey<Public>, String> {
    if key.bits() < RSA_BITS { Err(format!("it has {} bits, fewer than {RSA_BITS}", key.bits())) } else { Ok(key) }
}

fn elliptic(wire: &WireKey) -> Result<(Kind, Material), String> {
    let (kind, curve) = match wire.crv.as_deref() {
        Some("P-256") => (Kind::P256, Nid::X9_62_PRIME256V1),
        Some("P-384") => (Kind::P384, Nid::SECP384R1),
        Some("P-521") => (Kind::P521, Nid::SECP521R1),
        other => return Err(format!("its crv {:?} is not supported", other.unwrap_or_default())),
    };
    let (x, y) = (number("x", wire.x.as_deref())?, number("y", wire.y.as_deref())?);
    let group = EcGroup::from_curve_name(curve).map_err(|e| e.to_string())?;
    let key = EcKey::from_public_key_affine_coordinates(&group, &x, &y).and_then(PKey::from_ec_key);
    Ok((kind, Material::Public(key.map_err(|_| "its point is not on its curve".to_owned())?)))
}

fn edwards(wire: &WireKey) -> Result<PKey<Public>, String> {
    match wire.crv.as_deref() {
        Some("Ed25519") => {
            PKey::public_key_from_raw_bytes(&member("x", wire.x.as_deref())?, Id::ED25519).map_err(|_| "it is no Ed25519 key".to_owned())
        }
        other => Err(format!("its crv {:?} is not supported", other.unwrap_or_default())),
    }
}

fn symmetric(wire: &WireKey) -> Result<Vec<u8>, String> {
    let secret = member("k", wire.k.as_deref())?;
    if secret.len() < SYMMETRIC_BYTES {
        return Err(format!("it has {} bytes, fewer than {SYMMETRIC_BYTES}", secret.len()));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendix A.1.
    const HS256: &str =
        r#"{"keys": [{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;
    /// RFC 7515, appendix A.3.
    const ES256: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    /// RFC 7515, appendix A.4.
    const ES512: &str = r#"{"keys": [{"kty": "EC", "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}]}"#;
    /// RFC 8037, appendix A.
    const ED25519: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn verify(set: &str, algorithm: &str, message: &str, signature: &str) -> Result<(), Unverified> {
        let set = KeySet::parse(set.as_bytes()).unwrap();
        set.verify(algorithm, None, message.as_bytes(), &TOLERANT.decode(signature).unwrap())
    }

    #[test]
    fn the_examples_of_the_rfcs_verify_and_a_changed_bit_does_not() {
        let joe = |header: &str| format!("{header}.{JOE}");
        for (set, algorithm, message, signature) in [
            (HS256, "HS256", joe("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            (
                ES256,
                "ES256",
                joe("eyJhbGciOiJFUzI1NiJ9"),
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                ES512,
                "ES512",
                "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA".to_owned(),
                "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
            ),
            (
                ED25519,
                "EdDSA",
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ] {
            assert_eq!(verify(set, algorithm, &message, signature), Ok(()), "{algorithm}");
            assert_eq!(verify(set, algorithm, &format!("{message}A"), signature), Err(Unverified::Signature), "{algorithm}");
            assert_eq!(verify(set, algorithm, &message, &signature[4..]), Err(Unverified::Signature), "{algorithm}");
        }
    }

    #[test]
    fn a_key_verifies_only_the_algorithms_of_its_kind() {
        for (set, kind) in [(HS256, "HS"), (ES256, "ES256"), (ES512, "ES512"), (ED25519, "EdDSA")] {
            for algorithm in ["HS256", "HS384", "HS512", "RS256", "RS512", "PS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"] {
                let expected = if algorithm.starts_with(kind) { Unverified::Signature } else { Unverified::Mismatch };
                assert_eq!(verify(set, algorithm, "a.b", "AAAA"), Err(expected), "{kind} {algorithm}");
            }
            for algorithm in ["none", "None", "", "hs256", "HS", "HS1", "\u{e9}S256", "RSA1_5"] {
                assert_eq!(verify(set, algorithm, "a.b", ""), Err(Unverified::Algorithm), "{algorithm}");
            }
        }
        let pinned = HS256.replace(r#""kty": "oct""#, r#""kty": "oct", "alg": "HS512""#);
        assert_eq!(verify(&pinned, "HS256", "a.b", "AAAA"), Err(Unverified::Mismatch));
        assert_eq!(verify(&pinned, "HS512", "a.b", "AAAA"), Err(Unverified::Signature));
    }

    #[test]
    fn what_cannot_be_used_is_left_out_and_named() {
        for (key, why) in [
            (r#"{"kty": "oct", "k": "c2hvcnQ"}"#, "5 bytes"),
            (r#"{"kty": "oct", "k": "*"}"#, "its k is not base64url"),
            (r#"{"kty": "RSA", "e": "AQAB", "n": "1234567890abcdef"}"#, "bits"),
            (r#"{"kty": "RSA", "e": "AQAB"}"#, "it has no n"),
            (r#"{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}"#, "secp256k1"),
            (r#"{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}"#, "not on its curve"),
            (r#"{"kty": "OKP", "crv": "X25519", "x": "AA"}"#, "X25519"),
            (r#"{"kty": "OKP", "crv": "Ed25519", "x": "AA"}"#, "no Ed25519 key"),
            (r#"{"kty": "new"}"#, "new"),
            (r#"{"kty": 1}"#, "wrong type"),
            (r#"{"kty": "OKP", "use": "enc", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#, "use"),
            (r#"{"kty": "OKP", "key_ops": ["sign"], "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#, "key_ops"),
            (r#"{"kty": "OKP", "alg": "ES256", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#, "alg"),
        ] {
            let alone = KeySet::parse(format!(r#"{{"keys": [{key}]}}"#).as_bytes()).unwrap_err();
            assert!(alone.contains(why), "{alone}");
            let beside = KeySet::parse(HS256.replace("[{", &format!("[{key}, {{")).as_bytes()).unwrap();
            assert!(beside.skipped.len() == 1 && beside.skipped[0].starts_with("key 0: "), "{:?}", beside.skipped);
        }
        for text in ["", "[]", "{}", r#"{"keys": []}"#, r#"{"keys": 1}"#] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_id_chooses_and_one_that_is_unknown_asks_for_newer_keys() {
        let text = HS256.replace(r#""kty""#, r#""kid": "one", "kty""#);
        let newer = Arc::new(Notify::new());
        let set = KeySet::parse(text.as_bytes()).unwrap().refreshed_by(newer.clone());
        assert_eq!(set.verify("ES256", Some("one"), b"", b""), Err(Unverified::Mismatch));
        let asked = || futures_util::FutureExt::now_or_never(newer.notified()).is_some();
        assert!(!asked());
        assert_eq!(set.verify("HS256", Some("two"), b"", b""), Err(Unverified::UnknownKey));
        assert!(asked() && !asked());
    }

    #[test]
    fn neither_debug_nor_json_shows_a_secret() {
        let set = KeySet::parse(HS256.as_bytes()).unwrap();
        let shown = format!("{set:?} {}", serde_json::json!(set));
        assert!(shown.contains("Symmetric") && !shown.contains("AyM1") && !shown.contains("[3, 35"), "{shown}");
    }
}
