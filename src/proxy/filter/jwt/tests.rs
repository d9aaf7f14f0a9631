//! The table of tokens, and what becomes of a request that carries them.

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use http::{HeaderValue, Method};
use openssl::{
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::{Padding, Rsa},
    sign::{RsaPssSaltlen, Signer},
};
use serde_json::json;

use super::*;
use crate::model::jwt::{Forwarding, KeySet, KeySource, ProviderEntry, Unverified};

const NOW: u64 = 1_700_000_000;
const SKEW: u64 = 10;
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// An issuer with a key of each kind.
struct Issuer {
    rsa: PKey<Private>,
    ec: PKey<Private>,
    ed: PKey<Private>,
}

impl Issuer {
    fn new() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self {
            rsa: PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
            ec: PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(),
            ed: PKey::generate_ed25519().unwrap(),
        }
    }

    fn key_set(&self) -> Value {
        let rsa = self.rsa.rsa().unwrap();
        let point = self.ec.ec_key().unwrap().public_key().to_bytes(
            &EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap(),
            openssl::ec::PointConversionForm::UNCOMPRESSED,
            &mut openssl::bn::BigNumContext::new().unwrap(),
        );
        let point = point.unwrap();
        json!({"keys": [
            {"kid": "rsa", "kty": "RSA", "use": "sig", "n": BASE64.encode(rsa.n().to_vec()), "e": BASE64.encode(rsa.e().to_vec())},
            {"kid": "ec", "kty": "EC", "crv": "P-256", "alg": "ES256",
                "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])},
            {"kid": "ed", "kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(self.ed.raw_public_key().unwrap())},
            {"kid": "mac", "kty": "oct", "k": BASE64.encode(SECRET)},
        ]})
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::new(KeySet::parse(self.key_set().to_string().as_bytes()).unwrap())
    }

    /// A token with these claims, by the key of this id and the algorithm of this name.
    fn token(&self, id: &str, algorithm: &str, claims: &Value) -> String {
        self.sign(&json!({"alg": algorithm, "kid": id, "typ": "JWT"}), claims, |message| match algorithm {
            "ES256" => {
                let digest = openssl::sha::sha256(message);
                let signature = EcdsaSig::sign(&digest, &self.ec.ec_key().unwrap()).unwrap();
                [signature.r().to_vec_padded(32).unwrap(), signature.s().to_vec_padded(32).unwrap()].concat()
            }
            "EdDSA" => Signer::new_without_digest(&self.ed).unwrap().sign_oneshot_to_vec(message).unwrap(),
            "HS512" => mac(MessageDigest::sha512(), SECRET, message),
            "RS256" => Signer::new(MessageDigest::sha256(), &self.rsa).unwrap().sign_oneshot_to_vec(message).unwrap(),
            "PS384" => {
                let mut signer = Signer::new(MessageDigest::sha384(), &self.rsa).unwrap();
                signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                signer.set_rsa_mgf1_md(MessageDigest::sha384()).unwrap();
                signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
                signer.sign_oneshot_to_vec(message).unwrap()
            }
            other => panic!("{other} is not signed here"),
        })
    }

    fn sign(&self, header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = BASE64.encode(sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn mac(digest: MessageDigest, secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(secret).unwrap();
    Signer::new(digest, &key).unwrap().sign_oneshot_to_vec(message).unwrap()
}

fn bearer() -> Location {
    Location::Header { name: "authorization".parse().unwrap(), prefix: "Bearer ".into(), forward: false }
}

fn entry() -> ProviderEntry {
    ProviderEntry {
        name: "okta".into(),
        issuer: "https://okta.example".into(),
        audiences: vec!["shop".into(), "cart".into()],
        locations: vec![bearer(), Location::Query("access_token".into()), Location::Cookie("jwt".into())],
        forwarding: Some(Forwarding { header: "x-claims".parse().unwrap(), padded: true }),
        clock_skew: Duration::from_secs(SKEW),
        cache_size: 8,
        keys: KeySource::Nowhere("not asked here".into()),
    }
}

fn providers(entry: ProviderEntry, keys: Result<Arc<KeySet>, Arc<str>>) -> Providers {
    Providers::from([(entry.name.clone(), Arc::new(Provider { entry: Arc::new(entry), keys }))])
}

fn good() -> Value {
    json!({"iss": "https://okta.example", "aud": "shop", "exp": NOW + 60, "roles": ["admin", "dev"]})
}

/// The good claims with some changed; `null` takes one away.
fn but(changed: Value) -> Value {
    let mut claims = good();
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

fn request(uri: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
    let mut request = RequestHeader::build(Method::GET, uri.as_bytes(), None).unwrap();
    for (name, value) in fields {
        request.append_header(*name, *value).unwrap();
    }
    request
}

fn verify(verifier: &Verifier, providers: &Providers, request: &RequestHeader, seconds: u64) -> Verified {
    let view =
        RequestView { method: "GET", path: request.uri.path(), query: request.uri.query(), authority: "shop", headers: &request.headers };
    verifier.verify(providers, &view, UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What becomes of a request with one token.
fn outcome(providers: &Providers, token: &str) -> Verified {
    verify(&Verifier::default(), providers, &request("/", &[("authorization", &format!("Bearer {token}"))]), NOW)
}

#[test]
fn the_table_of_tokens() {
    let issuer = Issuer::new();
    let providers = providers(entry(), Ok(issuer.keys()));
    let stands = |what: &str, token: &str| {
        let verified = outcome(&providers, token);
        assert_eq!(verified.why("okta"), None, "{what}");
        assert_eq!(verified.claims("okta").unwrap()["iss"], "https://okta.example", "{what}");
    };
    let falls = |what: &str, token: &str, why: Rejected| {
        let verified = outcome(&providers, token);
        assert_eq!(verified.why("okta"), Some(&why), "{what}");
        assert_eq!(verified.claims("okta"), None, "{what}");
    };
    for (id, algorithm) in [("rsa", "RS256"), ("rsa", "PS384"), ("ec", "ES256"), ("ed", "EdDSA"), ("mac", "HS512")] {
        let token = issuer.token(id, algorithm, &good());
        stands(algorithm, &token);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let forged = format!("{header}.{}.{signature}", BASE64.encode(but(json!({"roles": ["root"]})).to_string()));
        falls(algorithm, &forged, Unverified::Signature.into());
        falls(algorithm, &issuer.token("other", algorithm, &good()), Unverified::UnknownKey.into());
        falls(
            algorithm,
            &Issuer::new().token(id, algorithm, &good()),
            match id {
                "mac" => continue,
                _ => Unverified::Signature.into(),
            },
        );
    }
    let es = |claims: Value| issuer.token("ec", "ES256", &claims);

    stands("a list of audiences", &es(but(json!({"aud": ["other", "cart"]}))));
    stands("no exp", &es(but(json!({"exp": null}))));
    stands("expired within the tolerance", &es(but(json!({"exp": NOW - SKEW}))));
    stands("not yet within the tolerance", &es(but(json!({"nbf": NOW + SKEW}))));
    falls("expired", &es(but(json!({"exp": NOW - SKEW - 2}))), Rejected::Expired(SKEW + 2));
    falls("not yet", &es(but(json!({"nbf": NOW + SKEW + 2}))), Rejected::NotYet(SKEW + 2));
    falls("exp is a text", &es(but(json!({"exp": "2099"}))), Rejected::Malformed("a time is not a number"));
    falls("wrong issuer", &es(but(json!({"iss": "https://evil.example"}))), Rejected::Issuer("https://okta.example".into()));
    falls("no issuer", &es(but(json!({"iss": null}))), Rejected::Issuer("https://okta.example".into()));
    falls("a list of issuers", &es(but(json!({"iss": ["https://okta.example"]}))), Rejected::Issuer("https://okta.example".into()));
    for audience in [json!("shopping"), json!(["a", "b"]), Value::Null, json!({"shop": 1})] {
        falls("wrong audience", &es(but(json!({"aud": audience}))), Rejected::Audience("shop or cart".into()));
    }

    falls("an algorithm of another key", &issuer.token("rsa", "ES256", &good()), Unverified::Mismatch.into());
    let rsa = issuer.rsa.rsa().unwrap();
    for public in
        [rsa.public_key_to_pem().unwrap(), rsa.public_key_to_pem_pkcs1().unwrap(), rsa.public_key_to_der().unwrap(), rsa.n().to_vec()]
    {
        let sign = |message: &[u8]| mac(MessageDigest::sha256(), &public, message);
        let confused = issuer.sign(&json!({"alg": "HS256", "kid": "rsa"}), &good(), sign);
        falls("HS256 with the public key", &confused, Unverified::Mismatch.into());
        let confused = issuer.sign(&json!({"alg": "HS256"}), &good(), sign);
        falls("HS256 with the public key, no kid", &confused, Unverified::Signature.into());
    }
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": none, "kid": "rsa"});
        falls(none, &issuer.sign(&header, &good(), |_| Vec::new()), Unverified::Algorithm.into());
    }
    let crit = json!({"alg": "ES256", "kid": "ec", "crit": ["exp"]});
    falls("crit", &issuer.sign(&crit, &good(), |_| vec![0; 64]), Rejected::Malformed("its header has crit"));
    for token in ["", "a", "a.b", "a.b.c", "..", "é.é.é", "e30.e30.", &format!("{}.x", es(good())), &format!("{}=", es(good()))] {
        assert!(matches!(outcome(&providers, token).why("okta"), Some(Rejected::Malformed(_))), "{token}");
    }
    falls("100 KB", &format!("{}{}", es(good()), "A".repeat(100 << 10)), Rejected::TooLong);
    assert_eq!(outcome(&providers, "").why("auth0"), Some(&Rejected::NoProvider));
}

#[test]
fn without_keys_no_token_stands_and_the_reason_is_told() {
    let issuer = Issuer::new();
    let token = issuer.token("ec", "ES256", &good());
    let verified = outcome(&providers(entry(), Err("connection refused".into())), &token);
    assert_eq!(verified.why("okta").unwrap().to_string(), "the provider has no keys: connection refused");
    assert_eq!(
        verify(&Verifier::default(), &providers(entry(), Err("".into())), &request("/", &[]), NOW).why("okta"),
        Some(&Rejected::Missing)
    );
}

#[test]
fn a_huge_token_costs_nothing() {
    let providers = providers(entry(), Ok(Issuer::new().keys()));
    let huge = request("/", &[("authorization", &format!("Bearer {}", "A".repeat(100 << 10)))]);
    let begun = Instant::now();
    for _ in 0..1000 {
        assert_eq!(verify(&Verifier::default(), &providers, &huge, NOW).why("okta"), Some(&Rejected::TooLong));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn of_several_tokens_all_must_stand_and_the_first_speaks() {
    let issuer = Issuer::new();
    let providers = providers(entry(), Ok(issuer.keys()));
    let token = |user: &str| issuer.token("ec", "ES256", &but(json!({"sub": user})));
    let (one, two) = (token("one"), token("two"));
    let (bearer_one, bearer_two, cookie) = (format!("Bearer {one}"), format!("Bearer {two}"), format!("jwt={one}"));
    let seen = |uri: &str, fields: &[(&'static str, &str)]| verify(&Verifier::default(), &providers, &request(uri, fields), NOW);

    let verified = seen(&format!("/?access_token={two}"), &[("authorization", &bearer_one), ("cookie", "jwt2=x")]);
    assert_eq!(verified.claims("okta").unwrap()["sub"], "one");
    assert_eq!(seen("/", &[("cookie", &cookie)]).claims("okta").unwrap()["sub"], "one");
    assert!(seen("/", &[("authorization", &bearer_one), ("authorization", &bearer_two)]).why("okta").is_none());
    for (uri, fields) in [
        ("/?access_token=bad", vec![("authorization", bearer_one.as_str())]),
        ("/", vec![("authorization", "Bearer bad"), ("authorization", &bearer_one)]),
        ("/", vec![("authorization", &bearer_one), ("cookie", "jwt=bad")]),
    ] {
        assert!(matches!(seen(uri, &fields).why("okta"), Some(Rejected::Malformed(_))), "{uri} {fields:?}");
    }
    let many: Vec<_> = (0..=MOST).map(|_| ("authorization", bearer_one.as_str())).collect();
    assert_eq!(seen("/", &many).why("okta"), Some(&Rejected::TooMany(MOST)));
}

#[test]
fn each_provider_judges_for_itself() {
    let (okta, auth0) = (Issuer::new(), Issuer::new());
    let mut both = providers(entry(), Ok(okta.keys()));
    let other = ProviderEntry { name: "auth0".into(), issuer: "https://auth0.example".into(), ..entry() };
    both.extend(providers(other, Ok(auth0.keys())));
    let verified = outcome(&both, &auth0.token("ec", "ES256", &but(json!({"iss": "https://auth0.example"}))));
    assert_eq!(verified.why("auth0"), None);
    assert_eq!(verified.why("okta"), Some(&Rejected::Issuer("https://okta.example".into())));
    // The right issuer's name, by the wrong issuer's key.
    let verified = outcome(&both, &auth0.token("ec", "ES256", &good()));
    assert_eq!(verified.why("okta"), Some(&Unverified::Signature.into()));
}

#[test]
fn a_token_that_stood_is_remembered_until_its_time_or_its_keys_are_over() {
    let issuer = Issuer::new();
    let known = providers(entry(), Ok(issuer.keys()));
    let token = issuer.token("ec", "ES256", &good());
    let asked = request("/", &[("authorization", &format!("Bearer {token}"))]);
    let verifier = Verifier::default();
    let stood = |providers, at| verify(&verifier, providers, &asked, at).outcomes.remove(0).1;
    let first = stood(&known, NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &stood(&known, NOW + 1).unwrap()), "it was verified again");
    assert_eq!(stood(&known, NOW + 60 + SKEW + 1).unwrap_err(), Rejected::Expired(SKEW + 1));
    let rotated = providers(entry(), Ok(Issuer::new().keys()));
    assert_eq!(stood(&rotated, NOW).unwrap_err(), Unverified::Signature.into());
    let forgetful = providers(ProviderEntry { cache_size: 0, ..entry() }, Ok(issuer.keys()));
    assert!(!Arc::ptr_eq(&stood(&forgetful, NOW).unwrap(), &stood(&forgetful, NOW).unwrap()));
}

#[test]
fn what_is_remembered_is_bounded_and_the_used_ones_stay() {
    let issuer = Issuer::new();
    let known = providers(entry(), Ok(issuer.keys()));
    let verifier = Verifier::default();
    let ask = |user: usize| {
        let token = issuer.token("mac", "HS512", &but(json!({"sub": user})));
        verify(&verifier, &known, &request("/", &[("authorization", &format!("Bearer {token}"))]), NOW).outcomes.remove(0).1.unwrap()
    };
    let used = ask(0);
    for user in 1..100 {
        ask(user);
        assert!(verifier.caches.lock()["okta"].len() <= entry().cache_size);
        assert!(Arc::ptr_eq(&used, &ask(0)), "forgotten after {user}");
    }
}

#[test]
fn the_app_gets_the_claims_and_not_the_token() {
    let issuer = Issuer::new();
    let known = providers(entry(), Ok(issuer.keys()));
    let claims = but(json!({"pad": "x"}));
    let token = issuer.token("ec", "ES256", &claims);
    let applied = |mut request: RequestHeader| {
        verify(&Verifier::default(), &known, &request, NOW).apply(&mut request).unwrap();
        request
    };
    let told = |request: &RequestHeader| request.headers.get_all("x-claims").iter().map(HeaderValue::len).collect::<Vec<_>>();

    let cookie = format!("a=1; jwt={token}");
    let uri = format!("/p?a=1&access_token={token}");
    let sent = applied(request(&uri, &[("authorization", &format!("Bearer {token}")), ("cookie", &cookie), ("x-claims", "forged")]));
    assert_eq!((sent.uri.to_string().as_str(), sent.headers.get("authorization")), ("/p?a=1", None));
    assert_eq!(sent.headers["cookie"], cookie);
    let payload = sent.headers["x-claims"].to_str().unwrap();
    assert_eq!((payload.len() % 4, told(&sent).len()), (0, 1));
    let decoded = base64::prelude::BASE64_URL_SAFE.decode(payload).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), claims);

    // What did not stand goes on as it came, but nobody forges claims.
    let sent = applied(request("/p?access_token=x", &[("authorization", "Bearer y"), ("X-Claims", "forged"), ("x-claims", "too")]));
    assert_eq!((sent.uri.to_string().as_str(), sent.headers["authorization"].as_bytes()), ("/p?access_token=x", &b"Bearer y"[..]));
    assert!(told(&sent).is_empty());

    // Another use of the header is not the token's.
    let sent = applied(request(&uri, &[("authorization", "Basic dTpw")]));
    assert_eq!((sent.uri.to_string().as_str(), sent.headers["authorization"].as_bytes()), ("/p?a=1", &b"Basic dTpw"[..]));

    let forward = Location::Header { name: "authorization".parse().unwrap(), prefix: "Bearer ".into(), forward: true };
    let forwarding = Some(Forwarding { header: "x-claims".parse().unwrap(), padded: false });
    let locations = vec![forward, Location::Query("access_token".into())];
    let kept = providers(ProviderEntry { locations, forwarding, ..entry() }, Ok(issuer.keys()));
    let mut sent = request(&uri, &[("authorization", &format!("Bearer {token}"))]);
    verify(&Verifier::default(), &kept, &sent, NOW).apply(&mut sent).unwrap();
    assert_eq!((sent.uri.to_string(), &sent.headers["authorization"]), (uri, &format!("Bearer {token}").parse().unwrap()));
    assert_eq!(sent.headers["x-claims"], token.split('.').nth(1).unwrap());
}

#[test]
fn nothing_that_is_shown_holds_a_part_of_a_token() {
    let issuer = Issuer::new();
    let mut all = providers(entry(), Ok(issuer.keys()));
    all.extend(providers(ProviderEntry { name: "other".into(), issuer: "other".into(), ..entry() }, Ok(issuer.keys())));
    for (id, algorithm, claims) in [
        ("ec", "ES256", good()),
        ("ec", "ES256", but(json!({"exp": 1}))),
        ("ec", "ES256", but(json!({"aud": "s3cret"}))),
        ("s3cret", "ES256", good()),
        ("rsa", "ES256", good()),
    ] {
        let token = issuer.token(id, algorithm, &claims);
        let verified = outcome(&all, &token);
        let why = ["okta", "other"].map(|name| verified.why(name).map(ToString::to_string));
        let shown = format!("{verified:?} {why:?} {}", json!(all));
        let secrets: Vec<&str> = token.split('.').chain(["s3cret", "admin"]).collect();
        assert!(!secrets.iter().any(|part| shown.contains(part)), "{shown}");
    }
}
