//! The client of the API server. Its certificate is always verified; tokens in files are read again as they change.

use std::{fs, path::Path, sync::Arc, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::time::sleep;

use crate::{config::kubernetes::Access, control::watches::Watches, model::credentials};

/// How long connecting may take, TCP and TLS each.
const CONNECT: Duration = Duration::from_secs(10);
/// The pause before files that could not be used are read again.
const PAUSE: Duration = Duration::from_secs(3);

/// The client, once the files that it is made of can be used.
pub async fn client(access: &Access, watches: &Arc<Watches>) -> Client {
    let watch = watches.register("kubernetes access");
    loop {
        let made = match config(access).await {
            Ok(mut config) => {
                config.connect_timeout = Some(CONNECT);
                Client::try_from(config).map_err(|why| why.to_string())
            }
            Err(why) => Err(why),
        };
        match made {
            Ok(client) => return client,
            Err(why) => watch.failed(&why, PAUSE),
        }
        sleep(PAUSE).await;
    }
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
