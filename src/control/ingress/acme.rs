//! Certificates from an ACME server (RFC 8555): ordered when they are missing, do not bear the wanted names, or have less than a third of their life
//! left; written where all certificates are, so that they reach the listeners as every other file does.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeHandle, ChallengeType, HttpClient, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use openssl::{
    asn1::{Asn1Object, Asn1OctetString, Asn1Time},
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    stack::Stack,
    x509::{X509, X509Extension, X509NameBuilder, X509Req, extension::SubjectAlternativeName},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    config::acme::{AcmeCertificate, AcmeChallenge, AcmeSettings},
    control::reconciler::{IngressChange, IngressFeed},
    model::{
        credentials,
        ingress::{CertificatePair, Challenges},
        moment::unix_now,
        registration::Unusable,
        secret::Secret,
    },
};

/// How often certificates are looked at.
const CHECK: Duration = Duration::from_secs(6 * 3600);
/// The pause after the first failure; each further one doubles it, up to [`CHECK`]: ACME servers count failures.
const FAILED: Duration = Duration::from_secs(60);
/// How long a call to the ACME server may take.
const CALL: Duration = Duration::from_secs(30);
/// How long the server may take to check names and to issue.
const ISSUE: Duration = Duration::from_secs(120);

/// Keeps the certificates of the settings fresh until `stop`.
pub async fn run(settings: AcmeSettings, feed: IngressFeed, stop: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let problems = renew_all(&settings, &feed).await;
        failures = if problems.is_empty() { 0 } else { failures + 1 };
        let pause = failures.checked_sub(1).map_or(CHECK, |nth| FAILED.saturating_mul(1 << nth.min(12)).min(CHECK));
        feed.send(IngressChange::Problems { source: "acme".into(), problems });
        if stop.run_until_cancelled(sleep(pause.mul_f64(0.9 + fastrand::f64() / 10.0))).await.is_none() {
            return;
        }
    }
}

/// Orders what is due, each by itself.
async fn renew_all(settings: &AcmeSettings, feed: &IngressFeed) -> Vec<Unusable> {
    let mut problems = Vec::new();
    for wanted in &settings.certificates {
        if !is_due(&settings.folder, wanted, unix_now()) {
            continue;
        }
        let (name, folder) = (&wanted.name, settings.folder.display());
        match order(settings, wanted, feed).await {
            Ok(()) => tracing::info!(certificate = %name, %folder, "issued by the ACME server"),
            Err(why) => {
                tracing::warn!(certificate = %name, "the ACME server issued nothing: {why:#}");
                problems.push(Unusable {
                    path: format!("acme.domains {}", wanted.domains.join(", ")),
                    why: format!("{why:#}"),
                    advice: if why.is::<io::Error>() {
                        "see to the folder, and to room on its disk; it is tried again, ever more slowly".to_owned()
                    } else {
                        "see that the names lead here from the Internet; it is tried again, ever more slowly".to_owned()
                    },
                });
            }
        }
    }
    problems
}

/// Whether a certificate has to be ordered: it is not there with its key, lacks a name, or has less than a third of its life left.
fn is_due(folder: &Path, wanted: &AcmeCertificate, now: i64) -> bool {
    let Ok(pem) = fs::read(folder.join(format!("{}.crt", wanted.name))) else { return true };
    let Ok(certificate) = X509::from_pem(&pem) else { return true };
    let key =
        fs::read(folder.join(format!("{}.key", wanted.name))).ok().and_then(|pem| PKey::private_key_from_pem_passphrase(&pem, &[]).ok());
    if !key.is_some_and(|key| certificate.public_key().is_ok_and(|public| public.public_eq(&key))) {
        return true;
    }
    let names = certificate.subject_alt_names();
    let bears = |domain: &Arc<str>| names.iter().flatten().any(|name| name.dnsname().is_some_and(|name| name.eq_ignore_ascii_case(domain)));
    let seconds = |time: &openssl::asn1::Asn1TimeRef| {
        let epoch = Asn1Time::from_unix(0).ok()?;
        let difference = epoch.diff(time).ok()?;
        Some(i64::from(difference.days) * 86_400 + i64::from(difference.secs))
    };
    let (Some(from), Some(until)) = (seconds(certificate.not_before()), seconds(certificate.not_after())) else { return true };
    !wanted.domains.iter().all(bears) || until - now < (until - from) / 3
}

