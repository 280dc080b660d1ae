//! What a rule asks beyond what it matches: how much of it comes in, who is banned for it, from which rate of SYNs on
//! they are answered with cookies.

use std::ops::Range;

use toml::Spanned;

use super::super::model::{
    Action, BanAfter, Bans, Direction, Limit, Limits, Protocol, Rate, Rule, Terms, Unit,
};
use super::super::shown::quoted;
use super::super::typed::{RawBan, RawLimit, RawRule, Scalar, Term};
use super::super::values::ban_after;
use super::super::values::rates::{burst, limit_rate, syn_rate, usual_burst};
use super::super::values::times::{BAN_FOR, BAN_WITHIN, time_s};
use super::{RulePlace, TCP, UDP, Validator};

impl Validator<'_> {
    /// `protocol` is `None` if it was wrong, which has been said.
    pub(super) fn terms(&mut self, rule: &RawRule, protocol: Option<Protocol>) -> Terms {
        let raw = &rule.terms;
        let limit = raw.limit.as_ref();
        let ban = raw.ban.as_ref();
        let cookies = raw.syn_cookies.as_ref();
        Terms {
            limit: limit.and_then(|limit| self.limit(limit, rule, protocol)),
            ban: ban.and_then(|ban| self.ban(ban, rule)),
            syn_cookies: cookies.and_then(|cookies| self.syn_cookies(cookies, rule, protocol)),
        }
    }

    fn limit(
        &mut self,
        term: &Term<RawLimit>,
        rule: &RawRule,
        protocol: Option<Protocol>,
    ) -> Option<Limit> {
        if rule.action == Some(Action::Drop) {
            let help = "put `limit` on the rule that accepts: what is over its limit is dropped";
            self.error(
                term.span(),
                "a rule that drops lets nothing pass that could be limited",
                help,
            );
        }
        let raw = term.get_ref().as_ref()?;
        let unit = *raw.unit.get_ref();
        if unit == Some(Unit::Connections) {
            match protocol {
                None | Some(Protocol::Number(TCP | UDP)) => {}
                Some(Protocol::Any | Protocol::Number(_)) => {
                    let help = "write protocol = \"tcp\" or \"udp\", or count packets";
                    let message = "only connections of TCP and UDP can be counted";
                    self.error(raw.unit.span(), message, help);
                }
            }
        }
        let rate = raw.rate.as_ref();
        let rate = rate.and_then(|rate| self.known(rate, limit_rate(rate.get_ref(), unit)));
        let typed = raw.burst.as_ref();
        let typed = typed.and_then(|typed| self.known(typed, burst(typed.get_ref(), rate, unit)));
        let (rate, unit) = (rate?, unit?);
        Some(Limit {
            rate,
            burst: if raw.has_burst {
                typed?
            } else {
                usual_burst(rate, unit)
            },
            per: raw.per,
            unit,
        })
    }

    fn ban(&mut self, term: &Term<RawBan>, rule: &RawRule) -> Option<BanAfter> {
        let leaves = rule.direction == Some(Direction::Egress);
        if leaves {
            self.error(
                term.span(),
                "bans keep out sources of what arrives, and this rule is about what leaves",
                "leave `ban` out, or put it on a rule with direction = \"ingress\"",
            );
        }
        let drops_nothing = rule.action == Some(Action::Accept) && rule.terms.limit.is_none();
        if drops_nothing {
            self.error(
                term.span(),
                "this rule drops nothing, so nobody would ever be banned",
                "add a `limit`, which drops what is over it, or write action = \"drop\"",
            );
        }
        let raw = term.get_ref().as_ref()?;
        let after = raw.after.as_ref();
        let after = after.and_then(|after| self.known(after, ban_after(*after.get_ref())));
        let mut time = |time: &Option<Spanned<Scalar>>, what| {
            let time = time.as_ref()?;
            self.known(time, time_s(time.get_ref(), what))
        };
        let (within_s, for_s) = (time(&raw.within, &BAN_WITHIN), time(&raw.lasts, &BAN_FOR));
        let ban = BanAfter {
            after: after?,
            within_s: within_s?,
            for_s: for_s?,
        };
        if self.first_ban.is_none() && !leaves && !drops_nothing {
            let name = rule.name.as_ref().map(|name| name.get_ref().clone());
            self.first_ban = Some((name.unwrap_or_default(), term.span()));
        }
        Some(ban)
    }

    fn syn_cookies(
        &mut self,
        term: &Term<Spanned<Scalar>>,
        rule: &RawRule,
        protocol: Option<Protocol>,
    ) -> Option<Rate> {
        if rule.direction == Some(Direction::Egress) {
            self.error(
                term.span(),
                "SYN cookies answer what arrives, and this rule is about what leaves",
                "leave `syn-cookies` out, or put it on a rule with direction = \"ingress\"",
            );
        }
        if rule.action == Some(Action::Drop) {
            self.error(
                term.span(),
                "a rule that drops answers no SYN",
                "put `syn-cookies` on the rule that accepts",
            );
        }
        match protocol {
            None | Some(Protocol::Number(TCP)) => {}
            Some(Protocol::Any | Protocol::Number(_)) => {
                self.error(
                    term.span(),
                    "only TCP has SYNs",
                    "write protocol = \"tcp\", or leave `syn-cookies` out",
                );
            }
        }
        let above = term.get_ref().as_ref()?;
        self.known(above, syn_rate(above.get_ref()))
    }

    /// Warns of a table of sources in which so many buckets of rules do not all find a place, at its `size`, or where that is not written, at
    /// the last rule that has one.
    pub(super) fn warn_if_limits_have_no_room(
        &mut self,
        limits: &Limits,
        size: Option<Range<usize>>,
        rules: &[Rule],
        places: &[RulePlace],
    ) {
        let buckets = rules.iter().map(|rule| rule.terms.shared_buckets());
        let shared = buckets.clone().sum();
        if limits.overfull(shared) <= Limits::MAX_OVERFULL {
            return;
        }
        let last = buckets.zip(places).rfind(|(buckets, _)| *buckets > 0);
        let Some(place) = size.or_else(|| last.map(|(_, place)| place.name.clone())) else {
            return;
        };
        let message = format!(
            "the limits of rules and their `syn-cookies` are {shared}, and in a table for {} sources one of them may find no place, so \
             that its rule lets nothing in",
            limits.size
        );
        let help = match limits.size_for(shared) {
            Some(size) => format!("write size = {size} under [limits]"),
            None => format!(
                "write size = {} under [limits], which is the most there can be, and put several rules with limits into one",
                Limits::MAX_SIZE
            ),
        };
        self.warning(place, message, help);
    }

    /// Warns once a file that has bans and spares nobody.
    pub(super) fn warn_if_anybody_can_be_banned(&mut self, bans: &Bans) {
        let spares_nobody = bans.never.v4.is_empty() && bans.never.v6.is_empty();
        if let Some((name, place)) = self.first_ban.take().filter(|_| spares_nobody) {
            let message = format!(
                "rule {} bans sources, which can be forged: anybody can have others banned",
                quoted(&name)
            );
            let help =
                "name under [bans] whom you cannot do without: never-ban = [\"192.0.2.0/24\"]";
            self.warning(place, message, help);
        }
    }
}
