//! The program: parse, run.

use std::process::ExitCode;

use aralez::{
    app::{self, Failure},
    cli,
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
    match app::run(command) {
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
