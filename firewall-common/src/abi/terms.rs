//! The terms of a rule, one line of the image: how much of what it accepts comes in, who is banned for what it drops or limits, and
//! from which rate on SYNs are answered with cookies.

use super::image::Line;

/// A rate, as a token bucket keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// What one unit takes, in 2^-16 ns.
    pub unit_cost: u64,
    /// How far the bucket may be from being full, in ns: burst times cost.
    pub tolerance_ns: u64,
}

impl Rate {
    /// Fraction bits of [`Self::unit_cost`].
    const COST_SHIFT: u32 = 16;

    /// `amount` in `per_s` seconds, `burst` of them at once.
    pub const fn new(amount: u64, per_s: u32, burst: u64) -> Self {
        let second = 1_000_000_000u128 << Self::COST_SHIFT;
        let cost = second * per_s as u128 / amount as u128;
        let tolerance = (cost * burst as u128) >> Self::COST_SHIFT;
        Self {
            unit_cost: if cost == 0 { 1 } else { cost as u64 },
            tolerance_ns: tolerance as u64,
        }
    }

    /// What so many units take, in ns.
    #[inline(always)]
    pub const fn cost_ns(&self, units: u64) -> u64 {
        self.unit_cost.wrapping_mul(units) >> Self::COST_SHIFT
    }
}

/// Who is banned, for what a rule drops or limits. Times are in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanAfter {
    /// After so many packets, below 2^12.
    pub after: u64,
    /// Within this time.
    pub within_ns: u64,
    /// For this time.
    pub for_ns: u64,
    /// Bits of an IPv6 source that are banned: who has one address of a network has them all. Of IPv4 it is the address.
    pub length_v6: u8,
}

impl BanAfter {
    /// Number and time in one word.
    #[inline(always)]
    pub const fn when(&self) -> u64 {
        self.within_ns & !flag::AFTER | self.after & flag::AFTER
    }

    /// From that word and the others.
    #[inline(always)]
    pub const fn from_words(when: u64, for_ns: u64, length_v6: u8) -> Self {
        Self {
            after: when & flag::AFTER,
            within_ns: when & !flag::AFTER,
            for_ns,
            length_v6,
        }
    }
}

/// What a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Unit {
    /// Packets.
    Packets = 0,
    /// Bytes.
    Bytes = 1,
    /// Connections.
    Connections = 2,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How much.
    pub rate: Rate,
    /// Of what.
    pub unit: Unit,
    /// Bits of the source that share a bucket, of IPv4 and of IPv6 as the table of bans counts them (96 to 128, and 1 to 128);
    /// `None` where all sources do.
    pub per_source: Option<[u8; 2]>,
}

/// All terms of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Counter slot of what goes over the limit. It is the rule's name towards tables of state too, which outlive the image.
    pub over: u32,
    /// How much comes in.
    pub limit: Option<Limit>,
    /// Who is banned.
    pub ban: Option<BanAfter>,
    /// From which rate of SYNs on they are answered with cookies.
    pub cookies: Option<Rate>,
}

/// Bits of word 0 above the slot.
mod flag {
    pub(super) const LIMIT: u64 = 1 << 32;
    pub(super) const PER_SOURCE: u64 = 1 << 33;
    pub(super) const BAN: u64 = 1 << 34;
    pub(super) const COOKIES: u64 = 1 << 35;
    pub(super) const UNIT_SHIFT: u32 = 36;
    pub(super) const V4_SHIFT: u32 = 40;
    pub(super) const V6_SHIFT: u32 = 48;
    pub(super) const BAN_V6_SHIFT: u32 = 56;
    /// The word of [`super::BanAfter::within_ns`] has the number of packets in its lower bits.
    pub(super) const AFTER: u64 = (1 << 12) - 1;
}

impl Terms {
    /// Below this the clock of whole jiffies is too coarse: what comes in during the longest of them must be a small part of a burst.
    pub const COARSE_TOLERANCE_NS: u64 = 40_000_000;

