//! The command line: arguments and environment in, plain options out. Nothing is started here; the only file that is read is an Envoy bootstrap.
//!
//! Flags have the names that `consul connect proxy` and `consul connect envoy` give them, with one dash or two; a flag wins over
//! its variable, and an empty variable is one that is not set (as in Consul).

mod args;
mod check;
mod connect;
mod dashes;
mod envoy;
mod explain;
mod foreign;
mod man;
mod nomad;
mod options;

use std::{ffi::OsString, fmt, net::SocketAddr, time::Duration};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};

pub use self::{
    args::SchemaOf,
    options::{
        AdminBind, CheckOptions, Checked, ConnectOptions, DevOptions, ExplainOptions, ProcessOptions, Question, Request, SCRAPE_PATH,
        ServeOptions, StatusOptions, USUAL_ADMIN,
    },
};

/// What the user wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// `aralez -c FILE`, `aralez serve -c FILE`: be a reverse proxy.
    Serve(ServeOptions),
    /// `aralez check`, `aralez -t -c FILE`: say what is wrong with files, or with what a sidecar would meet.
    Check(Box<CheckOptions>),
    /// `aralez schema`: print the JSON Schema of one configuration file, or of both.
    Schema(Option<SchemaOf>),
    /// `aralez connect`: be the sidecar of a service.
    Connect(Box<ConnectOptions>),
    /// `aralez dev`: run a whole mesh in this process.
    Dev(DevOptions),
    /// `aralez explain`: say what would become of a request.
    Explain(Box<ExplainOptions>),
    /// `aralez status`: say how a running one does.
    Status(StatusOptions),
    /// `aralez wait`: wait until the one with this admin API is ready, for so long.
    Wait(SocketAddr, Duration),
    /// `aralez drain`: let the one with this admin API drain and end.
    Drain(SocketAddr),
}

/// There is nothing to run: the text to print, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 for help, version, completions and manual; 2 for wrong usage.
    pub code: u8,
    /// For standard output if the code is 0, else for standard error. Ends without a newline.
    pub text: String,
}

impl Exit {
    fn wrong(text: impl fmt::Display) -> Self {
        Self { code: 2, text: format!("aralez: {text}") }
    }
}

/// Reads the command line. `args` begins with the program's name; `env` gives a variable's value.
///
/// # Errors
/// [`Exit`] with code 0 for what is only printed; with code 2 and one line that says what is wrong and what to do.
pub fn parse<A>(args: impl IntoIterator<Item = A>, env: impl Fn(&str) -> Option<String>) -> Result<Command, Exit>
where
    A: Into<OsString>,
{
    let mut command = foreign::declare(args::Args::command());
    command.build();
    let args = dashes::double(&command, with_verb(args.into_iter().map(Into::into)));
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let matches = command.try_get_matches_from_mut(args).map_err(|error| exit(&error))?;
    let parsed = args::Args::from_arg_matches(&matches).map_err(|error| exit(&error))?;
    match parsed.verb {
        args::Verb::Serve(serve) if serve.test => Ok(Command::Check(Box::new(CheckOptions::of_files(vec![serve.conf])))),
        args::Verb::Serve(serve) => {
            let sidecar = matches.subcommand().map_or(Ok(None), |(_, matches)| envoy::resolve(&serve, matches, &env))?;
            if let Some(options) = sidecar {
                return Ok(Command::Connect(Box::new(options)));
            }
            let args::Serve { conf, upgrade, daemon, admin_bind, .. } = serve;
            Ok(Command::Serve(ServeOptions { conf, upgrade, daemon, admin: options::admin_bind(admin_bind, &env)? }))
        }
        args::Verb::Check(flags) => Ok(Command::Check(Box::new(check::resolve(*flags, &env)?))),
        args::Verb::Schema(schema) => Ok(Command::Schema(schema.file)),
        args::Verb::Connect(connect) => {
            let mut notes = matches.subcommand().map_or(Ok(Vec::new()), |(_, matches)| foreign::judge(foreign::CONSUL, matches))?;
            let bootstrap = nomad::bootstrap(&env).unwrap_or_else(|unused| {
                notes.push(unused);
                None
            });
            Ok(Command::Connect(Box::new(connect::resolve(*connect, bootstrap, notes, &env)?)))
        }
        args::Verb::Dev(dev) => Ok(Command::Dev(DevOptions { mesh: dev.mesh, process: options::process(dev.process, &env)? })),
        args::Verb::Explain(flags) => Ok(Command::Explain(Box::new(explain::resolve(*flags, &env)?))),
        args::Verb::Completions { shell } => Err(Exit { code: 0, text: completions(shell) }),
        args::Verb::Man { verb } => Err(Exit { code: 0, text: man::page(args::Args::command(), verb.as_deref())? }),
        args::Verb::Status(args::Status { admin, format }) => {
            Ok(Command::Status(StatusOptions { admin: options::admin(admin, &env)?, json: format == args::StatusFormat::Json }))
        }
        args::Verb::Wait(args::Wait { admin, timeout_seconds }) => {
            Ok(Command::Wait(options::admin(admin, &env)?, Duration::from_secs(timeout_seconds.into())))
        }
        args::Verb::Drain(args::Drain { admin }) => Ok(Command::Drain(options::admin(admin, &env)?)),
        args::Verb::Version => Err(Exit { code: 0, text: version() }),
    }
}

/// A line that begins with a flag is one of `serve`, unless it asks for help or the version.
fn with_verb(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    const GENERAL: [&str; 7] = ["-h", "-help", "--help", "-v", "-V", "-version", "--version"];
    let mut args: Vec<OsString> = args.collect();
    if args.get(1).and_then(|first| first.to_str()).is_some_and(|first| first.starts_with('-') && !GENERAL.contains(&first)) {
        args.insert(1, "serve".into());
    }
    args.into_iter()
}

fn version() -> String {
    format!("aralez {}", env!("CARGO_PKG_VERSION"))
}

/// The completions of the flags that have a meaning here; foreign ones are accepted, not offered.
fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    let program = args::Args::command();
    // As `with_verb` reads a line: the flags of `serve` need no verb.
    let serve: Vec<_> = program
        .find_subcommand("serve")
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter(|flag| !flag.is_hide_set())
        .cloned()
        .collect();
    clap_complete::generate(shell, &mut program.args(serve), "aralez", &mut script);
    String::from_utf8_lossy(&script).trim_end().to_owned()
}

/// Clap's words as one line, without the usage block.
fn exit(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit { code: 0, text: text.trim_end().to_owned() },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Exit::wrong("no command given; try: aralez -c main.yaml, aralez connect -sidecar-for ID, or aralez dev")
        }
        _ => {
            let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
            // Clap's advice to write an unknown flag after `--` helps nobody here.
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"));
            let line: Vec<&str> = lines.map(|line| line.trim_start_matches("error: ")).collect();
            Exit::wrong(format_args!("{}; see aralez --help", line.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests;
