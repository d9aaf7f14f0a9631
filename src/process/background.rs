//! Going to the background: the command starts itself once more, in a session of its own, and ends when that one serves or has failed.
//!
//! No fork: threads and locks do not survive one, and the shell learns here whether the start worked, as `Type=forking` of systemd wants it.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context as _;

/// Set for the process in the background.
const MARK: &str = "ARALEZ_IN_BACKGROUND";
/// What it writes to standard output last.
const SERVES: &[u8] = b"\0serves\n";

/// The process in the background, until it has told the shell that it serves.
#[derive(Debug)]
pub struct Background(());

/// What [`enter`] has made of this process.
#[derive(Debug)]
pub enum Entered {
    /// It goes on, in the background.
    Inside(Background),
    /// It has started the one in the background and is done.
    Outside(ExitCode),
}

/// Starts the process in the background, or finds that this is it. To be called before anything else is done.
///
/// # Errors
/// When it cannot be started.
pub fn enter() -> anyhow::Result<Entered> {
    if env::var_os(MARK).is_some() {
        // Fails where a service manager made a session already.
        let _ = rustix::process::setsid();
        return Ok(Entered::Inside(Background(())));
    }
    let program = env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program)
        .args(env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process in the background")?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said)?;
    }
    let serves = said.strip_suffix(SERVES);
    io::stdout().write_all(serves.unwrap_or(&said))?;
    if serves.is_some() {
        return Ok(Entered::Outside(ExitCode::SUCCESS));
    }
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(Entered::Outside(code.map_or(ExitCode::FAILURE, ExitCode::from)))
}

impl Background {
    /// Tells the shell that this process serves, and lets go of the terminal; standard error too, unless it `logs` to a file.
    ///
    /// # Errors
    /// When there is no `/dev/null`.
    pub fn serves(self, logs: bool) -> io::Result<()> {
        let nowhere = File::options().read(true).write(true).open("/dev/null")?;
        let mut stdout = io::stdout();
        // Nobody may be there to read it.
        let _told = stdout.write_all(SERVES).and_then(|()| stdout.flush());
        rustix::stdio::dup2_stdout(&nowhere)?;
        if !logs {
            rustix::stdio::dup2_stderr(&nowhere)?;
        }
        Ok(())
    }
}
