//! `aralez -c envoy_bootstrap.json -l info --concurrency 2 --disable-hot-restart`: started in the place of Envoy, with its arguments.

use std::{fs, num::NonZeroUsize};

use clap::ArgMatches;

use super::{Exit, args, connect, foreign, options::ConnectOptions};
use crate::{
    config::bootstrap::Bootstrap,
    telemetry::log::{Level, UnknownLevel},
};

/// The sidecar that is meant if the configuration file is a bootstrap; `None` if it is not, and nothing else was meant for Envoy.
///
/// # Errors
/// [`Exit`] for flags of Envoy without a bootstrap file, and for what cannot be done with one.
pub(super) fn resolve(
    serve: &args::Serve,
    matches: &ArgMatches,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<ConnectOptions>, Exit> {
    let args::Serve { conf, envoy, .. } = serve;
    let for_envoy =
        envoy.log_level.is_some() || envoy.concurrency.is_some() || envoy.log_path.is_some() || foreign::any(foreign::ENVOY, matches);
    // A pipe can be read only once; a main.yaml may come through one.
    if !for_envoy && !conf.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(conf);
    let Some(bootstrap) = text.as_deref().ok().and_then(Bootstrap::parse) else {
        let why = text.err().map_or_else(|| "it is not JSON with node.id and resources".to_owned(), |why| why.to_string());
        let wrong = Exit::wrong(format_args!("flags of Envoy need a bootstrap file of Envoy, and {} is none: {why}", conf.display()));
        return if for_envoy { Err(wrong) } else { Ok(None) };
    };
    if serve.upgrade {
        return Err(Exit::wrong("-upgrade needs -upgrade-sock, which goes with aralez connect, not with a bootstrap file"));
    }
    let flags = args::Connect {
        process: args::Process {
            admin_bind: serve.admin_bind.clone(),
            // Envoy, told to have no worker, has one.
            threads: envoy.concurrency.map(|number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)),
            log_level: envoy.log_level.unwrap_or_default(),
            error_log: envoy.log_path.clone(),
            daemon: serve.daemon,
            ..args::Process::default()
        },
        ..args::Connect::default()
    };
    let notes = foreign::judge(foreign::ENVOY, matches)?;
    connect::resolve(flags, Some(bootstrap), notes, env).map(Some)
}

/// A level by Envoy's words: ours, and one above `error`.
pub(super) fn level(word: &str) -> Result<Level, UnknownLevel> {
    if word.eq_ignore_ascii_case("critical") { Ok(Level::Error) } else { word.parse() }
}
