//! The program: parse, log, run.

use std::process::ExitCode;

use aralez::{
    app::{self, Failure},
    cli::{self, Command},
    telemetry::{self, log::Level},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(command) => command,
        Err(exit) => {
            if exit.code == 0 {
                println!("{}", exit.text);
            } else {
                eprintln!("{}", exit.text);
            }
            return ExitCode::from(exit.code);
        }
    };
    let (level, json) = match &command {
        Command::Connect(options) => (options.process.log_level, options.process.log_json),
        Command::Dev(options) => (options.process.log_level, options.process.log_json),
        // They tell what they found on standard output.
        Command::Explain(_) | Command::Check(_) | Command::Schema(_) => (Level::Error, false),
        Command::Serve(_) => (Level::Info, false),
    };
    let log = match telemetry::log::install(level, json) {
        Ok(log) => log,
        Err(why) => {
            eprintln!("aralez: cannot set up the log: {why:#}");
            return ExitCode::FAILURE;
        }
    };
    match app::run(command, log) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("aralez: {failure}");
            match failure {
                Failure::Configuration(_) => ExitCode::from(2),
                Failure::Running(_) => ExitCode::FAILURE,
            }
        }
    }
}
