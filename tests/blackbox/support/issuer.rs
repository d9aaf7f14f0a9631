//! A token issuer: keys, tokens, and a server of its key set.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::Private;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// An issuer with one P-256 key.
pub struct Issuer {
    id: &'static str,
    key: EcKey<Private>,
}

impl Issuer {
    /// An issuer whose key has this id.
    pub fn new(id: &'static str) -> Issuer {
        Issuer { id, key: EcKey::generate(&group()).unwrap() }
    }

    /// Its key set (RFC 7517).
    pub fn key_set(&self) -> String {
        let (mut x, mut y) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        self.key.public_key().affine_coordinates(&group(), &mut x, &mut y, &mut BigNumContext::new().unwrap()).unwrap();
        let number = |number: BigNum| BASE64.encode(number.to_vec_padded(32).unwrap());
        json!({"keys": [{"kid": self.id, "kty": "EC", "crv": "P-256", "alg": "ES256", "x": number(x), "y": number(y)}]}).to_string()
    }

    /// A token of `okta` for ten minutes, with these claims beside.
    pub fn token(&self, claims: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({"iss": "okta", "exp": now + 600});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = json!({"alg": "ES256", "kid": self.id});
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(all.to_string()));
        let signature = EcdsaSig::sign(&openssl::sha::sha256(signed.as_bytes()), &self.key).unwrap();
        let number = |number: &openssl::bn::BigNumRef| number.to_vec_padded(32).unwrap();
        format!("{signed}.{}", BASE64.encode([number(signature.r()), number(signature.s())].concat()))
    }
}

fn group() -> EcGroup {
    EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()
}

/// A server that answers every request with a key set, or with 500 while it has none.
pub struct KeyServer {
    /// Where its key set is.
    pub url: String,
    set: Arc<Mutex<Option<String>>>,
    _accepting: JoinSet<()>,
}

impl KeyServer {
    /// On a free port of loopback.
    pub async fn start(set: Option<String>) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let set = Arc::new(Mutex::new(set));
        let said = Arc::clone(&set);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let said = Arc::clone(&said);
                let service = service_fn(move |_: Request<Incoming>| {
                    let set = said.lock().unwrap().clone();
                    let status = if set.is_some() { 200 } else { 500 };
                    let body = Full::new(Bytes::from(set.unwrap_or_default()));
                    async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
                });
                serving.spawn(async move {
                    // A client that goes away is the end of a connection, not an error of the test.
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        KeyServer { url, set, _accepting: accepting }
    }

    /// Answers with this from now on.
    pub fn set(&self, set: Option<String>) {
        *self.set.lock().unwrap() = set;
    }
}
