//! Bans in a file, so that they outlive the machine's going down: `firewall serve` saves them, and an interface that is guarded anew
//! begins with what is left of them.
//!
//! Within a boot the kernel's own clock tells how much that is. After another boot there is only the wall clock: where it has gone
//! backwards since, nothing has passed, so that no ban lasts longer than it had left when it was saved.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use firewall_common::abi::ban::About;
use serde::{Deserialize, Serialize};

use super::Target;
use crate::kernel::bans::{LiveBan, now_ns};
use crate::save;

const FILE: &str = "/var/lib/firewall/bans.json";
/// Where a file is put that cannot be read, for whoever wants to know what was in it.
const UNREADABLE: &str = "/var/lib/firewall/bans.json.unreadable";
/// What ends sooner is not worth keeping.
const LEAST_LEFT_S: u64 = 60;
const NS: u64 = 1_000_000_000;

/// The bans of an interface when they were saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    at: Moment,
    bans: Vec<SavedBan>,
}

/// When something was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    /// The kernel's name for the time since the machine started.
    boot: String,
    /// Seconds of CLOCK_MONOTONIC, by which bans end.
    monotonic_s: u64,
    /// Seconds since 1970.
    wall_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedBan {
    prefix: String,
    /// Seconds; `null`: it does not end.
    left_s: Option<u64>,
    everywhere: bool,
    reason: Option<String>,
}

type All = BTreeMap<String, Saved>;

/// Saves the bans of these interfaces in the place of what was saved of them; what was saved of others stays. It has to be the caller's
/// turn.
///
/// # Errors
///
/// The file cannot be opened or written; it is then as it was.
pub(crate) fn save(interfaces: BTreeMap<String, Vec<LiveBan>>) -> Result<()> {
    let at = Moment::now()?;
    let before = read()?;
    let mut all = before.clone();
    for (name, bans) in interfaces {
        let saved: Vec<SavedBan> = bans.iter().filter_map(SavedBan::of).collect();
        match saved.is_empty() {
            true => all.remove(&name),
            false => all.insert(
                name,
                Saved {
                    at: at.clone(),
                    bans: saved,
                },
            ),
        };
    }
    // Of interfaces that are not there, nobody else drops what is over.
    all.retain(|_, saved| !saved.left(&at).is_empty());
    write(&all, &before)
}

/// The bans that are saved of the interface called `name`, with what is left of them.
///
/// # Errors
///
/// The file cannot be read.
pub(crate) fn of(name: &str) -> Result<Vec<LiveBan>> {
    let now = Moment::now()?;
    let mut all = read()?;
    Ok(all
        .remove(name)
        .map_or_else(Vec::new, |saved| saved.left(&now)))
}

/// Forgets what is saved of the interface called `name`: its bans go with the firewall.
///
/// # Errors
///
/// The file cannot be read or written.
pub(crate) fn forget(name: &str) -> Result<()> {
    let before = read()?;
    let mut all = before.clone();
    all.remove(name);
    write(&all, &before)
}

impl Moment {
    fn now() -> Result<Self> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(BOOT).with_context(|| format!("reading {BOOT}"))?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            boot: boot.trim().to_owned(),
            monotonic_s: now_ns() / NS,
            wall_s: wall.unwrap_or_default().as_secs(),
        })
    }

    /// Seconds that have passed between this and `now`, as far as is known.
    fn passed_s(&self, now: &Self) -> u64 {
        match self.boot == now.boot {
            true => now.monotonic_s.saturating_sub(self.monotonic_s),
            false => now.wall_s.saturating_sub(self.wall_s),
        }
    }
}

impl SavedBan {
    /// `None` for one that ends soon.
    fn of(ban: &LiveBan) -> Option<Self> {
        let left_s = ban.left_ns.map(|left_ns| left_ns / NS);
        if left_s.is_some_and(|left_s| left_s <= LEAST_LEFT_S) {
            return None;
        }
        Some(Self {
            prefix: Target::from(&ban.prefix).to_string(),
            left_s,
            everywhere: ban.about.everywhere,
            reason: ban.reason.clone(),
        })
    }
}

