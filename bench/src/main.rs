//! Measures the firewall: nanoseconds a packet, memory, and how long an apply takes. `cargo xtask bench` runs it.

mod cidr;
mod conversation;
mod effort;
mod frame;
mod harness;
mod hook;
mod lpm;
mod lru;
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

use effort::Effort;
use harness::Harness;
use section::{
    Bench, apply, control, cookies, events, flows, groups, limits, memory, plan, rules, served,
    traffic,
};

/// Measure the firewall, beside others
#[derive(Debug, Parser)]
struct Cli {
    /// A first look: fewer rounds and sizes, and no live traffic or cookies unless asked for
    #[arg(long)]
    quick: bool,

    /// Where to write the results as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,

    /// Only these sections
    #[arg(long, value_name = "SECTION", value_enum, value_delimiter = ',')]
    only: Vec<Part>,

    /// Of rules and flows, only the cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 10 to 10,000 rules
    Rules,
    /// Groups of CIDRs
    Groups,
    /// Ordinary servers
    Served,
    /// What this host opens, and what answers it
    Flows,
    /// Limits and bans
    Limits,
    /// SYNs answered with cookies, beside nftables' synproxy
    Cookies,
    /// Time of an apply
    Apply,
    /// Time to tell what a new rule file changes
    Plan,
    /// What it costs to change the rules of a running server
    Control,
    /// What it costs to be told of what is dropped
    Events,
    /// Memory by map, and the verifier's count
    Memory,
    /// Live frames through a veth pair, beside nftables and xdp-filter
    Traffic,
}

impl Part {
    /// Whether a first look has it.
    fn is_quick(self) -> bool {
        !matches!(self, Self::Traffic | Self::Cookies)
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    namespace::clean_up_when_interrupted()?;
    let effort = if cli.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let mut bench = Bench::new(Harness::load(effort)?, cli.quick, cli.case)?;
    let parts: Vec<Part> = if cli.only.is_empty() {
        let all = Part::value_variants().iter().copied();
        all.filter(|&part| !cli.quick || part.is_quick()).collect()
    } else {
        cli.only
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
            Part::Flows => {
                flows::run(&mut bench)?;
                &[&flows::SECTION, &flows::RATIO]
            }
            Part::Limits => {
                limits::run(&mut bench)?;
                &[&limits::SECTION, &limits::RATIO]
            }
            Part::Cookies => {
                cookies::run(&mut bench)?;
                &[
                    &cookies::SECTION,
                    &cookies::RATIO,
                    &cookies::RATE,
                    &cookies::RATE_RATIO,
                ]
            }
            Part::Apply => {
                apply::run(&mut bench)?;
                &[&apply::SECTION]
            }
            Part::Plan => {
                plan::run(&mut bench)?;
                &[&plan::SECTION]
            }
            Part::Control => {
                control::run(&mut bench)?;
                &[&control::PACKETS, &control::EDITS]
            }
            Part::Events => {
                events::run(&mut bench)?;
                &[&events::SECTION]
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
