//! The client of the API server. Its certificate is always verified; tokens in files are read again as they change, all else once it is refused.

use std::{fs, path::Path, sync::Arc, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, sleep},
};

use crate::{
    config::kubernetes::Access,
    control::{
        ingress::watch::aside,
        watches::{Watch, Watches},
    },
    model::credentials,
};

/// How long connecting may take, TCP and TLS each.
const CONNECT: Duration = Duration::from_secs(10);
/// The pause before files that could not be used are read again.
const PAUSE: Duration = Duration::from_secs(3);

/// The shortest time between two that are made anew: each may run a program that asks somebody else for a token.
const RENEWAL: Duration = Duration::from_secs(10);

/// The client of the moment.
pub struct Clients {
    access: Access,
    watches: Arc<Watches>,
    now: Mutex<Client>,
    /// Held while another one is made.
    last: Turn<Made>,
}

/// When a client was made anew last, or could not be.
struct Made {
    at: Option<Instant>,
    failing: Option<Watch>,
}

impl Clients {
    /// Once the files that the client is made of can be used.
    pub async fn new(access: Access, watches: Arc<Watches>) -> Self {
        let watch = watches.register("kubernetes access");
        loop {
            match client(&access).await {
                Ok(client) => return Self::of(client, access, watches),
                Err(why) => watch.failed(&why, PAUSE),
            }
            sleep(PAUSE).await;
        }
    }

    /// With a first client.
    pub fn of(client: Client, access: Access, watches: Arc<Watches>) -> Self {
        Self { access, watches, now: Mutex::new(client), last: Turn::new(Made { at: None, failing: None }) }
    }

    /// The client.
    pub fn now(&self) -> Client {
        self.now.lock().clone()
    }

    /// Makes the client anew, since the server takes its credentials no more, or it the server's certificate; not if that was done just now. Whether
    /// there is another one.
    pub async fn renew(&self) -> bool {
        let mut last = self.last.lock().await;
        if last.at.is_some_and(|at| at.elapsed() < RENEWAL) {
            return false;
        }
        let made = client(&self.access).await;
        last.at = Some(Instant::now());
        match made {
            Ok(client) => {
                *self.now.lock() = client;
                last.failing = None;
                true
            }
            Err(why) => {
                last.failing.get_or_insert_with(|| self.watches.register("kubernetes access")).failed(&why, RENEWAL);
                false
            }
        }
    }
}

/// A client of these files as they are now; nothing is asked.
///
/// # Errors
/// In words, when a file cannot be used.
pub async fn client(access: &Access) -> Result<Client, String> {
    let mut config = config(access).await?;
    config.connect_timeout = Some(CONNECT);
    // It may run a program.
    aside(move || Client::try_from(config).map_err(|why| why.to_string())).await
}

/// How to reach the API server; it is not asked.
///
/// # Errors
/// In words, when a file cannot be used.
pub async fn config(access: &Access) -> Result<Config, String> {
    let config = named(access).await?;
    if let Some(file) = &config.auth_info.token_file {
        // The client sends it as it stands, and would say of it no more than that a header cannot be parsed.
        let token = fs::read_to_string(file).map_err(|why| format!("{file}: {why}"))?;
        if token.trim() != token {
            return Err(format!(
                "{file}: the end of a line, or a blank, stands beside the token; write the token alone, as printf %s does"
            ));
        }
    }
    Ok(config)
}

async fn named(access: &Access) -> Result<Config, String> {
    match access {
        Access::Usual { kubeconfig: None, context: None } => Config::infer().await.map_err(|why| why.to_string()),
        Access::Usual { kubeconfig, context } => {
            let file = match kubeconfig {
                Some(path) => Kubeconfig::read_from(path),
                None => Kubeconfig::read(),
            };
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(file.map_err(|why| why.to_string())?, &options).await.map_err(|why| why.to_string())
        }
        Access::Server { url, token_file, ca_file } => {
            let mut config = Config::new(url.clone());
            config.root_cert = Some(roots(ca_file)?);
            config.auth_info.token_file = Some(token_file.display().to_string());
            Ok(config)
        }
    }
}

fn roots(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
    let certificates = credentials::certificates("ca_file", &text).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(certificates.iter().map(|certificate| certificate.der().to_vec()).collect())
}