/// Orders one certificate and writes it.
async fn order(settings: &AcmeSettings, wanted: &AcmeCertificate, feed: &IngressFeed) -> anyhow::Result<()> {
    let account = account(settings).await?;
    let names: Vec<Identifier> = wanted.domains.iter().map(|domain| Identifier::Dns(domain.to_string())).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await.context("the order was not taken")?;
    let proved = prove(settings, &mut order, feed).await;
    // What was put up for the server comes down, however it ended.
    feed.send(IngressChange::Challenges(Arc::default()));
    proved?;
    let key = key()?;
    order.finalize_csr(&request(&wanted.domains, &key)?).await.context("the request was not taken")?;
    let chain = order.poll_certificate(&patience()).await.context("no certificate came")?;
    let issued = X509::from_pem(chain.as_bytes()).context("what came is no certificate")?;
    ensure!(issued.public_key()?.public_eq(&key), "the certificate that came is for another key");
    keep(&settings.folder, &wanted.name, &key.private_key_to_pem_pkcs8()?, chain.as_bytes())
}

/// Keeps a pair. Both files are written before either takes its place, so that a full disk leaves the pair that is there as it is.
fn keep(folder: &Path, name: &str, key: &[u8], chain: &[u8]) -> anyhow::Result<()> {
    let file = |ending: &str| folder.join(format!("{name}.{ending}"));
    let (key, chain) = (Written::new(file("key"), key)?, Written::new(file("crt"), chain)?);
    key.put()?;
    chain.put()
}

fn patience() -> RetryPolicy {
    RetryPolicy::default().timeout(ISSUE)
}

/// Shows the server that the names are ours.
async fn prove(settings: &AcmeSettings, order: &mut Order, feed: &IngressFeed) -> anyhow::Result<()> {
    let mut shown = Challenges::default();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => bail!("{}: its authorization is {status:?}", authorization.identifier()),
        }
        let kind = match settings.challenge {
            AcmeChallenge::Http01 => ChallengeType::Http01,
            AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut challenge = authorization.challenge(kind).context("the server does not offer this kind of challenge")?;
        put_up(&mut shown, settings.challenge, &challenge)?;
        feed.send(IngressChange::Challenges(Arc::new(shown.clone())));
        feed.published().await.context("the process is ending")?;
        challenge.set_ready().await?;
    }
    match order.poll_ready(&patience()).await? {
        OrderStatus::Ready | OrderStatus::Valid => Ok(()),
        status => {
            let mut authorizations = order.authorizations();
            let mut reasons = Vec::new();
            while let Some(Ok(authorization)) = authorizations.next().await {
                let failed = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
                reasons.extend(failed.map(ToString::to_string));
            }
            bail!("the names were not found to be ours ({status:?}): {}", reasons.join("; "))
        }
    }
}

/// Adds what the server will ask for.
fn put_up(shown: &mut Challenges, kind: AcmeChallenge, challenge: &ChallengeHandle<'_>) -> anyhow::Result<()> {
    let authorisation = challenge.key_authorization();
    match kind {
        AcmeChallenge::Http01 => {
            shown.http.insert(challenge.token.as_str().into(), authorisation.as_str().into());
        }
        AcmeChallenge::TlsAlpn01 => {
            let name = challenge.identifier().to_string();
            let pair = challenge_certificate(&name, authorisation.digest().as_ref())?;
            shown.tls_alpn.insert(name.as_str().into(), Arc::new(pair));
        }
    }
    Ok(())
}

