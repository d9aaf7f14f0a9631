//! The configuration of the process that serves a `main.yaml`, asked of its configuration API: `GET /conf`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::{Client, ClientBuilder, redirect};

use crate::{
    config::main_file::ApiSettings,
    model::listener::{Address, Bind},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is in force, as YAML without secrets.
///
/// # Errors
/// In words, when the settings name no API in clear or no key, or the process does not answer.
pub async fn shown(api: &ApiSettings) -> anyhow::Result<String> {
    let key =
        api.master_key.as_ref().context("main.yaml sets no master_key, without which the running process tells nobody what it does")?;
    let bind = api.address.as_ref().context("main.yaml sets no config_address, at which the running process could be asked")?;
    let (base, client) = client(bind).build().map(|client: Client| (base(bind), client)).context("cannot prepare a request")?;
    let asked = client.get(format!("{base}/conf")).bearer_auth(key.expose()).send().await;
    let answer = asked.with_context(|| format!("nobody answers at {}, the config_address: is the process running?", bind.address))?;
    let status = answer.status();
    let text = answer.text().await.context("the answer of the running process broke off")?;
    ensure!(status.is_success(), "the process at {} answers {status}: {}", bind.address, text.trim());
    Ok(text)
}

fn client(bind: &Bind) -> ClientBuilder {
    let builder = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(PATIENCE).tls_certs_only([]);
    match &bind.address {
        Address::Unix(path) => builder.unix_socket(path.as_path()),
        Address::Tcp(_) => builder,
    }
}

/// Where the address is called: one that means all addresses is called on this host.
fn base(bind: &Bind) -> String {
    match bind.address {
        Address::Unix(_) => "http://localhost".to_owned(),
        Address::Tcp(mut address) => {
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
            }
            format!("http://{address}")
        }
    }
}