    /// The terms stored in a line.
    #[inline(always)]
    pub const fn from_line(line: &Line) -> Self {
        let [
            flags,
            cost,
            tolerance,
            within,
            for_ns,
            cookie_cost,
            cookie_tolerance,
            _,
        ] = line.words;
        Self {
            over: flags as u32,
            limit: if flags & flag::LIMIT != 0 {
                Some(Limit {
                    rate: Rate {
                        unit_cost: cost,
                        tolerance_ns: tolerance,
                    },
                    unit: match flags >> flag::UNIT_SHIFT & 3 {
                        0 => Unit::Packets,
                        1 => Unit::Bytes,
                        _ => Unit::Connections,
                    },
                    per_source: if flags & flag::PER_SOURCE != 0 {
                        Some([
                            (flags >> flag::V4_SHIFT) as u8,
                            (flags >> flag::V6_SHIFT) as u8,
                        ])
                    } else {
                        None
                    },
                })
            } else {
                None
            },
            ban: if flags & flag::BAN != 0 {
                let length_v6 = (flags >> flag::BAN_V6_SHIFT) as u8;
                Some(BanAfter::from_words(within, for_ns, length_v6))
            } else {
                None
            },
            cookies: if flags & flag::COOKIES != 0 {
                Some(Rate {
                    unit_cost: cookie_cost,
                    tolerance_ns: cookie_tolerance,
                })
            } else {
                None
            },
        }
    }

    /// The line that stores these.
    pub const fn to_line(&self) -> Line {
        let mut words = [self.over as u64, 0, 0, 0, 0, 0, 0, 0];
        if let Some(limit) = &self.limit {
            words[0] |= flag::LIMIT | (limit.unit as u64) << flag::UNIT_SHIFT;
            if let Some([v4, v6]) = limit.per_source {
                words[0] |= flag::PER_SOURCE
                    | (v4 as u64) << flag::V4_SHIFT
                    | (v6 as u64) << flag::V6_SHIFT;
            }
            words[1] = limit.rate.unit_cost;
            words[2] = limit.rate.tolerance_ns;
        }
        if let Some(ban) = &self.ban {
            words[0] |= flag::BAN | (ban.length_v6 as u64) << flag::BAN_V6_SHIFT;
            words[3] = ban.when();
            words[4] = ban.for_ns;
        }
        if let Some(rate) = &self.cookies {
            words[0] |= flag::COOKIES;
            words[5] = rate.unit_cost;
            words[6] = rate.tolerance_ns;
        }
        Line { words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_the_terms() {
        let limit = Limit {
            rate: Rate::new(200, 1, 400),
            unit: Unit::Connections,
            per_source: Some([120, 64]),
        };
        let ban = BanAfter {
            after: 4_000,
            within_ns: 10_000_000_000 & !flag::AFTER,
            for_ns: u64::MAX,
            length_v6: 64,
        };
        for limit in [
            None,
            Some(limit),
            Some(Limit {
                unit: Unit::Bytes,
                per_source: None,
                ..limit
            }),
        ] {
            for ban in [None, Some(ban)] {
                for cookies in [None, Some(Rate::new(5_000, 1, 500))] {
                    let terms = Terms {
                        over: 7,
                        limit,
                        ban,
                        cookies,
                    };
                    assert_eq!(Terms::from_line(&terms.to_line()), terms);
                }
            }
        }
    }

    #[test]
    fn a_rate_is_exact_to_a_part_in_a_thousand() {
        for (amount, per_s) in [
            (1, 86_400),
            (5, 60),
            (200, 1),
            (999_999, 1),
            (100_000_000_000, 1),
        ] {
            let rate = Rate::new(amount, per_s, 1);
            let cost = rate.unit_cost as f64 / 65_536.0;
            let exact = 1e9 * f64::from(per_s) / amount as f64;
            assert!(
                (cost / exact - 1.0).abs() < 0.002,
                "{amount}/{per_s}: {cost} {exact}"
            );
        }
        assert_eq!(Rate::new(200, 1, 400).tolerance_ns, 2_000_000_000);
        assert_eq!(Rate::new(200, 1, 400).cost_ns(1), 5_000_000);
    }
}
