//! Everything a person or CI runs: `cargo xtask VERB`.

mod build;
mod command;
mod demo;
mod interrupt;
mod paths;
mod setup;
mod shell;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let command = command::Cli::parse();
    interrupt::install();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::error(&error);
            ExitCode::FAILURE
        }
    }
}
