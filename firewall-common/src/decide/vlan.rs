//! VLANs: a rule file may say which may arrive.

use crate::abi::image::header;
use crate::frame::Frame;
use crate::parse::ethernet;
use crate::tables::Tables;

/// Whether the frame is of a VLAN that may arrive. `None` if the tables are inconsistent.
#[inline(always)]
pub fn may_arrive<F: Frame + ?Sized, T: Tables>(frame: &F, tables: &T) -> Option<bool> {
    let words = tables.u32(header::INGRESS + header::VLANS)?;
    if words == 0 {
        return Some(true);
    }
    ethernet::all_vlans(frame, |id| {
        let word = tables.u64(words.wrapping_add(u32::from(id >> 6)))?;
        Some(word >> (id & 63) & 1 != 0)
    })
}
