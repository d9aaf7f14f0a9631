//! The arguments of `check`: what is checked.

use std::time::Duration;

use super::{
    Exit,
    args::{Check, Format},
    connect, nomad,
    options::{CheckOptions, Checked},
};

pub(super) fn resolve(flags: Check, env: &impl Fn(&str) -> Option<String>) -> Result<CheckOptions, Exit> {
    let json = flags.format == Format::Json;
    let files: Vec<_> = flags.conf.into_iter().chain(flags.files).collect();
    let timeout = Duration::from_secs(flags.timeout_seconds.into());
    let checked = match (flags.diff, files.as_slice()) {
        (None, [conf]) if flags.cluster => Checked::Cluster { conf: conf.clone(), timeout },
        _ if flags.cluster => return Err(Exit::wrong("-cluster is about one file: aralez check -c main.yaml -cluster")),
        (Some(with), [conf]) => Checked::Changes { conf: conf.clone(), with },
        (Some(_), _) => return Err(Exit::wrong("-diff is about one file: aralez check -c main.yaml -diff")),
        (None, []) => {
            let bootstrap = nomad::bootstrap(env).ok().flatten();
            let selector = connect::selector(flags.selector, bootstrap.as_ref(), env).map_err(|_| {
                Exit::wrong("nothing to check: name a FILE (a main.yaml), or say -sidecar-for SERVICE-ID for what its sidecar would meet at the agent")
            })?;
            let (agent, default_policy) = connect::agent(flags.agent, bootstrap.as_ref(), env)?;
            Checked::Sidecar { selector, agent: Box::new(agent), default_policy, timeout }
        }
        (None, _) => Checked::Files(files),
    };
    Ok(CheckOptions { checked, json })
}
