//! What a loaded image came from, in a pinned map beside it: names, counter slots, file. The program never reads it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::blob;
use crate::counters::Slots;
use crate::list_rows::KnownList;

/// A loaded generation, for people and for the next generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Counts up from 1 with every generation of an interface; 0 where everything is let in, because the first one was not confirmed.
    pub generation: u64,
    /// The highest number that any generation of the interface had when this was put in force, at least its own.
    pub newest: u64,
    /// Inode of the network namespace that the interface is in: others may have interfaces of the same name.
    pub namespace: u64,
    /// The rule file as it was named on the command line, made absolute. Live edits leave it.
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
    /// Whether everything is let in, because there is no policy.
    pub is_open: bool,
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
    /// Its address lists, by their path in the file.
    #[serde(default)]
    pub lists: BTreeMap<String, KnownList>,
    /// How many assertions the file has.
    #[serde(default)]
    pub asserts: usize,
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
    /// What is in force where this generation, an interface's first, was not confirmed: nothing, everything is let in.
    pub(super) fn opened(&self) -> Self {
        Self {
            generation: 0,
            policy: Policy {
                is_open: true,
                default_accepts: true,
                egress_default_accepts: true,
                bans_by_rule: None,
                never_banned: Vec::new(),
                lists_vlans: false,
                rules: Vec::new(),
                ports: Vec::new(),
                slots: Slots::default(),
                lists: BTreeMap::new(),
                asserts: 0,
                ..self.policy.clone()
            },
            ..self.clone()
        }
    }

    /// Pins the description at `path`, in the place of what is there: at every moment one of them is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn pin(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context("writing the description")?;
        blob::pin(path, &bytes)
    }

    /// Reads the description pinned at `path`.
    ///
    /// # Errors
    ///
    /// It is not there, or not a description.
    pub(super) fn read(path: &Path) -> Result<Self> {
        serde_json::from_slice(&blob::read(path)?)
            .with_context(|| format!("reading {}", path.display()))
    }
}
