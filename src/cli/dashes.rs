//! Go-style flags: `-sidecar-for web` becomes `--sidecar-for=web` before clap sees it.

use std::{collections::HashMap, ffi::OsString};

use clap::Command;

/// Rewrites arguments so that one dash is as good as two. A flag that takes a value is joined with it, so that the value
/// may begin with a dash; what follows `--` stays as it is. Short flags (`-h`, `-V`) stay what they are.
pub(super) fn double(command: &Command, args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut flags = HashMap::new();
    collect(command, &mut flags);
    let (mut out, mut args) = (Vec::new(), args.fuse());
    out.extend(args.next());
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args.by_ref());
            break;
        }
        let Some(name) = arg.to_str().and_then(long_name) else {
            out.push(arg);
            continue;
        };
        let known = flags.get(name.split('=').next().unwrap_or(name));
        let mut rewritten = OsString::from(format!("--{name}"));
        if known == Some(&Value::Separate) && !name.contains('=') {
            // Without a next argument clap says what is missing.
            if let Some(value) = args.next() {
                rewritten.push("=");
                rewritten.push(value);
            }
        }
        out.push(rewritten);
    }
    out
}

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// In the same argument after `=`, or as the next argument.
    Separate,
    /// None, or only after `=`.
    Joined,
}

fn collect(command: &Command, flags: &mut HashMap<String, Value>) {
    for arg in command.get_arguments() {
        let separate = arg.get_action().takes_values() && !arg.is_require_equals_set();
        let value = if separate { Value::Separate } else { Value::Joined };
        flags.extend(arg.get_long().map(|long| (long.to_owned(), value)));
    }
    command.get_subcommands().for_each(|sub| collect(sub, flags));
}

/// The name (and `=value`) of a long flag, without its dashes: two letters at least, else it is a short one.
fn long_name(arg: &str) -> Option<&str> {
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-').filter(|name| name.len() > 1))?;
    name.starts_with(|first: char| first.is_ascii_alphabetic()).then_some(name)
}
