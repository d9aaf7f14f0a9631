//! What is made of the command line and kept in `packaging/`, so that packagers need not run the program: completions and manual.

use std::{collections::BTreeMap, fs, path::Path};

fn printed(line: &[&str]) -> String {
    let line = std::iter::once("aralez").chain(line.iter().copied());
    let exit = aralez::cli::parse(line, |_| None).unwrap_err();
    assert_eq!(exit.code, 0, "{}", exit.text);
    exit.text + "\n"
}

/// The files by their paths below `packaging/`.
fn files() -> BTreeMap<String, String> {
    let main = printed(&["man"]);
    let verbs = main.lines().filter_map(|line| line.strip_prefix("aralez\\-")?.strip_suffix("(1)"));
    let mut files: BTreeMap<_, _> = verbs.map(|verb| (format!("man/aralez-{verb}.1"), printed(&["man", verb]))).collect();
    assert!(files.contains_key("man/aralez-connect.1"), "the program's page names its commands: {main}");
    files.insert("man/aralez.1".to_owned(), main);
    for (shell, name) in [("bash", "aralez.bash"), ("zsh", "_aralez"), ("fish", "aralez.fish")] {
        files.insert(format!("completions/{name}"), printed(&["completions", shell]));
    }
    files
}

#[test]
fn the_completions_and_the_manual_are_those_of_the_command_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let (mut stale, files) = (Vec::new(), files());
    for folder in ["man", "completions"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().display());
            stale.extend((!files.contains_key(&name)).then_some(name));
        }
    }
    for (name, text) in &files {
        if std::env::var_os("WRITE_PAGES").is_some() {
            fs::write(root.join(name), text).unwrap();
        }
        stale.extend((fs::read_to_string(root.join(name)).ok().as_ref() != Some(text)).then(|| name.clone()));
    }
    assert!(stale.is_empty(), "not what the command line gives: {stale:?}; write them anew with WRITE_PAGES=1, remove what is left");
}

#[test]
fn the_manual_tells_of_every_signal_exit_code_variable_and_file() {
    let main = printed(&["man"]);
    for word in ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGQUIT", "EXIT STATUS", "CONSUL_HTTP_SSL_VERIFY", "/etc/aralez/main.yaml"] {
        assert!(main.contains(word), "{word} is missing: {main}");
    }
    // Every variable that any help names.
    let pages = files().into_values().collect::<String>();
    for named in pages.split("[env: ").skip(1) {
        let name = named.split(']').next().unwrap();
        assert!(main.contains(&format!("\\fB{name}\\fR")), "{name} is missing: {main}");
    }
}
