//! Bytes in a pinned map, for people and for later commands. Programs never read them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, IterableMap as _, Map, MapData};

use super::mapped::{Access, Mapped};
use super::pins;

/// Bytes of one element of the map.
const CHUNK: usize = 4096;
/// `BPF_F_MMAPABLE` (linux/bpf.h): megabytes are written and read without a system call for each chunk.
const MAP_FLAGS: u32 = 1 << 10;

/// Pins `bytes` at `path`, in the place of what is there: at every moment one of them is.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn pin(path: &Path, bytes: &[u8]) -> Result<()> {
    let chunks = (size_of::<u64>() + bytes.len()).div_ceil(CHUNK) as u32;
    let map: Array<MapData, [u8; CHUNK]> =
        Array::create(chunks, MAP_FLAGS).context("making a map of bytes")?;
    {
        let mut mapped: Mapped<[u8; CHUNK]> = Mapped::new(map.map(), chunks, Access::Write)?;
        let place = mapped.alone().as_flattened_mut();
        let (length, rest) = place.split_at_mut(size_of::<u64>());
        length.copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        rest[..bytes.len()].copy_from_slice(bytes);
    }
    pins::replace(path, |next| map.pin(next))
}

/// The bytes pinned at `path`.
///
/// # Errors
///
/// There are none, or they are cut short.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let data = MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
    let map: Array<MapData, [u8; CHUNK]> = Array::try_from(Map::Array(data))?;
    let mapped: Mapped<[u8; CHUNK]> = Mapped::new(map.map(), map.len(), Access::Read)?;
    let (length, rest) = (mapped.as_flattened())
        .split_first_chunk()
        .with_context(|| format!("{} is empty", path.display()))?;
    let Some(bytes) = rest.get(..u64::from_le_bytes(*length) as usize) else {
        bail!("{} is cut short", path.display());
    };
    Ok(bytes.to_vec())
}
