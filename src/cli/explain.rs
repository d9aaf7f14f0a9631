//! The arguments of `explain`: which question, about which request.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{
    Exit,
    args::Explain,
    connect, nomad,
    options::{ExplainOptions, Question, Request},
};

pub(super) fn resolve(flags: Explain, env: &impl Fn(&str) -> Option<String>) -> Result<ExplainOptions, Exit> {
    let bootstrap = nomad::bootstrap(env).ok().flatten();
    let question = match (flags.from, flags.to) {
        (Some(from), Some(to)) => Question::Inbound { from, to },
        _ => {
            let selector = connect::selector(flags.selector, bootstrap.as_ref(), env).map_err(|_| {
                Exit::wrong(
                    "nothing to explain: say -sidecar-for SERVICE-ID for its upstreams, or -from SERVICE -to SERVICE for intentions",
                )
            })?;
            Question::Outbound { selector, upstream: flags.upstream }
        }
    };
    let (agent, default_policy) = connect::agent(flags.agent, bootstrap.as_ref(), env)?;
    let method = Method::from_bytes(flags.method.as_bytes())
        .map_err(|_| Exit::wrong(format_args!("{:?} is no method; write for example GET /path", flags.method)))?;
    if !flags.target.starts_with('/') && flags.target != "*" {
        return Err(Exit::wrong(format_args!("{:?} is no path; it begins with a slash", flags.target)));
    }
    let headers = flags.headers.iter().map(|text| header(text)).collect::<Result<_, _>>()?;
    let timeout = Duration::from_secs(flags.timeout_seconds.into());
    Ok(ExplainOptions {
        question,
        agent,
        default_policy,
        request: Request { method, target: flags.target, headers },
        json: flags.json,
        timeout,
    })
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Exit> {
    let parsed = text.split_once(':').and_then(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)));
    // Its value may be a token: it is not repeated.
    let name = text.split(':').next().unwrap_or_default();
    parsed.ok_or_else(|| Exit::wrong(format_args!("-H {name:?} is no header; write 'name: value'")))
}
