//! The book: every page is in the summary, every link leads somewhere, and every snippet means something.
//!
//! A fenced block says what it is: `yaml` is a whole file and is checked as one (`main.yaml`, `upstreams.yaml` or a mesh file, by its keys), in `yaml,each` every
//! line is one, `json` is JSON. `console` and `sh` are commands: those of `aralez` must be understood, files that they name be there, and each section that has
//! some, or `hcl`, must say in [`PROVED`] who runs them. `text` is for the reader.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use aralez::{
    cli,
    config::{main_file::MainFile, mesh_file::MeshFile, upstreams},
};
use aralez_integration::book::{Block, blocks, fits};

/// Who runs the commands of a section, or its HCL.
enum Proof {
    /// This test runs the section command by command, as it stands.
    Followed(&'static str),
    /// This test does the same: with a stand-in for the component, or with the real one, as root.
    Done(&'static str),
    /// No test, since it is what runs tests, or what only a whole machine can do.
    Outside(&'static str),
}
use Proof::{Done, Followed, Outside};

const PROVED: &[(&str, &str, Proof)] = &[
    ("README.md", "See it work", Outside("benches/stopwatch builds it and asks it")),
    ("README.md", "Test it", Outside(".ci/run runs it")),
    ("docs/authentication.md", "jwt", Followed("a_token_is_issued_as_the_page_says")),
    ("docs/balancing.md", "Sticky sessions", Followed("a_sticky_cookie_is_set_as_the_page_says")),
    ("docs/check.md", "What a reload would change: `-diff`", Followed("changes_are_told_before_they_are_made")),
    ("docs/check.md", "A sidecar: `-sidecar-for`, `-proxy-id`", Followed("a_right_that_is_missing_is_told_as_the_page_says")),
    ("docs/check.md", "A cluster: `-cluster`", Done("what_cannot_be_used_is_told_by_status_and_by_check")),
    ("docs/explain.md", "Where a call goes: `-sidecar-for`", Followed("calls_are_explained_as_the_page_says")),
    ("docs/explain.md", "Who may call: `-from`, `-to`", Followed("calls_are_explained_as_the_page_says")),
    ("docs/how-to.md", "Deny a call, and see why it is denied", Followed("the_quick_start_and_what_it_leads_to")),
    ("docs/how-to.md", "Find what is missing before it is missed", Followed("the_quick_start_and_what_it_leads_to")),
    ("docs/how-to.md", "Drain", Followed("the_quick_start_and_what_it_leads_to")),
    (
        "docs/how-to.md",
        "Replace the running binary without losing a request",
        Followed("the_running_binary_is_replaced_as_the_how_to_says"),
    ),
    ("docs/how-to.md", "Send one call in ten to a new version", Followed("the_quick_start_and_what_it_leads_to")),
    ("docs/how-to.md", "Change routes with care", Followed("changes_are_told_before_they_are_made")),
    ("docs/install.md", "Image", Done("the_image_serves_read_only_without_any_right_and_drains")),
    ("docs/install.md", "Debian package", Outside("needs a machine that systemd runs; the package and its units have tests of their own")),
    ("docs/install.md", "Completions and manual", Outside("this very test")),
    ("docs/kubernetes.md", "What is wrong with it", Done("what_cannot_be_used_is_told_by_status_and_by_check")),
    (
        "docs/migration.md",
        "From Envoy sidecars (`consul connect envoy`)",
        Followed("aralez_takes_the_place_of_envoy_and_of_the_built_in_proxy"),
    ),
    (
        "docs/migration.md",
        "From Consul's built-in proxy (`consul connect proxy`)",
        Followed("aralez_takes_the_place_of_envoy_and_of_the_built_in_proxy"),
    ),
    ("docs/migration.md", "From nginx", Followed("what_nginx_did_is_checked")),
    ("docs/nomad.md", "A sidecar", Done("the_shipped_job_lives_changes_and_stops_in_order")),
    ("docs/quick-start.md", "Build", Outside("benches/stopwatch builds it")),
    ("docs/quick-start.md", "A mesh in one process", Followed("the_meshes_of_the_quick_start_run")),
    ("docs/quick-start.md", "With Consul", Followed("the_quick_start_and_what_it_leads_to")),
    ("docs/quick-start.md", "With Nomad", Followed("the_shipped_job_lives_changes_and_stops_in_order")),
    ("docs/quick-start.md", "With Kubernetes", Followed("an_ingress_reaches_traffic_with_the_rights_of_the_shipped_role")),
    ("docs/quick-start.md", "At the edge", Followed("the_edge_of_the_quick_start_runs")),
    ("docs/tracing.md", "Tracing", Done("a_call_through_two_sidecars_is_one_trace")),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages, relative to the repository.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("README.md")];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text(page: &Path) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// What `](…)` leads to.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    prose.match_indices("](").filter_map(|(at, begin)| prose[at + begin.len()..].split(')').next())
}

/// The anchors of a page's headings, as mdBook and GitHub make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: char| (c.is_alphanumeric() || matches!(c, '-' | '_' | ' ')).then(|| if c == ' ' { '-' } else { c.to_ascii_lowercase() });
    headings.map(|heading| heading.chars().filter_map(kept).collect()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let (_, prose) = blocks(&text(&page)).unwrap();
        for link in links(&prose).filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            // The book has nothing but its own folder.
            let reach = if page.starts_with("docs") { root().join("docs") } else { root().to_owned() };
            let there = root().join(&target).canonicalize().is_ok_and(|target| target.starts_with(reach.canonicalize().unwrap()));
            let known = || anchor.is_empty() || anchors(&blocks(&text(&target)).unwrap().1).contains(anchor);
            if !there || !known() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = text(Path::new("docs/SUMMARY.md"));
    let mut listed: Vec<PathBuf> = links(&summary).map(|link| Path::new("docs").join(link)).collect();
    listed.sort();
    let written: Vec<PathBuf> = pages().into_iter().filter(|page| page.starts_with("docs") && !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(listed, written);
}

/// The words of a command as a shell reads them: quotes, and nothing else.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Why the command line is not understood, if it is one of ours.
fn not_understood(line: &str) -> Option<String> {
    let words = words(line);
    // Variables that are set for one command come before it.
    let ours = words
        .iter()
        .skip_while(|word| word.split_once('=').is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')));
    let ours: Vec<&String> = ours.take_while(|word| !matches!(word.as_str(), "|" | "&" | "&&" | ">")).collect();
    if ours.first().is_none_or(|program| *program != "aralez") {
        return None;
    }
    let exit = cli::parse(ours.into_iter().cloned(), |_| None).err()?;
    (exit.code != 0).then(|| format!("{line}: {}", exit.text))
}

/// Why a YAML block is none of our files.
fn no_file(yaml: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("main.yaml");
    let is_main = ["proxy_address_http", "proxy_address_tls"].iter().any(|key| yaml.contains(&format!("{key}:")));
    if yaml.lines().any(|line| line == "services:") {
        let path = folder.path().join("mesh.yaml");
        fs::write(&path, yaml).unwrap();
        return MeshFile::load(Some(&path)).err().map(|why| format!("{why:#}"));
    }
    fs::write(folder.path().join("consul.token"), "a-token").unwrap();
    // Of somebody whom no page knows.
    let users = text(Path::new("examples/auth/users.htpasswd")).replace("anna:", "berta:");
    fs::write(folder.path().join("users"), users).unwrap();
    let of_main = if is_main { yaml } else { "proxy_address_http: 127.0.0.1:0\nupstreams_conf: upstreams.yaml\nmaster_key: k\n" };
    let read = MainFile::parse(of_main, &main);
    let main = match read {
        Ok(main) => main,
        Err(faults) => return Some(faults.to_string()),
    };
    if is_main {
        return None;
    }
    upstreams::parse(&[(folder.path().join("upstreams.yaml"), yaml.to_owned())], &main).err().map(|faults| faults.to_string())
}

/// What is wrong with a block.
fn faults(Block { language, text, .. }: &Block, steps: &[String]) -> Vec<String> {
    match language.as_str() {
        "yaml" => no_file(text).into_iter().collect(),
        "yaml,each" => text.lines().filter_map(no_file).collect(),
        "json" => serde_json::from_str::<serde_json::Value>(text).err().map(|why| why.to_string()).into_iter().collect(),
        "console" | "sh" => steps.iter().flat_map(|step| [not_understood(step), not_shipped(step)]).flatten().collect(),
        "text" | "hcl" => Vec::new(),
        other => vec![format!("{other:?} is no language of this book")],
    }
}

/// Which file of ours that a command names is not in the repository.
fn not_shipped(line: &str) -> Option<String> {
    let ours = |word: &String| ["consul/", "examples/", "nomad/"].iter().any(|folder| word.starts_with(folder));
    words(line).into_iter().find(|word| ours(word) && !root().join(word).exists()).map(|word| format!("{line}: no {word}"))
}

#[test]
fn every_snippet_means_something() {
    let mut wrong = Vec::new();
    for page in pages() {
        let (found, prose) = blocks(&text(&page)).unwrap();
        for block in found {
            let steps: Vec<String> = block.steps().into_iter().map(|step| step.line).collect();
            wrong.extend(faults(&block, &steps).into_iter().map(|why| format!("{}:{}: {why}", page.display(), block.line)));
        }
        let unfenced = prose.lines().filter(|line| line.starts_with("    "));
        wrong.extend(unfenced.map(|line| format!("{}: a block without a fence says nothing of what it is: {line}", page.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The file of a test.
fn file_of<'a>(sources: &'a [String], test: &str) -> &'a str {
    sources.iter().find(|text| text.contains(&format!("fn {test}("))).unwrap_or_else(|| panic!("no test {test}"))
}

#[test]
fn somebody_runs_every_command() {
    let mut files = Vec::new();
    ["tests", "integration/tests"].iter().for_each(|folder| super::sources(&root().join(folder), &mut files));
    let sources: Vec<String> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let to_prove: BTreeSet<(String, String)> = pages()
        .iter()
        .flat_map(|page| {
            let commands =
                blocks(&text(page)).unwrap().0.into_iter().filter(|block| ["sh", "console", "hcl"].contains(&block.language.as_str()));
            commands.map(|block| (page.display().to_string(), block.section)).collect::<Vec<_>>()
        })
        .collect();
    let proved: BTreeSet<(String, String)> = PROVED.iter().map(|(page, section, _)| (page.to_string(), section.to_string())).collect();
    let differ: Vec<_> = to_prove.symmetric_difference(&proved).collect();
    assert!(differ.is_empty(), "sections with commands that PROVED does not list, or listed ones without any: {differ:?}");
    for (page, section, proof) in PROVED {
        match proof {
            Followed(test) => {
                let follows = format!("({page:?}, {section:?})");
                assert!(file_of(&sources, test).contains(&follows), "{test} does not follow {section:?} of {page}");
            }
            Done(test) => drop(file_of(&sources, test)),
            Outside(why) => assert!(!why.is_empty()),
        }
    }
}

#[test]
fn the_checks_of_snippets_find_what_is_wrong() {
    assert!(not_understood("aralez connect -sidecarfor web").is_some_and(|why| why.contains("sidecarfor")));
    assert!(not_understood("CONSUL_HTTP_TOKEN=x aralez explain -from web -to api GET '/a b' | head").is_none());
    assert!(not_understood("curl -x aralez").is_none());
    assert!(
        not_shipped("nomad job run nomad/absent.hcl").is_some() && not_shipped("kubectl apply -f examples/kubernetes/rbac.yaml").is_none()
    );
    assert!(no_file("upstreams: {a.test: {paths: {/: {serverz: []}}}}").is_some_and(|why| why.contains("serverz")));
    assert!(no_file("proxy_address_http: nowhere\n").is_some());
    let (found, _) = blocks("# A\n```console\n$ a \\\n  b # why\nsaid\n$ c\n```\n").unwrap();
    let steps: Vec<_> = found[0].steps().into_iter().map(|step| (step.line, step.output)).collect();
    assert_eq!(steps, [("a    b".into(), Some("said\n".into())), ("c".to_owned(), None)]);
    assert!(fits("a … c…\n…\nd\n", "a b, b c\nx\ny\nd\n") && fits("a\n…\n", "a\n"));
    assert!(!fits("a … c\n", "a b\n") && !fits("a\n", "a\nb\n") && !fits("a\nb\n", "a\n"));
}
