//! Flags of `consul connect proxy`, `consul connect envoy` and Envoy that mean nothing here: accepted, with a note if they change nothing that is
//! noticed, or refused with the reason.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Exit, args::go_bool};

/// What becomes of a foreign flag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// Asks for what is so anyway.
    Granted,
    /// Has no effect, and why that does no harm.
    Ignored(&'static str),
    /// Would promise what this proxy does not do.
    Refused(&'static str),
}
use Verdict::{Granted, Ignored, Refused};

/// Whether a flag takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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

const NO_RESTART: &str = "there is no hot restart here";
const NO_RESOURCES: &str = "only node, token and addresses are read from a bootstrap file";
const NO_FORMAT: &str = "the log has one format";

/// A flag: its name, whether it takes a value, and what becomes of it.
pub(super) type Foreign = (&'static str, Kind, Verdict);

/// Consul's, on `connect`.
pub(super) const CONSUL: &[Foreign] = &[
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

/// Envoy's, on `serve`; those of Envoy 1.40.
pub(super) const ENVOY: &[Foreign] = &[
    ("admin-address-path", Value, Ignored("the address is in the log")),
    ("allow-unknown-fields", Switch, Granted),
    ("allow-unknown-static-fields", Switch, Granted),
    ("base-id", Value, Granted),
    ("base-id-path", Value, Ignored(NO_RESTART)),
    ("component-log-level", Value, Ignored("the log has one level")),
    ("cpuset-threads", Switch, Ignored("say -threads, or --concurrency")),
    ("disable-extensions", Value, Ignored(NO_ENVOY)),
    ("disable-hot-restart", Switch, Granted),
    ("drain-strategy", Value, Ignored(NO_RESTART)),
    ("drain-time-s", Value, Ignored("a drain takes ARALEZ_SHUTDOWN_GRACE_PERIOD_SECONDS at most")),
    ("enable-core-dump", Switch, Ignored(NO_ENVOY)),
    ("enable-fine-grain-logging", Switch, Ignored("the log has one level")),
    ("enable-mutex-tracing", Switch, Ignored(NO_ENVOY)),
    ("file-flush-interval-msec", Value, Ignored("logs are written at once")),
    ("file-flush-min-size-kb", Value, Ignored("logs are written at once")),
    ("ignore-unknown-dynamic-fields", Switch, Granted),
    ("local-address-ip-version", Value, Ignored(NO_RESOURCES)),
    ("log-format", Value, Ignored(NO_FORMAT)),
    ("log-format-escaped", Switch, Ignored(NO_FORMAT)),
    ("log-stacktrace-single-entry", Switch, Granted),
    ("parent-shutdown-time-s", Value, Ignored(NO_RESTART)),
    ("reject-unknown-dynamic-fields", Switch, Ignored(NO_RESOURCES)),
    ("restart-epoch", Value, Ignored(NO_RESTART)),
    ("service-cluster", Value, Ignored("the bootstrap file names the service")),
    ("service-node", Value, Ignored("the bootstrap file names the proxy")),
    ("service-zone", Value, Ignored("the registration has the zone")),
    ("skip-deprecated-logs", Switch, Granted),
    ("skip-hot-restart-on-no-parent", Switch, Granted),
    ("skip-hot-restart-parent-stats", Switch, Granted),
    ("socket-mode", Value, Ignored(NO_RESTART)),
    ("socket-path", Value, Ignored(NO_RESTART)),
    ("stats-tag", Value, Ignored("the registration's envoy_stats_tags are honoured")),
    ("use-dynamic-base-id", Switch, Granted),
    ("config-yaml", Value, Refused("write the bootstrap to a file and name that with -c")),
    ("mode", Value, Refused("with a bootstrap file there is nothing but serving; leave it out")),
];

/// Declares the foreign flags, hidden from help.
pub(super) fn declare(command: Command) -> Command {
    let with = |table: &'static [Foreign]| move |verb: Command| verb.args(table.iter().map(|(name, kind, _)| arg(name, *kind)));
    command.mut_subcommand("connect", with(CONSUL)).mut_subcommand("serve", with(ENVOY))
}

fn arg(name: &'static str, kind: Kind) -> Arg {
    let arg = Arg::new(name).long(name).hide(true);
    match kind {
        // Repeats are fine: `-upstream` is meant to be.
        Value => arg.action(ArgAction::Append),
        Switch => arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(go_bool),
    }
}

/// Whether any flag of a table was given.
pub(super) fn any(table: &[Foreign], matches: &ArgMatches) -> bool {
    table.iter().any(|flag| is_given(flag, matches))
}

/// Notes on what was given and has no effect.
///
/// # Errors
/// [`Exit`] for the first flag that is refused.
pub(super) fn judge(table: &[Foreign], matches: &ArgMatches) -> Result<Vec<String>, Exit> {
    let mut notes = Vec::new();
    for (name, _, verdict) in table.iter().filter(|flag| is_given(flag, matches)) {
        match verdict {
            Granted => {}
            Ignored(why) => notes.push(format!("-{name} has no effect: {why}")),
            Refused(why) => return Err(Exit::wrong(format_args!("-{name} is not supported: {why}"))),
        }
    }
    Ok(notes)
}

fn is_given((name, kind, _): &Foreign, matches: &ArgMatches) -> bool {
    match kind {
        Switch => matches.get_one::<bool>(name).copied().unwrap_or_default(),
        Value => matches.contains_id(name),
    }
}
