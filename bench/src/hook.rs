//! Where a program sits, and how the packets differ that it is given there.

use crate::{
    abi::{ANSWER_V4, ANSWER_V6, FRAME_BYTES},
    cidr::Family,
};

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// XDP, for what arrives.
    Ingress,
    /// XDP, for SYNs of this family that are as long as their answers.
    Syn(Family),
    /// tcx, for what leaves.
    Egress,
}

impl Hook {
    pub(crate) const ALL: [Self; 4] = [
        Self::Ingress,
        Self::Syn(Family::V4),
        Self::Syn(Family::V6),
        Self::Egress,
    ];

    /// The program that runs what is measured, and the array it finds that in.
    pub(crate) const fn driver(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("driver", "MEASURED"),
            Self::Syn(Family::V4) => ("driver_v4", "MEASURED"),
            Self::Syn(Family::V6) => ("driver_v6", "MEASURED"),
            Self::Egress => ("tc_driver", "TC_MEASURED"),
        }
    }

    /// The program that runs the empty one, the array it finds that in, and the empty one.
    pub(crate) const fn baseline(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ingress => ("baseline", "BARE", "empty"),
            Self::Syn(Family::V4) => ("baseline_v4", "BARE", "empty"),
            Self::Syn(Family::V6) => ("baseline_v6", "BARE", "empty"),
            Self::Egress => ("tc_baseline", "TC_BARE", "tc_empty"),
        }
    }

    /// Bytes of the frames.
    pub(crate) const fn frame_bytes(self) -> usize {
        match self {
            Self::Ingress | Self::Egress => FRAME_BYTES,
            Self::Syn(Family::V4) => ANSWER_V4,
            Self::Syn(Family::V6) => ANSWER_V6,
        }
    }
}

/// How frames differ from one lap over them to the next: by the low byte of a port, so that there are more flows than
/// frames. The frames are untagged IPv4 without options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Laps {
    /// Laps that differ, a power of two up to 256.
    pub(crate) count: u32,
    /// Where the frames have the guarded host's port.
    pub(crate) hook: Hook,
}

impl Laps {
    /// Every lap is the same.
    pub(crate) const ALIKE: Self = Self {
        count: 1,
        hook: Hook::Ingress,
    };
}
