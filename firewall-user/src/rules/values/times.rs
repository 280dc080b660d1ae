//! Times: of the flow table, and of bans.

use super::super::model::{BanAfter, Flows};
use super::super::shown::quoted;
use super::super::typed::Scalar;
use super::{Complaint, digits};

/// A unit of time.
pub(super) struct Unit {
    /// What it is called in a rule file.
    pub(super) name: &'static str,
    /// What else people write for it.
    pub(super) words: &'static [&'static str],
    /// How long it is.
    pub(super) seconds: u32,
}

const UNITS: [Unit; 4] = [
    Unit {
        name: "s",
        words: &["sec", "secs", "second", "seconds"],
        seconds: 1,
    },
    Unit {
        name: "m",
        words: &["min", "mins", "minute", "minutes"],
        seconds: 60,
    },
    Unit {
        name: "h",
        words: &["hr", "hrs", "hour", "hours"],
        seconds: 3600,
    },
    Unit {
        name: "d",
        words: &["day", "days"],
        seconds: 86_400,
    },
];

impl Unit {
    /// The unit that was meant by `word`, which is its name or one of its words.
    pub(super) fn meant_by(word: &str) -> Option<&'static Self> {
        let word = word.trim().to_lowercase();
        UNITS
            .iter()
            .find(|unit| unit.name == word || unit.words.contains(&&word[..]))
    }
}

/// What a time is for, in the words of what is wrong with it.
pub(in crate::rules) struct Use {
    /// What it is called, and that it goes from here to there.
    goes: &'static str,
    zero: &'static str,
    longest_s: u32,
}

/// Times under `[flows.timeouts]`.
pub(in crate::rules) const FLOW_TIMEOUT: Use = Use {
    goes: "timeouts go",
    zero: "with a timeout of 0 every flow would be forgotten at once",
    longest_s: Flows::MAX_TIMEOUT_S,
};

/// `within` of a `ban`.
pub(in crate::rules) const BAN_WITHIN: Use = Use {
    goes: "`within` goes",
    zero: "no packets come within no time, so nobody would ever be banned",
    longest_s: BanAfter::MAX_WITHIN_S,
};

/// `for` of a `ban`.
pub(in crate::rules) const BAN_FOR: Use = Use {
    goes: "`for` goes",
    zero: "a ban for no time would keep nobody out",
    longest_s: BanAfter::MAX_FOR_S,
};

/// The time of `firewall ban --for`.
pub(in crate::rules) const BAN_COMMAND: Use = Use {
    goes: "the time of a ban goes",
    zero: "a ban for no time would keep nobody out",
    longest_s: BanAfter::MAX_FOR_S,
};

/// The time of `--confirm`.
pub(in crate::rules) const TRIAL: Use = Use {
    goes: "the time to confirm goes",
    zero: "what has to be confirmed within no time is never in force",
    longest_s: BanAfter::MAX_FOR_S,
};

/// For how long a command tells of packets.
pub(in crate::rules) const TELLING: Use = Use {
    goes: "the time goes",
    zero: "no packets come within no time",
    longest_s: BanAfter::MAX_FOR_S,
};

/// A time in seconds.
pub(in crate::rules) fn time_s(scalar: &Scalar, what: &Use) -> Result<u32, Complaint> {
    const HELP: &str =
        "write a number of seconds, or one with s, m, h or d: \"90s\", \"5m\", \"2h\", \"5d\"";
    let text = match scalar {
        Scalar::Number(number) => return in_bounds(number.unwrap_or(i64::MAX), what),
        Scalar::Text(text) => text,
    };
    if let Some(seconds) = digits(text) {
        return in_bounds(seconds, what);
    }
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, word) = text.split_at(unit_at);
    let Some(number) = digits(number) else {
        return Err((format!("{} is not a time", quoted(text)), HELP.to_owned()));
    };
    match Unit::meant_by(word) {
        Some(unit) if unit.name == word => {
            in_bounds(number.saturating_mul(unit.seconds.into()), what)
        }
        meant => {
            let help = meant.map_or_else(
                || HELP.to_owned(),
                |unit| format!("write \"{number}{}\"", unit.name),
            );
            Err((format!("{} is not a time", quoted(text)), help))
        }
    }
}

fn in_bounds(seconds: i64, what: &Use) -> Result<u32, Complaint> {
    let days = what.longest_s / 86_400;
    let help = format!("{} from \"1s\" to \"{days}d\"", what.goes);
    match u32::try_from(seconds) {
        Ok(0) => Err((what.zero.to_owned(), help)),
        Ok(seconds) if seconds <= what.longest_s => Ok(seconds),
        _ if seconds < 0 => Err(("this is not a time".to_owned(), help)),
        _ if days == 1 => Err(("this is longer than a day".to_owned(), help)),
        _ => Err((format!("this is longer than {days} days"), help)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_near_misses() {
        let of = |text: &str| time_s(&Scalar::Text(text.to_owned()), &FLOW_TIMEOUT);
        for (text, seconds) in [
            ("1s", 1),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("365d", 31_536_000),
            ("8760h", 31_536_000),
        ] {
            assert_eq!(of(text), Ok(seconds), "{text}");
        }
        assert_eq!(time_s(&Scalar::Number(Some(1)), &FLOW_TIMEOUT), Ok(1));
        for text in [
            "",
            "0",
            "0d",
            "s",
            "-1s",
            "1.5h",
            "1h30m",
            "90 s",
            "90S",
            "500ms",
            "2w",
            "366d",
            "99999999999999999999d",
            "5é",
            "٣s",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
        for number in [Some(0), Some(-1), Some(31_536_001), None] {
            assert!(
                time_s(&Scalar::Number(number), &FLOW_TIMEOUT).is_err(),
                "{number:?}"
            );
        }
        assert_eq!(of("5 minutes").unwrap_err().1, "write \"5m\"");
        assert_eq!(of("5D").unwrap_err().1, "write \"5d\"");
    }

    #[test]
    fn each_use_has_its_longest_time() {
        let of = |text: &str, what| time_s(&Scalar::Text(text.to_owned()), what);
        assert_eq!(of("1d", &BAN_WITHIN), Ok(86_400));
        assert_eq!(
            of("86401", &BAN_WITHIN).unwrap_err(),
            (
                "this is longer than a day".to_owned(),
                "`within` goes from \"1s\" to \"1d\"".to_owned()
            )
        );
        assert_eq!(of("365d", &BAN_FOR), Ok(31_536_000));
        assert!(
            of("366d", &BAN_FOR)
                .unwrap_err()
                .1
                .starts_with("`for` goes")
        );
        assert!(of("0s", &BAN_FOR).unwrap_err().0.starts_with("a ban"));
    }
}
