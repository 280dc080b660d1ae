//! What the tables beside the rules mean: sizes, times, VLANs and who is never banned.

use toml::Spanned;

use super::super::model::{Bans, Flows, Limits, Vlans};
use super::super::typed::{RawBans, RawFlows, RawLimits, RawVlans};
use super::super::values::times::{FLOW_TIMEOUT, time_s};
use super::super::values::{
    BAN_TABLE, FLOW_TABLE, SOURCE_TABLE, prefix_bits, table_size, vlan_range,
};
use super::{Validator, join};

impl Validator<'_> {
    pub(super) fn flows(&mut self, raw: &RawFlows) -> Flows {
        let mut flows = Flows::default();
        if let Some(size) = &raw.size {
            let known = self.known(size, table_size(*size.get_ref(), &FLOW_TABLE));
            flows.size = known.unwrap_or(flows.size);
        }
        for (field, time) in &raw.timeouts {
            if let Some(seconds) = self.known(time, time_s(time.get_ref(), &FLOW_TIMEOUT)) {
                *field(&mut flows.timeouts) = seconds;
            }
        }
        flows
    }

    pub(super) fn limits(&mut self, raw: &RawLimits) -> Limits {
        let mut limits = Limits::default();
        if let Some(size) = &raw.size {
            let known = self.known(size, table_size(*size.get_ref(), &SOURCE_TABLE));
            limits.size = known.unwrap_or(limits.size);
        }
        if let Some(bits) = &raw.prefix_v4 {
            let known = self.known(bits, prefix_bits(*bits.get_ref(), 32, "IPv4"));
            limits.prefix_v4 = known.unwrap_or(limits.prefix_v4);
        }
        if let Some(bits) = &raw.prefix_v6 {
            let known = self.known(bits, prefix_bits(*bits.get_ref(), 128, "IPv6"));
            limits.prefix_v6 = known.unwrap_or(limits.prefix_v6);
        }
        limits
    }

    pub(super) fn bans(&mut self, raw: &RawBans) -> Bans {
        let mut bans = Bans::default();
        if let Some(size) = &raw.size {
            let known = self.known(size, table_size(*size.get_ref(), &BAN_TABLE));
            bans.size = known.unwrap_or(bans.size);
        }
        if let Some(list) = &raw.never {
            match self.groups.addresses_of(list, self.collector) {
                Some(never) => bans.never = never,
                // Whom it spares is not known, so nothing is said about it.
                None => self.first_ban = None,
            }
        }
        self.warn_if_anybody_can_be_banned(&bans);
        bans
    }

    pub(super) fn vlans(&mut self, raw: &RawVlans) -> Vlans {
        let mut ids = Vec::new();
        for id in raw.ids.iter().flat_map(Spanned::get_ref).flatten() {
            match vlan_range(id.get_ref()) {
                Ok(range) => ids.push(range),
                Err((message, help)) => self.error(id.span(), message, help),
            }
        }
        join(&mut ids);
        let untagged = raw.untagged.unwrap_or(true);
        if !untagged && raw.ids.as_ref().is_none_or(|ids| ids.get_ref().is_empty()) {
            let help = "list VLANs under `ids`, or leave out `untagged = false`";
            self.error(
                raw.heading.clone(),
                "with this no frame at all may arrive",
                help,
            );
        }
        Vlans { untagged, ids }
    }
}
