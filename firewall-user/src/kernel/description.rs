//! What a loaded image came from, in a pinned map beside it: names, counter slots, file. The program never reads it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData};
use serde::{Deserialize, Serialize};

use super::pins;
use crate::counters::Slots;

/// Bytes of one element of the map.
const CHUNK: usize = 4096;

/// A loaded generation, for people and for the next generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Counts up from 1 with every generation of an interface.
    pub generation: u64,
    /// Inode of the network namespace that the interface is in: others may have interfaces of the same name.
    pub namespace: u64,
    /// The rule file as it was named on the command line, made absolute.
    pub file: String,
    /// When it was applied, in seconds since 1970.
    pub applied_at_s: u64,
    /// What was applied.
    pub policy: Policy,
}

/// The part of a description that two applies of the same file have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// SHA-256 of the rule file's text, in hexadecimal.
    pub file_sha256: String,
    /// SHA-256 of the policy image, in hexadecimal: it covers the address lists too.
    pub image_sha256: String,
    /// Bytes of the policy image.
    pub image_bytes: u64,
    /// Whether what no rule matches is let in.
    pub default_accepts: bool,
    /// Whether what no egress rule matches is let out.
    pub egress_default_accepts: bool,
    /// Bits of the IPv6 prefixes that rules ban, if any does: they are looked for among bans, and so are addresses of IPv4.
    pub bans_by_rule: Option<u8>,
    /// Whom no ban cuts: first and last address of each range.
    pub never_banned: Vec<(IpAddr, IpAddr)>,
    /// Whether the file lists VLANs, which holds only where tags are seen.
    pub lists_vlans: bool,
    /// The rules of both directions, in the order of the file.
    pub rules: Vec<DescribedRule>,
    /// Named ports: protocol number and port.
    pub ports: Vec<(u8, u16)>,
    /// What is counted where.
    pub slots: Slots,
}

/// A rule as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedRule {
    /// Its name.
    pub name: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `accept` or `drop`.
    pub action: String,
    /// What it matches, in words.
    pub matches: String,
    /// Its comment.
    pub comment: Option<String>,
    /// Line in the rule file.
    pub line: usize,
}

impl DescribedRule {
    /// Whether it is about what leaves.
    pub fn is_egress(&self) -> bool {
        self.direction == "egress"
    }
}

impl Description {
    /// Pins the description at `path`, in the place of what is there: at every moment one of them is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let mut bytes = serde_json::to_vec(self).context("writing the description")?;
        let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
        framed.append(&mut bytes);
        let chunks: Vec<[u8; CHUNK]> = framed
            .chunks(CHUNK)
            .map(|chunk| {
                let mut whole = [0; CHUNK];
                whole[..chunk.len()].copy_from_slice(chunk);
                whole
            })
            .collect();
        let mut map: Array<MapData, [u8; CHUNK]> = Array::create(chunks.len() as u32, 0)?;
        for (index, chunk) in chunks.iter().enumerate() {
            map.set(index as u32, chunk, 0)?;
        }
        pins::replace(path, |next| map.pin(next))
    }

    /// Reads the description pinned at `path`.
    ///
    /// # Errors
    ///
    /// It is not there, or not a description.
    pub fn read(path: &Path) -> Result<Self> {
        let data =
            MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
        let map: Array<MapData, [u8; CHUNK]> = Array::try_from(Map::Array(data))?;
        let mut bytes = Vec::new();
        for chunk in map.iter() {
            bytes.extend_from_slice(&chunk?);
        }
        let (length, rest) = bytes.split_first_chunk().context("an empty description")?;
        let Some(text) = rest.get(..u64::from_le_bytes(*length) as usize) else {
            bail!("{} is cut short", path.display());
        };
        serde_json::from_slice(text).with_context(|| format!("reading {}", path.display()))
    }
}
