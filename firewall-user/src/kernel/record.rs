//! The shared records as aya copies them in and out of maps.

use aya::Pod;
use firewall_common::abi::{
    counter::Counter,
    event::Budget,
    flow::{BucketWords, Settings},
    knock, limit,
    shadow::{Sample, Shadow},
};

/// A record of the map ABI. One wrapper carries them all across aya's marker trait.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(super) struct Record<T>(pub T);

/// Records that may cross: `repr(C)` integers without padding, which their `zerocopy::IntoBytes` has checked.
pub(super) trait Abi: Copy + 'static + zerocopy::IntoBytes + zerocopy::FromBytes {}
impl Abi for Counter {}
impl Abi for BucketWords {}
impl Abi for Settings {}
impl Abi for knock::Set {}
impl Abi for limit::Settings {}
impl Abi for Sample {}
impl Abi for Budget {}
impl Abi for Shadow {}

#[expect(
    unsafe_code,
    reason = "aya asks for this marker on what it copies into maps"
)]
// SAFETY: `Abi` types have no padding and any bytes are a valid value.
unsafe impl<T: Abi> Pod for Record<T> {}
