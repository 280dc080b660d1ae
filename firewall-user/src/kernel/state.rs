//! The tables of state that each guarded interface has of its own: bans, and token buckets.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use firewall_common::abi::{ban, limit};

use super::flows::seed;
use super::record::Record;

/// How large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Buckets of the table of bans, a power of two.
    pub ban_buckets: u32,
    /// Lines of the table of token buckets, a power of two.
    pub limit_lines: u32,
}

impl Default for Sizes {
    /// The smallest tables there are.
    fn default() -> Self {
        Self {
            ban_buckets: ban::MIN_BUCKETS,
            limit_lines: limit::MIN_LINES,
        }
    }
}

/// Bytes of the record that programs know of the table of bans.
const BAN_SETTINGS_BYTES: usize = size_of::<ban::Settings<u64>>();

/// Gives freshly made tables their settings: sizes, and a seed each.
pub(super) fn set_up(ebpf: &mut Ebpf, sizes: Sizes) -> Result<()> {
    let settings = limit::Settings {
        mask: (sizes.limit_lines - 1).into(),
        seed: seed()?,
    };
    let map = map(ebpf, limit::MAP_LIMIT_SETTINGS)?;
    let mut limits: Array<&mut MapData, Record<limit::Settings>> = Array::try_from(map)?;
    limits.set(0, Record(settings), 0)?;

    let (no_lengths, first_filter) = ([0, 0], 0);
    let mask = u64::from(sizes.ban_buckets - 1);
    let [a, b, c, d, e] = seed()?;
    let words: [u64; BAN_SETTINGS_BYTES / 8] = {
        let [v4, v6] = no_lengths;
        [v4, v6, first_filter, mask, a, b, c, d, e]
    };
    let map = self::map(ebpf, ban::MAP_BAN_SETTINGS)?;
    let mut bans: Array<&mut MapData, [u64; BAN_SETTINGS_BYTES / 8]> = Array::try_from(map)?;
    bans.set(0, words, 0)?;
    Ok(())
}

const _: () = assert!(core::mem::offset_of!(ban::Settings<u64>, mask) == 24);
const _: () = assert!(core::mem::offset_of!(ban::Settings<u64>, seed) == 32);

fn map<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut aya::maps::Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("no map {name} in the object"))
}
