//! Flags of `consul connect proxy` and `consul connect envoy` that mean nothing here: accepted with a note, or refused with the reason.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Exit, args::go_bool};

/// What becomes of a foreign flag.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// Has no effect, and why that does no harm.
    Ignored(&'static str),
    /// Would promise what this proxy does not do.
    Refused(&'static str),
}
use Verdict::{Ignored, Refused};

/// Whether a flag takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Switch,
    Value,
}
use Kind::{Switch, Value};

const NO_ENVOY: &str = "there is no Envoy here";
const NO_XDS: &str = "Aralez speaks the agent's HTTP API, not gRPC";
const ON_ADMIN: &str = "there is no backend between the metrics and their listener";
const CLEAR: &str = "metrics are served in clear text only";
const GATEWAY: &str = "Aralez is a sidecar, not a Consul gateway; run gateways with consul connect envoy";
const REGISTER: &str = "register the proxy with the agent (a service definition with a connect block), then use -sidecar-for or -proxy-id";

const FOREIGN: &[(&str, Kind, Verdict)] = &[
    ("admin-access-log-path", Value, Ignored("the admin listener keeps no access log")),
    ("datacenter", Value, Ignored("a sidecar belongs to its agent's datacenter")),
    ("enable-config-gen-logging", Switch, Ignored(NO_ENVOY)),
    ("envoy-binary", Value, Ignored(NO_ENVOY)),
    ("envoy-version", Value, Ignored(NO_ENVOY)),
    ("grpc-addr", Value, Ignored(NO_XDS)),
    ("grpc-ca-file", Value, Ignored(NO_XDS)),
    ("grpc-ca-path", Value, Ignored(NO_XDS)),
    ("ignore-envoy-compatibility", Switch, Ignored(NO_ENVOY)),
    ("omit-deprecated-tags", Switch, Ignored("the metrics have no deprecated labels")),
    ("pprof-addr", Value, Ignored("there is no Go profiler here")),
    ("prometheus-backend-port", Value, Ignored(ON_ADMIN)),
    ("prometheus-ca-file", Value, Ignored(CLEAR)),
    ("prometheus-ca-path", Value, Ignored(CLEAR)),
    ("prometheus-cert-file", Value, Ignored(CLEAR)),
    ("prometheus-key-file", Value, Ignored(CLEAR)),
    ("stale", Switch, Ignored("the agent answers from its own state")),
    ("address", Value, Refused(GATEWAY)),
    ("bind-address", Value, Refused(GATEWAY)),
    ("bootstrap", Switch, Refused("there is no Envoy configuration to print; /snapshot of the admin API shows what is in force")),
    ("deregister-after-critical", Value, Refused(GATEWAY)),
    ("expose-servers", Switch, Refused(GATEWAY)),
    ("gateway", Value, Refused(GATEWAY)),
    ("listen", Value, Refused(REGISTER)),
    ("mesh-gateway", Switch, Refused(GATEWAY)),
    ("no-central-config", Switch, Refused("the agent's merged configuration is what Aralez reads; there is no other source")),
    ("node-name", Value, Refused("Aralez reads the registration from the local agent; point -http-addr to the agent of that node")),
    ("register", Switch, Refused(REGISTER)),
    ("register-id", Value, Refused(REGISTER)),
    ("service", Value, Refused(REGISTER)),
    ("service-addr", Value, Refused(REGISTER)),
    ("upstream", Value, Refused(REGISTER)),
    ("wan-address", Value, Refused(GATEWAY)),
];

/// Declares the foreign flags on `connect`, hidden from help.
pub(super) fn declare(command: Command) -> Command {
    command.mut_subcommand("connect", |connect| connect.args(FOREIGN.iter().map(|(name, kind, _)| arg(name, *kind))))
}

fn arg(name: &'static str, kind: Kind) -> Arg {
    let arg = Arg::new(name).long(name).hide(true);
    match kind {
        // Repeats are fine: `-upstream` is meant to be.
        Value => arg.action(ArgAction::Append),
        Switch => arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(go_bool),
    }
}

/// Notes on what was given and has no effect.
///
/// # Errors
/// [`Exit`] for the first flag that is refused.
pub(super) fn judge(connect: &ArgMatches) -> Result<Vec<String>, Exit> {
    let mut notes = Vec::new();
    for (name, kind, verdict) in FOREIGN {
        let given = match kind {
            Switch => connect.get_one::<bool>(name).copied().unwrap_or_default(),
            Value => connect.contains_id(name),
        };
        match verdict {
            _ if !given => {}
            Ignored(why) => notes.push(format!("-{name} has no effect: {why}")),
            Refused(why) => return Err(Exit::wrong(format_args!("-{name} is not supported: {why}"))),
        }
    }
    Ok(notes)
}
