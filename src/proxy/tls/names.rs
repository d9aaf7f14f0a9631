//! TLS for anybody: the certificate follows the name that the client asks for.
//!
//! One context serves all names, and each handshake gets its certificates. So versions, suites, the trust in client certificates and the keys of session
//! tickets are the same whatever name is asked for: there is no context beside it that could be laxer, and none to rebuild when a certificate changes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use openssl::{
    error::ErrorStack,
    pkey::{Id, PKey, Private},
    ssl::{
        AlpnError, NameType, SniError, Ssl, SslContext, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode,
        select_next_proto,
    },
    stack::Stack,
    x509::{X509, X509Name, store::X509StoreBuilder},
};

use super::grade;
use crate::model::{
    credentials::Certificate,
    ingress::{CertificatePair, Certificates, Challenges, ClientAuth, IngressTls, TlsGrade},
    moment::unix_now,
};

/// The protocol by which an ACME server checks a name (RFC 8737). Nothing is spoken after its handshake.
pub const ACME: &[u8] = b"acme-tls/1";
const ACME_ONLY: &[u8] = b"\x0aacme-tls/1";
/// What we speak, the preferred first.
const SPOKEN: &[u8] = b"\x02h2\x08http/1.1";
/// How long the key of session tickets is used: who gets hold of it can read what its tickets resumed.
const TICKET_KEY_LIFE: Duration = Duration::from_secs(12 * 3600);

/// Terminates TLS of an ingress listener.
pub struct Front {
    grade: TlsGrade,
    client_auth: Option<ClientAuth>,
    table: Arc<ArcSwap<Table>>,
    context: ArcSwap<Aged>,
}

struct Aged {
    context: SslContext,
    made: Instant,
}

impl Front {
    /// For a listener's TLS. Certificates that cannot be shown are left out, with a line in the log.
    ///
    /// # Errors
    /// In words, when no certificate can be shown, or OpenSSL refuses the roots of client certificates.
    pub fn new(tls: &IngressTls, challenges: &Challenges) -> Result<Self, String> {
        if tls.grade == TlsGrade::Unsafe {
            tracing::warn!("proxy_tls_grade is unsafe: obsolete versions and ciphers of TLS are accepted, which never score better than B");
        }
        let (grade, client_auth, table) = (tls.grade, tls.client_auth.clone(), Arc::new(ArcSwap::from_pointee(Table::default())));
        let context = Aged::new(grade, client_auth.as_ref(), &table).map_err(|e| e.to_string())?;
        let front = Self { grade, client_auth, table, context: ArcSwap::from_pointee(context) };
        front.follow(&tls.certificates, challenges)?;
        Ok(front)
    }

    /// Whether it speaks as this TLS says; only the certificates may differ.
    pub fn is_for(&self, tls: &IngressTls) -> bool {
        self.grade == tls.grade && self.client_auth == tls.client_auth
    }

    /// Takes other certificates, all at once; handshakes in flight keep what they began with. Only what changed is loaded.
    ///
    /// # Errors
    /// In words, when none of them can be shown: those before stay then.
    pub fn follow(&self, certificates: &Certificates, challenges: &Challenges) -> Result<(), String> {
        let table = Table::new(certificates, challenges, &self.table.load(), &self.context.load().context, unix_now())?;
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// A session for a connection that was accepted.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn session(&self) -> Result<Ssl, ErrorStack> {
        let mut context = self.context.load_full();
        if context.made.elapsed() > TICKET_KEY_LIFE {
            context = Arc::new(Aged::new(self.grade, self.client_auth.as_ref(), &self.table)?);
            self.context.store(context.clone());
        }
        Ssl::new(&context.context)
    }
}

