//! The tables of a rule file that set sizes, times, VLANs and who is never banned, as typed.

use std::ops::Range;

use firewall_common::abi::flow::Timeouts;
use toml::Spanned;
use toml::de::DeTable;

use super::{Key, Number, Reader, Scalar, Scalars, Texts};

/// `[flows]` as typed. What is missing was left out or was wrong, which has been said.
#[derive(Default)]
pub(in crate::rules) struct RawFlows {
    pub(in crate::rules) size: Option<Number>,
    pub(in crate::rules) timeouts: Vec<(TimeoutField, Spanned<Scalar>)>,
}

/// `[limits]` as typed. What is `None` was left out or was wrong, which has been said.
#[derive(Default)]
pub(in crate::rules) struct RawLimits {
    pub(in crate::rules) size: Option<Number>,
    pub(in crate::rules) prefix_v4: Option<Number>,
    pub(in crate::rules) prefix_v6: Option<Number>,
}

/// `[bans]` as typed.
#[derive(Default)]
pub(in crate::rules) struct RawBans {
    pub(in crate::rules) size: Option<Number>,
    pub(in crate::rules) never: Option<Texts>,
}

/// `[vlans]` as typed.
pub(in crate::rules) struct RawVlans {
    pub(in crate::rules) heading: Range<usize>,
    pub(in crate::rules) untagged: Option<bool>,
    pub(in crate::rules) ids: Option<Scalars>,
}

/// Which of the timeouts it is.
pub(in crate::rules) type TimeoutField = fn(&mut Timeouts) -> &mut u32;

const TIMEOUTS: [(&str, TimeoutField); 8] = [
    ("tcp-syn-sent", |timeouts| &mut timeouts.tcp_syn_sent),
    ("tcp-established", |timeouts| &mut timeouts.tcp_established),
    ("tcp-closing", |timeouts| &mut timeouts.tcp_closing),
    ("tcp-closed", |timeouts| &mut timeouts.tcp_closed),
    ("udp", |timeouts| &mut timeouts.udp),
    ("udp-stream", |timeouts| &mut timeouts.udp_stream),
    ("icmp", |timeouts| &mut timeouts.icmp),
    ("other", |timeouts| &mut timeouts.other),
];

impl Reader<'_> {
    pub(super) fn flows(&mut self, table: &DeTable<'_>, into: &mut RawFlows) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "size" => into.size = self.number("size", value, "size = 65536"),
                "timeouts" => {
                    if let Some(table) = self.table(key, value, "[flows.timeouts]") {
                        self.timeouts(table, &mut into.timeouts);
                    }
                }
                _ => self.unknown_key(key, "in [flows]", &["size", "timeouts"]),
            }
        }
    }

    pub(super) fn limits(&mut self, table: &DeTable<'_>, into: &mut RawLimits) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let (target, example) = match name {
                "size" => (&mut into.size, "size = 65536"),
                "prefix-v4" => (&mut into.prefix_v4, "prefix-v4 = 24"),
                "prefix-v6" => (&mut into.prefix_v6, "prefix-v6 = 64"),
                _ => {
                    self.unknown_key(key, "in [limits]", &["size", "prefix-v4", "prefix-v6"]);
                    continue;
                }
            };
            *target = self.number(name, value, example);
        }
    }

    pub(super) fn bans(&mut self, table: &DeTable<'_>, into: &mut RawBans) {
        const NEVER: &str = "never-ban = [\"192.0.2.0/24\"]";
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "size" => into.size = self.number("size", value, "size = 65536"),
                "never-ban" => {
                    let list = self.texts("never-ban", value, NEVER);
                    // What is no list at all is one with something wrong in it, so that nobody takes it for absent.
                    into.never = list.or_else(|| Some(Spanned::new(self.place(value), vec![None])));
                }
                _ => self.unknown_key(key, "in [bans]", &["size", "never-ban"]),
            }
        }
    }

    pub(super) fn vlans(&mut self, heading: &Key<'_>, table: &DeTable<'_>) -> RawVlans {
        let mut vlans = RawVlans {
            heading: self.place(heading),
            untagged: None,
            ids: None,
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "untagged" => vlans.untagged = self.boolean(key, value),
                "ids" => vlans.ids = self.scalars("ids", value, "ids = [10, \"20-29\"]"),
                _ => self.unknown_key(key, "in [vlans]", &["untagged", "ids"]),
            }
        }
        vlans
    }

    fn timeouts(&mut self, table: &DeTable<'_>, into: &mut Vec<(TimeoutField, Spanned<Scalar>)>) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let Some((_, field)) = TIMEOUTS.iter().find(|(known, _)| *known == name) else {
                self.unknown_key(key, "in [flows.timeouts]", &TIMEOUTS.map(|(name, _)| name));
                continue;
            };
            if let Some(time) = self.time(name, value) {
                into.push((*field, time));
            }
        }
    }
}