impl Saved {
    /// Those that have not ended `now`.
    fn left(&self, now: &Moment) -> Vec<LiveBan> {
        let passed_s = self.at.passed_s(now);
        let left = self.bans.iter().filter_map(|ban| {
            // Nobody else writes the file; what is no address bans nobody.
            let prefix = ban.prefix.parse::<Target>().ok()?.prefix();
            let left_s = match ban.left_s {
                None => None,
                Some(left_s) => Some(left_s.checked_sub(passed_s).filter(|&left_s| left_s > 0)?),
            };
            Some(LiveBan {
                prefix,
                left_ns: left_s.map(|left_s| left_s.saturating_mul(NS)),
                age_ns: 0,
                about: About {
                    length: prefix.length,
                    by: 0,
                    everywhere: ban.everywhere,
                },
                reason: ban.reason.clone(),
            })
        });
        left.collect()
    }
}

/// What is saved of all interfaces. What is no such file is put aside, with a warning: it must keep nobody from guarding an interface at
/// the start of the machine, nor from taking the firewall off.
fn read() -> Result<All> {
    let bytes = match fs::read(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(All::new()),
        bytes => bytes.with_context(|| format!("reading {FILE}"))?,
    };
    match serde_json::from_slice(&bytes) {
        Ok(all) => Ok(all),
        Err(error) => {
            let aside = match fs::rename(FILE, UNREADABLE) {
                Ok(()) => format!("it is {UNREADABLE} now"),
                Err(error) => format!("it stays there: {error}"),
            };
            eprintln!("warning: no saved bans are taken from {FILE}: {error}; {aside}");
            Ok(All::new())
        }
    }
}

fn write(all: &All, before: &All) -> Result<()> {
    if all == before {
        return Ok(());
    }
    if all.is_empty() {
        return fs::remove_file(FILE).with_context(|| format!("removing {FILE}"));
    }
    let bytes = serde_json::to_vec(all).context("writing down bans")?;
    save::own(Path::new(FILE), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, monotonic_s: u64, wall_s: u64) -> Moment {
        Moment {
            boot: boot.to_owned(),
            monotonic_s,
            wall_s,
        }
    }

    fn left_s(saved: &Saved, now: &Moment) -> Vec<Option<u64>> {
        let left = saved.left(now).into_iter();
        left.map(|ban| ban.left_ns.map(|left_ns| left_ns / NS))
            .collect()
    }

    #[test]
    fn what_is_left_goes_by_the_clock_that_can_be_trusted() {
        let ban = |left_s| SavedBan {
            prefix: "198.51.100.0/24".to_owned(),
            left_s,
            everywhere: true,
            reason: None,
        };
        let saved = Saved {
            at: moment("a", 1000, 5_000_000),
            bans: vec![ban(Some(600)), ban(None)],
        };
        for (now, expected) in [
            // The same boot: whatever the wall clock says.
            (moment("a", 1100, 5_000_100), Some(500)),
            (moment("a", 1100, 90_000_000), Some(500)),
            (moment("a", 1100, 0), Some(500)),
            // Another boot: the wall clock, unless it has gone backwards.
            (moment("b", 5, 5_000_100), Some(500)),
            (moment("b", 5, 4_000_000), Some(600)),
        ] {
            assert_eq!(left_s(&saved, &now), [expected, None], "{now:?}");
        }
        for now in [moment("a", 1600, 0), moment("b", 0, 5_000_600)] {
            assert_eq!(left_s(&saved, &now), [None], "{now:?}");
        }
    }

    #[test]
    fn what_ends_soon_is_not_saved() {
        let ban = |left_s: Option<u64>| {
            let prefix = "203.0.113.7".parse::<Target>().unwrap().prefix();
            SavedBan::of(&LiveBan {
                prefix,
                left_ns: left_s.map(|left_s| left_s * NS),
                age_ns: 0,
                about: About {
                    length: prefix.length,
                    by: 0,
                    everywhere: false,
                },
                reason: Some("ticket 4711".to_owned()),
            })
        };
        assert_eq!(ban(Some(60)), None);
        let saved = ban(Some(61)).unwrap();
        assert_eq!(
            (saved.prefix.as_str(), saved.left_s),
            ("203.0.113.7", Some(61))
        );
        assert_eq!(ban(None).unwrap().left_s, None);
    }
}
