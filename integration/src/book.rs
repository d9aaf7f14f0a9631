//! The book as its tests see it: sections with fenced blocks, and terminals in which their commands run as they stand.
//!
//! A block says what it is. `sh` holds commands, one a line; `console` commands after `$ `, each with its output, in which `…` stands for anything, and for
//! any lines if it is a line of its own; `yaml` a file, by its first line's name (`# main.yaml`) if it has one.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::eventually;

/// How long a command may take until it says what it shall: programs that serve may still be starting, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fenced block of a page.
#[derive(Clone, Debug)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// The heading above it.
    pub section: String,
    /// What stands behind the fence.
    pub language: String,
    /// What it holds.
    pub text: String,
}

/// The blocks of a page, and its text without them.
///
/// # Errors
/// When a fence is not closed.
pub fn blocks(page: &str) -> Result<(Vec<Block>, String)> {
    let (mut blocks, mut prose, mut section) = (Vec::new(), String::new(), "");
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, Some(language)) => {
                open = Some(Block { line: number + 1, section: section.to_owned(), language: language.to_owned(), text: String::new() });
            }
            (None, None) => {
                if let Some(heading) = line.strip_prefix('#') {
                    section = heading.trim_start_matches('#').trim();
                }
                prose.extend([line, "\n"]);
            }
        }
    }
    ensure!(open.is_none(), "a fence is not closed");
    Ok((blocks, prose))
}

/// A command of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is typed, without a comment at its end.
    pub line: String,
    /// What comes then, if the page says it.
    pub output: Option<String>,
}

impl Block {
    /// The commands of a `sh` or `console` block. A line that ends in a backslash goes on in the next.
    pub fn steps(&self) -> Vec<Step> {
        let text = self.text.replace("\\\n", " ");
        let bare = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
        if self.language != "console" {
            return text.lines().filter(|line| !line.is_empty()).map(|line| Step { line: bare(line), output: None }).collect();
        }
        let mut steps = Vec::<Step>::new();
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { line: bare(command), output: None });
            } else if let Some(step) = steps.last_mut() {
                step.output.get_or_insert_default().extend([line, "\n"]);
            }
        }
        steps
    }

    /// The name that a `yaml` block gives its file.
    fn file(&self) -> Option<&str> {
        let name = self.text.lines().next()?.strip_prefix("# ")?.split([',', ' ']).next()?;
        (self.language == "yaml" && name.ends_with(".yaml")).then_some(name)
    }
}

/// The blocks of a section of a page, which is given from the repository's root.
fn section(page: &str, section: &str) -> Result<Vec<Block>> {
    let text = fs::read_to_string(repository()?.join(page)).with_context(|| format!("read {page}"))?;
    let blocks: Vec<Block> = blocks(&text)?.0.into_iter().filter(|block| block.section == section).collect();
    ensure!(!blocks.is_empty(), "{page} has no section {section:?} with a block");
    Ok(blocks)
}

/// The commands of some blocks.
fn all_steps(blocks: &[Block]) -> Vec<Step> {
    blocks.iter().filter(|block| matches!(block.language.as_str(), "sh" | "console")).flat_map(Block::steps).collect()
}

/// The commands of a section, for a test that runs them in a place of its own.
///
/// # Errors
/// When there is no such section.
pub fn steps(page: &str, heading: &str) -> Result<Vec<Step>> {
    Ok(all_steps(&section(page, heading)?))
}

/// Whether a program said what a page says that it does.
pub fn fits(page: &str, said: &str) -> bool {
    lines_fit(&page.lines().collect::<Vec<_>>(), &said.lines().collect::<Vec<_>>())
}

fn lines_fit(page: &[&str], said: &[&str]) -> bool {
    match (page, said) {
        ([], said) => said.is_empty(),
        (["…", rest @ ..], said) => (0..=said.len()).any(|skipped| said.get(skipped..).is_some_and(|said| lines_fit(rest, said))),
        ([line, rest @ ..], [first, said @ ..]) => line_fits(line, first) && lines_fit(rest, said),
        (_, []) => false,
    }
}

fn line_fits(page: &str, said: &str) -> bool {
    let Some((begin, page)) = page.split_once('…') else { return page == said };
    let Some(said) = said.strip_prefix(begin) else { return false };
    (0..=said.len()).filter_map(|skipped| said.get(skipped..)).any(|said| line_fits(page, said))
}

/// Terminals of one user at a machine of their own: the network is a loopback device where every port is free, so that commands run as they stand. Needs
/// `unshare`, `nsenter` and `ip`. What runs in them is ended with the handles.
#[derive(Debug)]
pub struct Terminals {
    network: Process,
    folder: TempDir,
    path: OsString,
}

