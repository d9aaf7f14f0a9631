//! The manual: a page for the program and one for each verb, made of the command line as clap knows it.

use std::{collections::BTreeMap, io};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::Exit;

/// A section of the program's page: its heading, and what it lists.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SIGNALS: Section = (
    "SIGNALS",
    &[
        (
            "SIGTERM, SIGINT",
            "Drain: accept nothing more, answer what is in flight, end with 0 when all is done or the grace period is over. A second one ends at once.",
        ),
        (
            "SIGHUP",
            "Read routes, what they name, and certificates anew. With an error in them nothing changes, and the log says why. main.yaml is read at a start only; what it has that the process was not started with is told in the log.",
        ),
        ("SIGUSR1", "Open the log and the access logs anew, after they were moved away."),
        ("SIGQUIT", "Wait 60 s for a process started with -upgrade, and go on if none comes. Without an upgrade_sock: drain."),
    ],
);

const EXIT_STATUS: Section = (
    "EXIT STATUS",
    &[
        ("0", "Fine: drained, or what was asked for was done."),
        ("1", "Failed while running; or the answer is no, where a question is asked (explain)."),
        ("2", "Wrong usage or configuration; standard error says what, and what to do. Starting again does not help."),
    ],
);

/// The variables that are no flag's.
const VARIABLES: &[(&str, &str)] = &[
    ("CONSUL_HTTP_AUTH", "NAME:PASSWORD for an agent behind basic authentication."),
    ("CONSUL_HTTP_SSL", "true speaks TLS with the agent."),
    ("CONSUL_HTTP_SSL_VERIFY", "false believes any certificate of the agent."),
    (
        "LISTEN_FDS",
        "Sockets that the service manager listens on, see sd_listen_fds(3): each is used by the listener with the same address.",
    ),
    ("NOTIFY_SOCKET", "Where the service manager is told of readiness, reload, end and the process that takes over, see sd_notify(3)."),
    ("WATCHDOG_USEC", "How long the service manager waits for a sign of life; it gets one in half of that."),
];

const FILES: Section = (
    "FILES",
    &[
        ("/etc/aralez/main.yaml", "What the service aralez.service serves. Any other file can be given with -conf."),
        ("/etc/aralez/upstreams.yaml", "Its routes, by the key upstreams_conf: watched, a change is in force at once."),
        (
            "/etc/default/aralez",
            "Variables of aralez.service; main.yaml may use them as ${NAME}, and ARALEZ_FLAGS is added to the command line.",
        ),
        ("/etc/aralez/sidecar/ID.env", "Variables of aralez-sidecar@ID.service, the sidecar of the service instance ID; ARALEZ_FLAGS too."),
    ],
);

/// The page of a verb, or without one that of the program, as man(7) source.
///
/// # Errors
/// [`Exit`] if there is no such verb.
pub(super) fn page(mut program: Command, verb: Option<&str>) -> Result<String, Exit> {
    program.build();
    let command = match verb {
        None => &program,
        Some(verb) => program.find_subcommand(verb).ok_or_else(|| Exit::wrong(format_args!("there is no command {verb:?} to explain")))?,
    };
    // Writing to memory does not fail, but clap_mangen cannot promise that.
    let mut text = Vec::new();
    render(&program, command, verb.is_none(), &mut text).map_err(Exit::wrong)?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

fn render(program: &Command, command: &Command, whole: bool, text: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone()).source(super::version()).manual("Aralez");
    man.render_title(text)?;
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    man.render_options_section(text)?;
    let mut rest = Roff::default();
    if whole {
        man.render_subcommands_section(text)?;
        rest.control("SH", ["NOTES"]);
        rest.text([roman(program.get_after_help().map(ToString::to_string).unwrap_or_default())]);
        list(&mut rest, SIGNALS.0, SIGNALS.1);
        list(&mut rest, EXIT_STATUS.0, EXIT_STATUS.1);
        let variables = variables(program);
        let variables: Vec<_> = variables.iter().map(|(name, meaning)| (name.as_str(), meaning.as_str())).collect();
        list(&mut rest, "ENVIRONMENT", &variables);
        list(&mut rest, FILES.0, FILES.1);
    } else {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([bold("aralez"), roman("(1): signals, exit status, environment, files")]);
    }
    rest.to_writer(text)
}

fn list(page: &mut Roff, heading: &str, items: &[(&str, &str)]) {
    page.control("SH", [heading]);
    for (word, meaning) in items {
        page.control("TP", []);
        page.text([bold(*word)]);
        page.text([roman(*meaning)]);
    }
}

/// All variables by name. Those that stand for a flag are the ones that its help names as `[env: NAME]`.
fn variables(program: &Command) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = VARIABLES.iter().map(|&(name, meaning)| (name.to_owned(), meaning.to_owned())).collect();
    for arg in program.get_subcommands().flat_map(Command::get_arguments) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let name = help.split_once("[env: ").and_then(|(_, rest)| rest.split_once(']'));
        if let (Some((name, _)), Some(flag)) = (name, arg.get_long()) {
            all.entry(name.to_owned()).or_insert_with(|| format!("Stands for -{flag}; the flag wins."));
        }
    }
    all
}