/// The certificate that proves a name over TLS (RFC 8737, section 3): signed by itself, with the digest in a critical extension.
fn challenge_certificate(name: &str, digest: &[u8]) -> anyhow::Result<CertificatePair> {
    let key = key()?;
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_text("CN", "acme challenge")?;
    let subject = subject.build();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*BigNum::from_u32(1)?.to_asn1_integer()?)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(&subject)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(&*Asn1Time::from_unix(unix_now() - 3600)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(7)?)?;
    let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    // The extension holds the digest as an octet string within the octet string that every extension is.
    let inner = [&[4, u8::try_from(digest.len())?], digest].concat();
    let oid = Asn1Object::from_str("1.3.6.1.5.5.7.1.31")?;
    builder.append_extension(X509Extension::new_from_der(&oid, true, &*Asn1OctetString::new_from_bytes(&inner)?)?)?;
    builder.sign(&key, MessageDigest::sha256())?;
    let pem = String::from_utf8(builder.build().to_pem()?)?;
    Ok(CertificatePair {
        name: name.into(),
        chain: credentials::certificates("acme challenge", &pem)?,
        key: Secret::new(String::from_utf8(key.private_key_to_pem_pkcs8()?)?),
        names: vec![name.into()],
        not_before: unix_now() - 3600,
        not_after: unix_now() + 7 * 86_400,
        ocsp: None,
    })
}

fn key() -> Result<PKey<Private>, openssl::error::ErrorStack> {
    PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)
}

/// The certificate signing request, DER.
fn request(domains: &[Arc<str>], key: &PKey<Private>) -> anyhow::Result<Vec<u8>> {
    let mut request = X509Req::builder()?;
    request.set_pubkey(key)?;
    let mut names = SubjectAlternativeName::new();
    for domain in domains {
        names.dns(domain);
    }
    let names = names.build(&request.x509v3_context(None))?;
    let mut extensions = Stack::new()?;
    extensions.push(names)?;
    request.add_extensions(&extensions)?;
    request.sign(key, MessageDigest::sha256())?;
    Ok(request.build().to_der()?)
}

/// The account of these settings: the one that was made before, else a new one, kept in a file of its owner alone.
async fn account(settings: &AcmeSettings) -> anyhow::Result<Account> {
    let path = settings.folder.join("acme-account.json");
    let mut known: BTreeMap<String, serde_json::Value> = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is not what was written there", path.display()))?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(why) => return Err(why).with_context(|| format!("cannot read {}", path.display())),
    };
    let builder = Account::builder_with_http(Box::new(Caller::new(settings.roots.as_deref())?));
    if let Some(credentials) = known.get(&settings.directory) {
        let credentials: AccountCredentials = serde_json::from_value(credentials.clone())?;
        return builder.from_credentials(credentials).await.context("the account is not known any more");
    }
    // The CA counts the accounts that are made: one that cannot be kept is not asked for.
    drop(Written::new(path.clone(), b"")?);
    let contact: Vec<&str> = settings.contacts.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&wanted, settings.directory.clone(), None).await.context("no account was made")?;
    known.insert(settings.directory.clone(), serde_json::to_value(&credentials)?);
    write(&path, &serde_json::to_vec_pretty(&known)?)?;
    Ok(account)
}

/// Writes a file whole or not at all, for its owner alone.
fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    Written::new(path.to_owned(), content)?.put()
}

/// A file that is written beside its place, for its owner alone; it is gone if it does not get there.
struct Written {
    partial: PathBuf,
    path: PathBuf,
}