impl Aged {
    /// A context with ticket keys of its own.
    fn new(grade: TlsGrade, client_auth: Option<&ClientAuth>, table: &Arc<ArcSwap<Table>>) -> Result<Self, ErrorStack> {
        let mut context = SslContext::builder(SslMethod::tls_server())?;
        grade::apply(grade, &mut context)?;
        // An idle connection gives its record buffers (34 KiB) back; a chain is shown as it is, never made up from the roots of client certificates.
        context.set_mode(
            SslMode::RELEASE_BUFFERS | SslMode::NO_AUTO_CHAIN | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::ENABLE_PARTIAL_WRITE,
        );
        // What a resumed session needs is in the client's ticket; nothing is kept here.
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_session_id_context(b"aralez")?;
        if let Some(auth) = client_auth {
            let mut store = X509StoreBuilder::new()?;
            let mut names = Stack::<X509Name>::new()?;
            for root in &auth.roots {
                let root = X509::from_der(root.der())?;
                names.push(root.subject_name().to_owned()?)?;
                store.add_cert(root)?;
            }
            context.set_cert_store(store.build());
            context.set_client_ca_list(names);
            let required = if auth.required { SslVerifyMode::FAIL_IF_NO_PEER_CERT } else { SslVerifyMode::empty() };
            context.set_verify(SslVerifyMode::PEER | required);
            // A resumed session is not verified again: an expired certificate would be let in.
            context.set_options(SslOptions::NO_TICKET);
            context.set_num_tickets(0)?;
        }
        let names = table.clone();
        context.set_servername_callback(move |ssl, _| {
            // A client that was told to try again (HelloRetryRequest) asks twice.
            if ssl.certificate().is_some() {
                return Ok(());
            }
            let table = names.load();
            let (certificates, is_named) = table.for_client(ssl);
            match certificates.iter().try_for_each(|loaded| loaded.show(ssl)) {
                Err(_) => Err(SniError::ALERT_FATAL),
                Ok(()) if is_named => Ok(()),
                Ok(()) => Err(SniError::NOACK),
            }
        });
        let challenged = table.clone();
        context.set_alpn_select_callback(move |ssl, offered| {
            if offered != ACME_ONLY {
                // Nothing in common is an error (RFC 7301, section 3.2): another protocol's client must not be talked into HTTP.
                return select_next_proto(SPOKEN, offered).ok_or(AlpnError::ALERT_FATAL);
            }
            // In TLS 1.3 this comes before the certificate is chosen; in TLS 1.2 the kind of key is settled already, and must be the same.
            let table = challenged.load();
            let certificate = ssl.servername(NameType::HOST_NAME).and_then(|name| table.challenges.get(&*canonical(name)));
            match certificate.map(|loaded| loaded.show(ssl)) {
                Some(Ok(())) => Ok(ACME),
                _ => Err(AlpnError::ALERT_FATAL),
            }
        });
        let stapled = table.clone();
        context.set_status_callback(move |ssl| {
            let table = stapled.load();
            let shown = ssl.certificate().and_then(|shown| table.for_client(ssl).0.iter().find(|loaded| *loaded.leaf == *shown));
            match shown.and_then(|loaded| loaded.pair.ocsp.as_ref()).filter(|staple| unix_now() < staple.until) {
                Some(staple) => ssl.set_ocsp_status(&staple.answer).map(|()| true),
                None => Ok(false),
            }
        })?;
        Ok(Self { context: context.build(), made: Instant::now() })
    }
}

/// The certificates by name; one value, swapped whole.
#[derive(Default)]
struct Table {
    pairs: Vec<Arc<Loaded>>,
    /// By exact name, and by `*.x`: one for each kind of key.
    names: HashMap<Arc<str>, Vec<Arc<Loaded>>>,
    /// For no name, and for names that nobody has.
    default: Vec<Arc<Loaded>>,
    challenges: HashMap<Arc<str>, Loaded>,
}

