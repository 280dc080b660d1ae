//! The large policies whose apply is timed and whose memory is counted.

use std::path::PathBuf;

use anyhow::Result;

use super::{Bench, groups};
use crate::{
    cidr::{Family, Mix},
    random::Random,
    report::shown,
    rule_list,
};

const RULES: usize = 10_000;
const CIDRS: usize = 1_000_000;
const CIDRS_QUICK: usize = 100_000;

/// A large policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Large {
    /// Many rules.
    Rules,
    /// A group of many CIDRs to refuse.
    Group(Mix),
}

impl Large {
    const ALL: [Self; 3] = [
        Self::Rules,
        Self::Group(Mix::Threats),
        Self::Group(Mix::Clustered),
    ];

    /// Those that are wanted.
    pub(super) fn wanted(bench: &Bench) -> &'static [Self] {
        if bench.quick {
            &Self::ALL[..2]
        } else {
            &Self::ALL
        }
    }

    /// As a person calls it.
    pub(super) fn name(self, bench: &Bench) -> String {
        match self {
            Self::Rules => format!("{} rules", shown(RULES as f64)),
            Self::Group(mix) => {
                let family = match mix.family() {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                };
                format!("{} {family} CIDRs", shown(cidrs(bench) as f64))
            }
        }
    }

    /// Writes its rule file, in place of the one before.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn write(self, bench: &Bench) -> Result<PathBuf> {
        match self {
            Self::Rules => {
                let rules = rule_list::take(RULES, &mut Random::new(RULES as u64));
                bench.file("rules.toml", &rule_list::file(&rules))
            }
            Self::Group(mix) => groups::write(bench, &mix.take(cidrs(bench), &mut Random::new(1))),
        }
    }
}

const fn cidrs(bench: &Bench) -> usize {
    if bench.quick { CIDRS_QUICK } else { CIDRS }
}