impl Written {
    fn new(path: PathBuf, content: &[u8]) -> anyhow::Result<Self> {
        let written = Self { partial: PathBuf::from(format!("{}.partial", path.display())), path };
        if let Some(folder) = written.path.parent() {
            fs::create_dir_all(folder).with_context(|| written.cannot("make the folder of"))?;
        }
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&written.partial);
        let filled = file.and_then(|mut file| io::Write::write_all(&mut file, content).and_then(|()| file.sync_all()));
        filled.with_context(|| written.cannot("write"))?;
        Ok(written)
    }

    fn put(self) -> anyhow::Result<()> {
        fs::rename(&self.partial, &self.path).with_context(|| self.cannot("put in place"))
    }

    fn cannot(&self, what: &str) -> String {
        format!("cannot {what} {}", self.path.display())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Usually it is in its place by now.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Calls the ACME server.
struct Caller(reqwest::Client);

impl Caller {
    fn new(roots: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = reqwest::Client::builder().timeout(CALL).user_agent(concat!("aralez/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = roots {
            let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).with_context(|| format!("{}: no certificate in it", path.display()))?;
            builder = builder.tls_certs_only(roots);
        }
        Ok(Self(builder.build()?))
    }
}

impl HttpClient for Caller {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |why: reqwest::Error| instant_acme::Error::Other(Box::new(why));
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let request = http::Request::from_parts(parts, body).try_into().map_err(other)?;
            let answer = client.execute(request).await.map_err(other)?;
            let mut head = http::Response::builder().status(answer.status());
            if let Some(headers) = head.headers_mut() {
                headers.clone_from(answer.headers());
            }
            let body = http_body_util::Full::new(answer.bytes().await.map_err(other)?);
            let answer = head.body(body).map_err(|why| instant_acme::Error::Other(Box::new(why)))?;
            Ok(answer.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(domains: &[&str]) -> AcmeCertificate {
        AcmeCertificate { name: domains[0].into(), domains: domains.iter().map(|domain| Arc::from(*domain)).collect() }
    }

    #[test]
    fn a_certificate_is_due_when_it_is_missing_lacks_a_name_or_grows_old() {
        let folder = tempfile::tempdir().unwrap();
        let shop = wanted(&["shop.test"]);
        assert!(is_due(folder.path(), &shop, unix_now()));
        let pair = challenge_certificate("shop.test", &[7; 32]).unwrap();
        let pem = X509::from_der(pair.chain[0].der()).unwrap().to_pem().unwrap();
        write(&folder.path().join("shop.test.crt"), &pem).unwrap();
        assert!(is_due(folder.path(), &shop, unix_now()), "there is no key");
        write(&folder.path().join("shop.test.key"), pair.key.expose().as_bytes()).unwrap();
        assert!(!is_due(folder.path(), &shop, unix_now()));
        assert!(is_due(folder.path(), &wanted(&["shop.test", "www.shop.test"]), unix_now()));
        assert!(is_due(folder.path(), &shop, unix_now() + 5 * 86_400), "five of seven days are gone");
        write(&folder.path().join("shop.test.crt"), b"no certificate").unwrap();
        assert!(is_due(folder.path(), &shop, unix_now()));
    }

    /// `/dev/full` stands for a disk without room.
    #[test]
    fn a_full_disk_leaves_the_pair_that_is_there() {
        for full in ["key", "crt"] {
            let folder = tempfile::tempdir().unwrap();
            keep(folder.path(), "a.test", b"old key", b"old chain").unwrap();
            std::os::unix::fs::symlink("/dev/full", folder.path().join(format!("a.test.{full}.partial"))).unwrap();
            let why = keep(folder.path(), "a.test", b"new key", b"new chain").unwrap_err();
            assert!(why.is::<io::Error>() && format!("{why:#}").contains(&format!("a.test.{full}: No space left")), "{why:#}");
            let read = |ending| fs::read_to_string(folder.path().join(format!("a.test.{ending}"))).unwrap();
            assert_eq!((read("key").as_str(), read("crt").as_str()), ("old key", "old chain"));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");
        }
    }

    #[tokio::test]
    async fn no_account_is_made_that_cannot_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let settings = |folder: PathBuf| AcmeSettings {
            directory: "http://127.0.0.1:1/dir".to_owned(),
            contacts: Vec::new(),
            challenge: AcmeChallenge::default(),
            certificates: Vec::new(),
            folder,
            roots: None,
        };
        let why = async |at: &str| format!("{:#}", account(&settings(folder.path().join(at))).await.err().unwrap());
        assert!(why("").await.starts_with("no account was made"), "the server is asked");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of the attempt");
        fs::write(folder.path().join("file"), "").unwrap();
        let why = why("file").await;
        assert!(why.starts_with("cannot ") && why.contains("acme-account.json"), "{why}");
    }

    #[test]
    fn the_request_bears_all_names_and_its_key_is_for_the_owner_alone() {
        let key = key().unwrap();
        let der = request(&wanted(&["a.test", "b.test"]).domains, &key).unwrap();
        let request = X509Req::from_der(&der).unwrap();
        assert!(request.verify(&key).unwrap());
        let text = String::from_utf8(request.to_text().unwrap()).unwrap();
        assert!(text.contains("DNS:a.test, DNS:b.test"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/key");
        write(&path, b"secret").unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
    }
}