impl Table {
    fn new(certificates: &Certificates, challenges: &Challenges, last: &Table, context: &SslContext, now: i64) -> Result<Self, String> {
        let known: HashMap<&str, &Arc<Loaded>> = last.pairs.iter().map(|loaded| (&*loaded.pair.name, loaded)).collect();
        let mut table = Self::default();
        for pair in &certificates.pairs {
            let same = known.get(&*pair.name).filter(|loaded| Arc::ptr_eq(&loaded.pair, pair) || loaded.pair == *pair);
            match same.map_or_else(|| Loaded::new(pair, context).map(Arc::new), |loaded| Ok((*loaded).clone())) {
                Ok(loaded) => table.pairs.push(loaded),
                Err(why) => tracing::error!(certificate = %pair.name, "cannot be shown with this grade of TLS: {why}"),
            }
        }
        let default = table.pairs.iter().find(|loaded| certificates.default.as_ref() == Some(&loaded.pair.name));
        let default = default.or(table.pairs.first()).cloned();
        if default.is_none() && challenges.tls_alpn.is_empty() {
            return Err("none of its certificates can be shown".to_owned());
        }
        let mut by_name: HashMap<Arc<str>, Vec<Arc<Loaded>>> = HashMap::new();
        for loaded in &table.pairs {
            for name in &loaded.pair.names {
                let shown = by_name.entry(name.clone()).or_default();
                match shown.iter_mut().find(|other| other.kind() == loaded.kind()) {
                    Some(other) if loaded.rank(now) > other.rank(now) => *other = loaded.clone(),
                    Some(_) => {}
                    None => shown.push(loaded.clone()),
                }
            }
        }
        // With the default goes its twin of another kind of key.
        if let Some(default) = default {
            let twins = table.pairs.iter().filter(|twin| twin.kind() != default.kind() && twin.pair.names == default.pair.names);
            table.default = std::iter::once(&default).chain(twins).cloned().collect();
        }
        table.names = by_name;
        for (name, pair) in &challenges.tls_alpn {
            match Loaded::new(pair, context) {
                Ok(loaded) => {
                    table.challenges.insert(canonical(name).into(), loaded);
                }
                Err(why) => tracing::error!(%name, "the certificate for the ACME server cannot be shown: {why}"),
            }
        }
        Ok(table)
    }

    /// The certificates for a client, and whether it asked for a name that is theirs.
    fn for_client(&self, ssl: &SslRef) -> (&[Arc<Loaded>], bool) {
        let named = ssl.servername(NameType::HOST_NAME).and_then(|name| self.find(name));
        (named.unwrap_or(&self.default), named.is_some())
    }

    /// The certificates for a name: its own, or those of the wildcard one label above.
    fn find(&self, name: &str) -> Option<&Vec<Arc<Loaded>>> {
        let name = canonical(name);
        let wildcard = || name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, rest)| format!("*.{rest}"));
        self.names.get(&*name).or_else(|| self.names.get(&*wildcard()?))
    }
}

/// A name as certificates have it.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A pair in OpenSSL's form.
struct Loaded {
    pair: Arc<CertificatePair>,
    leaf: X509,
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl Loaded {
    /// Loads a pair, and sees that a session of `context` would take it.
    fn new(pair: &Arc<CertificatePair>, context: &SslContext) -> Result<Self, ErrorStack> {
        let mut chain = pair.chain.iter().map(|c: &Certificate| X509::from_der(c.der())).collect::<Result<Vec<_>, _>>()?.into_iter();
        let leaf = chain.next().map_or_else(|| X509::from_der(&[]), Ok)?;
        let key = PKey::private_key_from_pem_passphrase(pair.key.expose().as_bytes(), &[])?;
        let loaded = Self { pair: pair.clone(), leaf, chain: chain.collect(), key };
        let mut session = Ssl::new(context)?;
        session.set_accept_state();
        loaded.show(&mut session)?;
        Ok(loaded)
    }

    fn kind(&self) -> Id {
        self.key.id()
    }

    /// The better of two for the same name: valid now, then the one that ends later.
    fn rank(&self, now: i64) -> (bool, i64) {
        ((self.pair.not_before..self.pair.not_after).contains(&now), self.pair.not_after)
    }

    /// Has a session show it, besides pairs of other kinds of keys: the client's signature algorithms choose.
    fn show(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ssl.set_certificate(&self.leaf)?;
        ssl.set_private_key(&self.key)?;
        self.chain.iter().try_for_each(|intermediate| ssl.add_chain_cert(intermediate.clone()))
    }
}

#[cfg(test)]
mod tests;
