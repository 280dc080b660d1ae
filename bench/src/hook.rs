//! Where a program sits, and how the packets differ that it is given there.

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// XDP, for what arrives.
    Ingress,
    /// tcx, for what leaves.
    Egress,
}

impl Hook {
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The program that runs what is measured, and the array it finds that in.
    pub(crate) const fn driver(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("driver", "MEASURED"),
            Self::Egress => ("tc_driver", "TC_MEASURED"),
        }
    }

    /// The program that runs the empty one, the array it finds that in, and the empty one.
    pub(crate) const fn baseline(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ingress => ("baseline", "BARE", "empty"),
            Self::Egress => ("tc_baseline", "TC_BARE", "tc_empty"),
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
