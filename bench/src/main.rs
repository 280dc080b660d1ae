//! Measures the firewall: nanoseconds a packet, memory, and how long an apply takes. `cargo xtask bench` runs it.

mod cidr;
mod frame;
mod harness;
mod lpm;
mod namespace;
mod nftables;
mod policy;
mod random;
mod report;
mod rule_list;
mod section;
mod statistics;
mod xdp_filter;

#[path = "../ebpf/src/abi.rs"]
mod abi;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use harness::{Effort, Harness};
use section::{Bench, apply, groups, memory, rules, served, traffic};

/// Measure the firewall, beside others
#[derive(Debug, Parser)]
struct Cli {
    /// A first look: fewer rounds, no groups of a million CIDRs
    #[arg(long)]
    quick: bool,

    /// Where to write the results as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,

    /// Only these sections
    #[arg(long, value_name = "SECTION", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 10 to 10,000 rules
    Rules,
    /// Groups of CIDRs
    Groups,
    /// Ordinary servers
    Served,
    /// Time of an apply
    Apply,
    /// Memory by map, and the verifier's count
    Memory,
    /// Live frames through a veth pair, beside nftables and xdp-filter
    Traffic,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    namespace::clean_up_when_interrupted()?;
    let effort = if cli.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let mut bench = Bench::new(Harness::load(effort)?, cli.quick)?;
    let parts: &[Part] = if cli.only.is_empty() {
        Part::value_variants()
    } else {
        &cli.only
    };
    println!("{}", bench.report.machine());
    for part in parts {
        let sections: &[&report::Section] = match part {
            Part::Rules => {
                rules::run(&mut bench)?;
                &[&rules::SECTION]
            }
            Part::Groups => {
                groups::run(&mut bench)?;
                &[&groups::SECTION, &groups::SIZE, &groups::LOAD]
            }
            Part::Served => {
                served::run(&mut bench)?;
                &[&served::SECTION]
            }
            Part::Apply => {
                apply::run(&mut bench)?;
                &[&apply::SECTION]
            }
            Part::Memory => {
                memory::run(&mut bench)?;
                &[&memory::SECTION, &memory::VERIFIER]
            }
            Part::Traffic => {
                traffic::run(&mut bench)?;
                &[&traffic::SECTION, &traffic::RATIO]
            }
        };
        for section in sections {
            println!("{}", bench.report.table(section));
        }
    }
    bench.report.write(&cli.json)?;
    println!("\nAll of it is in {}.", cli.json.display());
    Ok(())
}
