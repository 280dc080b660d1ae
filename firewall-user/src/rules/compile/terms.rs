//! Terms of rules become lines of the image.

use firewall_common::abi::terms::{BanAfter, Limit, Rate, Terms, Unit};

use super::layout::Layout;
use super::outcomes::Outcomes;
use crate::counters::TooMany;
use crate::rules::model::{self, Limits, Per, Rule};

/// Part of a second for which SYNs above their rate still go to the kernel, so that the rate is one of seconds and not of instants.
const COOKIE_BURST_PART: u64 = 10;

/// Appends the terms of all rules. Returns where the table by number begins, or 0 if no rule has any.
pub(super) fn append<'s>(
    rules: &[&'s Rule],
    limits: &Limits,
    outcomes: &mut Outcomes<'_, 's>,
    layout: &mut Layout,
) -> Result<u32, TooMany> {
    if rules.iter().all(|rule| rule.terms.is_empty()) {
        return Ok(0);
    }
    let mut numbers = Vec::with_capacity(rules.len());
    for rule in rules {
        numbers.push(if rule.terms.is_empty() {
            0
        } else {
            let terms = terms(&rule.terms, limits, outcomes.over(rule)?);
            layout.lines(&[terms.to_line()])
        });
    }
    Ok(layout.u32s(&numbers))
}

fn terms(terms: &model::Terms, limits: &Limits, over: u32) -> Terms {
    let second = 1_000_000_000;
    Terms {
        over,
        limit: terms.limit.map(|limit| Limit {
            rate: rate(limit.rate, limit.burst),
            unit: match limit.unit {
                model::Unit::Packets => Unit::Packets,
                model::Unit::Bytes => Unit::Bytes,
                model::Unit::Connections => Unit::Connections,
            },
            per_source: match limit.per {
                Per::Rule => None,
                Per::Source => Some([128, 128]),
                Per::SourcePrefix => Some([96 + limits.prefix_v4, limits.prefix_v6]),
            },
        }),
        ban: terms.ban.map(|ban| BanAfter {
            after: ban.after.into(),
            within_ns: u64::from(ban.within_s) * second,
            for_ns: u64::from(ban.for_s) * second,
            length_v6: limits.prefix_v6,
        }),
        cookies: terms
            .syn_cookies
            .map(|above| rate(above, (above.in_seconds(1) / COOKIE_BURST_PART).max(1))),
    }
}

const fn rate(rate: model::Rate, burst: u64) -> Rate {
    Rate::new(rate.amount, rate.per_s, burst)
}
