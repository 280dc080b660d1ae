//! The verbs of `cargo xtask`, one a file.

mod bench;
mod build;
mod demo;
mod infra;
mod package;
mod setup;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Everything a person or CI runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Build(build::Build),
    Test(test::Test),
    Demo(demo::Demo),
    Infra(infra::Infra),
    Bench(bench::Bench),
    Package(package::Package),
}

impl Cli {
    /// Does what the command line asks for.
    pub(crate) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Setup(setup) => setup.run(),
            Verb::Build(build) => build.run(),
            Verb::Test(test) => test.run(),
            Verb::Demo(demo) => demo.run(),
            Verb::Infra(infra) => infra.run(),
            Verb::Bench(bench) => bench.run(),
            Verb::Package(package) => package.run(),
        }
    }
}
