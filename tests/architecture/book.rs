//! The book: every page is in the summary, every link leads somewhere, and every snippet means something.
//!
//! A fenced block says what it is: `yaml` is a whole file and is checked as one (`main.yaml`, `upstreams.yaml` or a mesh file, by its keys), `json` is JSON,
//! `console` and `sh` are commands, of which those of `aralez` must be understood. `text`, `hcl` and `yaml,fragment` are for the reader.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use aralez::{
    cli,
    config::{main_file::MainFile, mesh_file::MeshFile, upstreams},
};

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

/// A fenced block: the line that it begins on, its language with what follows, and its text.
type Block = (usize, String, String);

/// The fenced blocks of a page, and its text without them.
fn split(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose, mut open) = (Vec::<Block>::new(), String::new(), false);
    for (number, line) in page.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                blocks.push((number + 1, language.to_owned(), String::new()));
            }
            None if open => {
                let (.., text) = blocks.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            None => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(!open, "a fence is not closed");
    (blocks, prose)
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
        let (_, prose) = split(&text(&page));
        for link in links(&prose).filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let there = root().join(&target).exists();
            let known = || anchor.is_empty() || anchors(&split(&text(&target)).1).contains(anchor);
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

/// The commands of a block: lines after `$ ` if there are any, else all; those that end in a backslash go on in the next.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let prompted: Vec<&str> = joined.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let lines = if prompted.is_empty() { joined.lines().collect() } else { prompted };
    lines.into_iter().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
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

#[test]
fn every_snippet_means_something() {
    let mut wrong = Vec::new();
    for page in pages() {
        for (line, language, block) in split(&text(&page)).0 {
            let told: Vec<String> = match language.as_str() {
                "yaml" => no_file(&block).into_iter().collect(),
                "json" => serde_json::from_str::<serde_json::Value>(&block).err().map(|why| why.to_string()).into_iter().collect(),
                "console" | "sh" => commands(&block).iter().filter_map(|command| not_understood(command)).collect(),
                "text" | "hcl" | "yaml,fragment" => Vec::new(),
                other => vec![format!("{other:?} is no language of this book")],
            };
            wrong.extend(told.into_iter().map(|why| format!("{}:{line}: {why}", page.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_checks_of_snippets_find_what_is_wrong() {
    assert!(not_understood("aralez connect -sidecarfor web").is_some_and(|why| why.contains("sidecarfor")));
    assert!(not_understood("CONSUL_HTTP_TOKEN=x aralez explain -from web -to api GET '/a b' | head").is_none());
    assert!(not_understood("curl -x aralez").is_none());
    assert!(no_file("upstreams: {a.test: {paths: {/: {serverz: []}}}}").is_some_and(|why| why.contains("serverz")));
    assert!(no_file("proxy_address_http: nowhere\n").is_some());
    assert_eq!(commands("$ a \\\n  b # why\nsaid\n$ c"), ["a    b", "c"]);
}
