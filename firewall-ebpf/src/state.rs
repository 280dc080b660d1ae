//! The tables of bans and of token buckets in their maps.

use firewall_common::abi::{ban, limit};
use firewall_common::decide::{ban::Bans, limit::Limits};

use crate::maps::{BAN_FILTERS, BAN_SETTINGS, BANS, LIMIT_SETTINGS, LIMITS};
use crate::packet::defined;
use crate::word::KernelWord;

/// The bans of this interface; for `CAREFUL` see [`defined`].
pub struct KernelBans<const CAREFUL: bool>;

impl<const CAREFUL: bool> Bans for KernelBans<CAREFUL> {
    type Word = KernelWord;

    #[inline(always)]
    fn settings(&self) -> Option<&ban::Settings<KernelWord>> {
        defined::<CAREFUL, _>(BAN_SETTINGS.get(0))
    }

    #[inline(always)]
    fn filter(&self, index: u32) -> Option<&ban::Filter<KernelWord>> {
        defined::<CAREFUL, _>(BAN_FILTERS.get(index))
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&ban::Bucket<KernelWord>> {
        defined::<CAREFUL, _>(BANS.get(index))
    }
}

/// The token buckets of this interface.
pub struct KernelLimits;

impl Limits for KernelLimits {
    type Word = KernelWord;

    #[inline(always)]
    fn settings(&self) -> Option<&limit::Settings> {
        defined::<true, _>(LIMIT_SETTINGS.get(0))
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&limit::Line<KernelWord>> {
        defined::<true, _>(LIMITS.get(index))
    }
}
