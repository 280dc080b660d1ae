//! What a loaded image came from, in a pinned map beside it: names, counter slots, file. The program never reads it.
//!
//! It is written by postcard, in which fields have no names: another field is another ABI version. Up to version 4 it was JSON, as the
//! fields here still read it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::blob;
use crate::counters::{Decides, Deciding, Gone, Slots};
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
    /// SHA-256 of the policy image, in hexadecimal: it covers the address lists too. Behind [`Self::PATCHED`] stands that of what was done
    /// to the image since it was compiled.
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
    /// What rules have counted that there are no more; nothing yet where it has not been in force.
    #[serde(default)]
    pub gone: Gone,
}

impl Policy {
    /// What a hash of the image begins with into which addresses have come since it was compiled, or that they have left.
    pub const PATCHED: &str = "patched-";

    /// Whether addresses have come into the image since it was compiled, or have left it.
    pub fn is_patched(&self) -> bool {
        self.image_sha256.starts_with(Self::PATCHED)
    }

    /// Whether `next`, which has not been in force, would change nothing.
    pub fn is_same(&self, next: &Self) -> bool {
        let gone = next.gone.clone();
        *next
            == Self {
                gone,
                ..self.clone()
            }
    }

    /// What its rules do, and what they count where.
    pub fn deciding(&self) -> Deciding<'_> {
        let rules = self.rules.iter();
        Deciding {
            rules: rules
                .map(|rule| (rule.name.as_str(), rule.decides()))
                .collect(),
            slots: &self.slots,
        }
    }
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

    /// What it does.
    pub fn decides(&self) -> Decides {
        Decides {
            is_egress: self.is_egress(),
            accepts: self.action == "accept",
        }
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
        let bytes = postcard::to_allocvec(self).context("writing the description")?;
        blob::pin(path, &bytes)
    }

    /// Reads the description pinned at `path`.
    ///
    /// # Errors
    ///
    /// It is not there, or not a description.
    pub(super) fn read(path: &Path) -> Result<Self> {
        postcard::from_bytes(&blob::read(path)?)
            .with_context(|| format!("reading {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Subject;

    /// As version 4 wrote it.
    const V4: &str = r#"{"generation":7,"newest":8,"namespace":4026531840,"file":"/etc/firewall.toml","applied_at_s":1764115200,
        "policy":{"file_sha256":"ab","image_sha256":"cd","image_bytes":43008,"is_open":false,"default_accepts":false,
        "egress_default_accepts":true,"bans_by_rule":64,"never_banned":[["192.0.2.0","192.0.2.255"],["2001:db8::","2001:db8::ff"]],
        "lists_vlans":false,"rules":[{"name":"web","direction":"ingress","action":"accept","matches":"tcp 80","comment":null,"line":4}],
        "ports":[[6,80]],"slots":[[{"Rule":"a"},131],[{"Port":[6,80]},130],[{"RuleAtPort":["web",6,80]},128],
        [{"DroppedAtPort":[6,80]},129],[{"Over":"web"},132]]}}"#;

    #[test]
    fn what_version_4_wrote_can_be_read_and_written_anew() {
        let old: Description = serde_json::from_str(V4).unwrap();
        assert_eq!(old.policy.rules[0].matches, "tcp 80");
        assert_eq!(old.policy.never_banned.len(), 2);
        let slots: Vec<u32> = old.policy.slots.used().collect();
        assert_eq!(slots, [128, 129, 130, 131, 132]);
        let web = Subject::RuleAtPort("web".to_owned(), 6, 80);
        assert_eq!(old.policy.slots.get(&web), Some(128));
        let bytes = postcard::to_allocvec(&old).unwrap();
        assert_eq!(postcard::from_bytes::<Description>(&bytes).unwrap(), old);
        assert!(postcard::from_bytes::<Description>(V4.as_bytes()).is_err());
    }
}
