//! Keys outside of key sets: secrets, and public keys in PEM (RFC 7468).

use openssl::{
    nid::Nid,
    pkey::{Id, PKey, Public},
    rsa::Rsa,
    sha::{Sha256, sha256},
    x509::X509,
};

use super::{Key, KeySet, Kind, Material, strong_rsa};
use crate::model::secret::Secret;

/// What a PEM text begins with.
pub(super) const BEGIN: &str = "-----BEGIN ";

impl KeySet {
    /// Secrets for HMAC, as they are written: HS256, HS384 and HS512 by any of them. Short ones can be guessed from a single token (RFC 7518,
    /// section 3.2, wants 32 bytes), but that is for the configuration to say.
    ///
    /// # Errors
    /// There is none, or one is empty.
    pub fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Result<Self, String> {
        let (mut keys, mut digest) = (Vec::new(), Sha256::new());
        for secret in secrets {
            let secret = secret.expose().as_bytes();
            if secret.is_empty() {
                return Err("the secret is empty".to_owned());
            }
            digest.update(&sha256(secret));
            keys.push(Key { id: None, kind: Kind::Symmetric, only: None, material: Material::Symmetric(secret.to_vec()) });
        }
        Self::new(keys, Vec::new(), digest.finish())
    }

    /// Public keys and certificates in PEM, any number of them: `PUBLIC KEY`, `RSA PUBLIC KEY`, `CERTIFICATE`. A certificate is only where its key
    /// stands: nobody looks at its dates.
    ///
    /// # Errors
    /// It is not PEM, or none of its keys can be used.
    pub fn of_pem(text: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(text).map_err(|_| "not PEM: it is not of text")?;
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (at, block) in text.split(BEGIN).skip(1).enumerate() {
            match key(block) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(format!("key {at}: {why}")),
            }
        }
        Self::new(keys, skipped, sha256(text.as_bytes()))
    }
}

/// A key from what follows [`BEGIN`].
fn key(block: &str) -> Result<Key, String> {
    let label = block.split("-----").next().unwrap_or_default();
    let pem = format!("{BEGIN}{block}");
    let read = match label {
        "PUBLIC KEY" => PKey::public_key_from_pem(pem.as_bytes()),
        "RSA PUBLIC KEY" => Rsa::public_key_from_pem_pkcs1(pem.as_bytes()).and_then(PKey::from_rsa),
        "CERTIFICATE" => X509::from_pem(pem.as_bytes()).and_then(|certificate| certificate.public_key()),
        private if private.ends_with("PRIVATE KEY") => return Err("it is a private key; only the public one belongs here".to_owned()),
        other => return Err(format!("{other:?} is no public key")),
    };
    of_public(read.map_err(|_| format!("it is no valid {label}"))?)
}

fn of_public(key: PKey<Public>) -> Result<Key, String> {
    let kind = match key.id() {
        Id::RSA => Kind::Rsa,
        Id::ED25519 => Kind::Ed25519,
        Id::EC => match key.ec_key().ok().and_then(|key| key.group().curve_name()) {
            Some(Nid::X9_62_PRIME256V1) => Kind::P256,
            Some(Nid::SECP384R1) => Kind::P384,
            Some(Nid::SECP521R1) => Kind::P521,
            _ => return Err("its curve is not supported".to_owned()),
        },
        _ => return Err("its kind is not supported".to_owned()),
    };
    let key = if kind == Kind::Rsa { strong_rsa(key)? } else { key };
    Ok(Key { id: None, kind, only: None, material: Material::Public(key) })
}

#[cfg(test)]
mod tests {
    use openssl::{
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        pkey::Private,
        sign::Signer,
    };

    use super::{super::Unverified, *};

    fn signed(key: &PKey<Private>, message: &[u8]) -> Vec<u8> {
        let signer = if key.id() == Id::ED25519 { Signer::new_without_digest(key) } else { Signer::new(MessageDigest::sha256(), key) };
        signer.unwrap().sign_oneshot_to_vec(message).unwrap()
    }

    #[test]
    fn any_of_several_secrets_verifies_hmac_and_nothing_else() {
        let secrets = ["first secret", "second"].map(Secret::new);
        let set = KeySet::of_secrets(&secrets).unwrap();
        for secret in ["first secret", "second"] {
            let mac = signed(&PKey::hmac(secret.as_bytes()).unwrap(), b"a.b");
            assert_eq!(set.verify("HS256", Some("any id"), b"a.b", &mac), Ok(()), "{secret}");
            assert_eq!(set.verify("HS256", None, b"a.c", &mac), Err(Unverified::Signature), "{secret}");
            assert_eq!(set.verify("RS256", None, b"a.b", &mac), Err(Unverified::Mismatch), "{secret}");
        }
        assert_ne!(set, KeySet::of_secrets(&secrets[..1]).unwrap());
        assert!(KeySet::of_secrets([&Secret::new("")]).is_err() && KeySet::of_secrets([]).is_err());
        assert!(!format!("{set:?}").contains("secret"));
    }

    #[test]
    fn pem_holds_keys_of_every_kind() {
        let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let ed = PKey::generate_ed25519().unwrap();
        let ec = PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::SECP384R1).unwrap()).unwrap()).unwrap();
        let text = [
            b"a comment\n".to_vec(),
            rsa.rsa().unwrap().public_key_to_pem_pkcs1().unwrap(),
            ed.public_key_to_pem().unwrap(),
            ec.public_key_to_pem().unwrap(),
            ed.private_key_to_pem_pkcs8().unwrap(),
            PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap().public_key_to_pem().unwrap(),
        ];
        let set = KeySet::of_pem(&text.concat()).unwrap();
        assert_eq!(set.verify("RS256", None, b"m", &signed(&rsa, b"m")), Ok(()));
        assert_eq!(set.verify("EdDSA", None, b"m", &signed(&ed, b"m")), Ok(()));
        assert_eq!(set.verify("ES384", None, b"m", &[1; 96]), Err(Unverified::Signature));
        assert_eq!(set.verify("ES256", None, b"m", &[1; 64]), Err(Unverified::Mismatch));
        assert!(
            set.skipped.len() == 2 && set.skipped[0].contains("private key") && set.skipped[1].contains("1024 bits"),
            "{:?}",
            set.skipped
        );
        assert_eq!(KeySet::parse(&text[1..].concat()).unwrap(), KeySet::of_pem(&text[1..].concat()).unwrap());
        for text in ["", "nothing", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "-----BEGIN "] {
            assert!(KeySet::of_pem(text.as_bytes()).is_err(), "{text}");
        }
    }
}