impl Terminals {
    /// Opens them in a new folder that looks like that of the sources; `programs` are found first.
    ///
    /// # Errors
    /// When the system gives no namespaces, or a program is missing.
    pub async fn open(programs: &[(&str, &Path)]) -> Result<Self> {
        const NEEDS: &str = "`unshare` and `ip` (`apt-get install util-linux iproute2`)";
        let folder = tempfile::tempdir()?;
        let bin = folder.path().join("bin");
        fs::create_dir(&bin)?;
        for (name, program) in programs {
            symlink(program, bin.join(name))?;
        }
        for shipped in ["consul", "examples", "nomad"] {
            symlink(repository()?.join(shipped), folder.path().join(shipped))?;
        }
        // Else curl shows its progress, since it does not write to a terminal.
        fs::write(folder.path().join(".curlrc"), "silent\nshow-error\n")?;
        let mut path = bin.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]);
        let mut network = Process::start("the network", unshare, Duration::ZERO).context(NEEDS)?;
        let up = eventually("a network", PATIENCE, async || {
            let ended = network.exited()?.is_some();
            ensure!(ended || network.log().starts_with("up"), "not up");
            Ok(!ended)
        });
        let up = up.await?;
        ensure!(up, "no network of its own (this needs {NEEDS}): {}", network.log());
        Ok(Self { network, folder, path })
    }

    /// The folder in which all commands run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Begins to follow a section of a page, given from the repository's root: writes the files that it names.
    ///
    /// # Errors
    /// When there is no such section, or a file cannot be written.
    pub fn follow(&self, page: &str, heading: &str) -> Result<Follow<'_>> {
        let blocks = section(page, heading)?;
        for block in &blocks {
            if let Some(name) = block.file() {
                fs::write(self.folder().join(name), &block.text)?;
            }
        }
        Ok(Follow { terminals: self, place: format!("{page}, {heading}"), steps: all_steps(&blocks).into_iter(), blocks })
    }

    /// A line of the shell, to be run in a terminal.
    pub fn command(&self, line: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--preserve-credentials", "--user", "--net", "--target"]).arg(self.network.id().to_string());
        nsenter.args(["sh", "-c", line]).current_dir(self.folder()).env("PATH", &self.path).env("CURL_HOME", self.folder());
        let others = |name: &str| {
            let ours = ["CONSUL_", "CONNECT_", "ARALEZ_", "NOMAD_", "KUBE"].iter().any(|prefix| name.starts_with(prefix));
            ours || name.to_lowercase().ends_with("_proxy")
        };
        for (name, _) in std::env::vars().filter(|(name, _)| others(name)) {
            nsenter.env_remove(name);
        }
        nsenter
    }

    /// Starts a program that serves until the handle is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn serve(&self, line: &str) -> Result<Process> {
        Process::start(line, self.command(&format!("exec {line}")), Duration::ZERO)
    }

    /// Runs a line again and again until it ends with this code; gives what it said to standard output and standard error, in order.
    ///
    /// # Errors
    /// When it does not within a minute: what it said instead.
    pub async fn run(&self, line: &str, code: i32) -> Result<String> {
        self.until(line, code, |_| true).await
    }

    async fn until(&self, line: &str, code: i32, said: impl Fn(&str) -> bool) -> Result<String> {
        eventually(line, PATIENCE, async || {
            let ended = self.command(&format!("exec 2>&1\n{line}")).output().context("start nsenter (`apt-get install util-linux`)")?;
            let output = String::from_utf8_lossy(&ended.stdout).into_owned();
            ensure!(ended.status.code() == Some(code) && said(&output), "{}: {output}", ended.status);
            Ok(output)
        })
        .await
    }
}

/// The folder of the sources.
///
/// # Errors
/// When there is none above this package.
pub fn repository() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("no repository")
}

/// A section whose commands are run one after the other. Dropping it before the last one fails the test.
#[derive(Debug)]
pub struct Follow<'a> {
    terminals: &'a Terminals,
    place: String,
    blocks: Vec<Block>,
    steps: std::vec::IntoIter<Step>,
}

impl Follow<'_> {
    /// The first block of a language.
    ///
    /// # Errors
    /// When there is none.
    pub fn block(&self, language: &str) -> Result<&str> {
        let block = self.blocks.iter().find(|block| block.language == language);
        block.map(|block| block.text.as_str()).with_context(|| format!("{}: no {language}", self.place))
    }

    /// All blocks of a language, in order.
    pub fn all(&self, language: &str) -> Vec<&str> {
        self.blocks.iter().filter(|block| block.language == language).map(|block| block.text.as_str()).collect()
    }

    fn next(&mut self) -> Result<Step> {
        self.steps.next().with_context(|| format!("{}: no further command", self.place))
    }

    /// Starts the next command, which serves until the handle is dropped, and waits for what the page says that it prints.
    ///
    /// # Errors
    /// When it cannot be started, or prints something else within a minute.
    pub async fn serve(&mut self) -> Result<Process> {
        let step = self.next()?;
        let process = self.terminals.serve(&step.line)?;
        if let Some(output) = &step.output {
            // What it logs comes before and after.
            let page = format!("…\n{output}…\n");
            let printed = eventually(&step.line, PATIENCE, async || {
                let log = process.log();
                ensure!(fits(&page, &log), "{}: it printed\n{log}", self.place);
                Ok(())
            });
            printed.await?;
        }
        Ok(process)
    }

    /// Runs the next command until it ends with this code, says what the page says, and these words; gives all that it said.
    ///
    /// # Errors
    /// When it does not within a minute: what it said instead.
    pub async fn run(&mut self, code: i32, words: &[&str]) -> Result<String> {
        let step = self.next()?;
        let said = |said: &str| step.output.as_ref().is_none_or(|page| fits(page, said)) && words.iter().all(|word| said.contains(word));
        self.terminals.until(&step.line, code, said).await.with_context(|| format!("{}, with {words:?}", self.place))
    }

    /// Says that all commands were run.
    ///
    /// # Errors
    /// The first one that was not.
    fn finished(&self) -> Result<()> {
        match self.steps.as_slice() {
            [] => Ok(()),
            [step, ..] => bail!("{}: nobody ran {:?}", self.place, step.line),
        }
    }
}

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        let finished = self.finished();
        assert!(thread::panicking() || finished.is_ok(), "{finished:?}");
    }
}
