//! Rates, such as `200/s`, and bursts: numbers, of bytes also with a suffix.

use super::super::model::{Limit, Rate, Unit};
use super::super::shown::quoted;
use super::super::typed::Scalar;
use super::amounts::Amount;
use super::{Complaint, times};

/// The `rate` of a limit. `unit` is `None` if it was wrong, which has been said.
pub(in crate::rules) fn limit_rate(scalar: &Scalar, unit: Option<Unit>) -> Result<Rate, Complaint> {
    match unit {
        None => rate(scalar, Suffixes::Allowed),
        Some(Unit::Packets | Unit::Connections) => rate(scalar, Suffixes::OfBytes),
        Some(Unit::Bytes) => {
            let (amount, time) = written_rate(scalar, Suffixes::Allowed)?;
            if amount < time.seconds.into() {
                let help = format!("write at least \"{}/{}\"", time.seconds, time.name);
                return Err(("this is less than a byte a second".to_owned(), help));
            }
            Ok(per(amount, time))
        }
    }
}

/// The rate of SYNs from which on they are answered with cookies.
pub(in crate::rules) fn syn_rate(scalar: &Scalar) -> Result<Rate, Complaint> {
    rate(scalar, Suffixes::None)
}

/// Whether a number may have a suffix.
#[derive(Clone, Copy, PartialEq)]
enum Suffixes {
    /// It counts bytes.
    Allowed,
    /// It would have to count bytes.
    OfBytes,
    None,
}

fn rate(scalar: &Scalar, suffixes: Suffixes) -> Result<Rate, Complaint> {
    written_rate(scalar, suffixes).map(|(amount, time)| per(amount, time))
}

fn per(amount: u64, time: &times::Unit) -> Rate {
    Rate {
        amount,
        per_s: time.seconds,
    }
}

fn written_rate(
    scalar: &Scalar,
    suffixes: Suffixes,
) -> Result<(u64, &'static times::Unit), Complaint> {
    let text = match scalar {
        Scalar::Number(number) => return Err(without_time(number.filter(|n| *n > 0))),
        Scalar::Text(text) => text,
    };
    let parts = text.split_once('/').or_else(|| text.split_once(" per "));
    let Some((number, time)) = parts else {
        return Err(match Amount::read(text) {
            Some(amount) if suffixes == Suffixes::Allowed => without_time(Some(amount.plain)),
            Some(amount) => without_time(Some(amount.number)),
            None => no_rate(text, suffixes),
        });
    };
    let (amount, time) = Amount::read(number.trim())
        .zip(times::Unit::meant_by(time))
        .ok_or_else(|| no_rate(text, suffixes))?;
    let time_name = time.name;
    if amount.of_bytes && suffixes != Suffixes::Allowed {
        let plain = format!("write \"{}/{time_name}\"", amount.number);
        return Err(suffixed(text, plain, suffixes));
    }
    let plain = format!("{}/{time_name}", amount.plain);
    if *text != plain {
        let message = format!("{} is not how a rate is written", quoted(text));
        return Err((message, format!("write \"{plain}\"")));
    }
    if amount.number == 0 {
        let help = "write how many there may be at least, such as \"1/s\" or \"1/h\"";
        return Err(("a rate cannot be 0".to_owned(), help.to_owned()));
    }
    let most = Rate::MAX_A_SECOND;
    if amount.number > most * u64::from(time.seconds) {
        let message = format!("this is more than {most} a second, which no network card brings");
        return Err((message, "write a lower rate".to_owned()));
    }
    Ok((amount.number, time))
}

fn without_time(number: Option<impl std::fmt::Display>) -> Complaint {
    let help = number.map_or_else(
        || "write how many in which time, such as \"200/s\"".to_owned(),
        |number| format!("write \"{number}/s\""),
    );
    ("this rate does not say in which time".to_owned(), help)
}

fn no_rate(text: &str, suffixes: Suffixes) -> Complaint {
    let examples = match suffixes {
        Suffixes::Allowed => "\"500k/s\", \"10M/s\", \"60MiB/m\"",
        Suffixes::OfBytes | Suffixes::None => "\"200/s\", \"10/m\", \"500/h\"",
    };
    let help = format!("write how many in which time, one of s, m, h and d: {examples}");
    (format!("{} is not a rate", quoted(text)), help)
}

/// Complains about a suffix of something that does not count bytes; `plain` says how to do without.
fn suffixed(text: &str, plain: String, suffixes: Suffixes) -> Complaint {
    let help = match suffixes {
        Suffixes::OfBytes => format!("{plain}, or add unit = \"bytes\""),
        Suffixes::Allowed | Suffixes::None => plain,
    };
    let message = format!(
        "{} has a suffix, which only a number of bytes can have",
        quoted(text)
    );
    (message, help)
}

/// The `burst` of a limit. `rate` and `unit` are `None` if they were wrong, which has been said.
pub(in crate::rules) fn burst(
    scalar: &Scalar,
    rate: Option<Rate>,
    unit: Option<Unit>,
) -> Result<u64, Complaint> {
    let burst = written_burst(scalar, unit)?;
    let (least, most) = burst_bounds(unit);
    let refuse = |message: String, help: String| Err((message, help));
    if burst < least && unit == Some(Unit::Bytes) {
        let message = format!("a full frame has {least} bytes and would never pass");
        return refuse(message, format!("write at least {least}"));
    }
    if burst < least {
        let message = "with this burst nothing would ever pass".to_owned();
        return refuse(message, format!("write at least {least}"));
    }
    if burst > most {
        let message = "this burst is larger than there can be".to_owned();
        return refuse(message, format!("write at most {most}"));
    }
    let filled = rate.map_or(most, |rate| fills_in_time(rate).min(most));
    if burst > filled {
        let message = format!(
            "at this rate it would take more than {} years until such a burst could come again",
            Limit::MAX_FILL_S / (365 * 86_400)
        );
        return refuse(message, format!("write at most {filled}, or a higher rate"));
    }
    Ok(burst)
}

/// The burst of a limit that says none: what comes in within a second, but never less than one packet.
pub(in crate::rules) fn usual_burst(rate: Rate, unit: Unit) -> u64 {
    let (least, most) = burst_bounds(Some(unit));
    let least = match unit {
        Unit::Packets | Unit::Connections => least,
        Unit::Bytes => Limit::MIN_USUAL_BURST_BYTES,
    };
    rate.in_seconds(1).clamp(least, most)
}

/// Least and largest burst of a unit.
fn burst_bounds(unit: Option<Unit>) -> (u64, u64) {
    /// Largest burst in bytes, a minute and a half at 100 Gbit/s.
    const MOST_BYTES: u64 = 1 << 40;
    match unit {
        Some(Unit::Packets | Unit::Connections) => (1, u32::MAX.into()),
        Some(Unit::Bytes) => (Limit::MIN_BURST_BYTES, MOST_BYTES),
        None => (1, MOST_BYTES),
    }
}

/// Largest burst that a bucket of this rate is filled with in [`Limit::MAX_FILL_S`].
fn fills_in_time(rate: Rate) -> u64 {
    let all = u128::from(rate.amount) * u128::from(Limit::MAX_FILL_S) / u128::from(rate.per_s);
    u64::try_from(all).unwrap_or(u64::MAX)
}

fn written_burst(scalar: &Scalar, unit: Option<Unit>) -> Result<u64, Complaint> {
    let text = match scalar {
        // One too large for anything is as good as the largest, one below zero as zero.
        Scalar::Number(number) => return Ok(number.map_or(u64::MAX, |n| n.max(0).cast_unsigned())),
        Scalar::Text(text) => text,
    };
    let number = text.split_once('/').map_or(&text[..], |(number, _)| number);
    let bytes = matches!(unit, Some(Unit::Bytes) | None);
    let Some(amount) = Amount::read(number.trim()) else {
        let help = if bytes {
            "write a number, such as 100000, \"100k\" or \"1MiB\""
        } else {
            "write a number, such as 400"
        };
        let message = format!("{} is not a burst", quoted(text));
        return Err((message, help.to_owned()));
    };
    if amount.of_bytes && !bytes {
        let plain = format!("write {}", amount.number);
        return Err(suffixed(text, plain, Suffixes::OfBytes));
    }
    if *text != amount.plain {
        let message = format!("{} is not how a burst is written", quoted(text));
        return Err((message, format!("write \"{}\"", amount.plain)));
    }
    Ok(amount.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Option<Unit>; 4] = [
        Some(Unit::Packets),
        Some(Unit::Bytes),
        Some(Unit::Connections),
        None,
    ];

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.to_owned())
    }

    fn of(amount: u64, per_s: u32) -> Rate {
        Rate { amount, per_s }
    }

    fn help<T>(result: Result<T, Complaint>) -> String {
        result.err().expect("accepted").1
    }

    #[test]
    fn rates_and_near_misses() {
        for (written, rate) in [
            ("200/s", of(200, 1)),
            ("86400/d", of(86_400, 86_400)),
            ("60/m", of(60, 60)),
            ("3600/h", of(3600, 3600)),
            ("100000000000/s", of(100_000_000_000, 1)),
            ("8640000000000000/d", of(8_640_000_000_000_000, 86_400)),
        ] {
            for unit in ALL {
                assert_eq!(limit_rate(&text(written), unit), Ok(rate), "{written}");
            }
            assert_eq!(syn_rate(&text(written)), Ok(rate), "{written}");
        }
        for written in [
            "",
            "/",
            "/s",
            "200",
            "200/",
            "200/w",
            "200/2s",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1_000/s",
            "200 /s",
            "200/ s",
            "200/sec",
            "200/S",
            "200/s/s",
            "100000000001/s",
            "8640000000000001/d",
            "99999999999999999999/s",
            "99999999999999999999G/s",
            "٣/s",
            "200/é",
        ] {
            for unit in ALL {
                assert!(limit_rate(&text(written), unit).is_err(), "{written}");
            }
            assert!(syn_rate(&text(written)).is_err(), "{written}");
        }
        for number in [Some(200), Some(0), Some(-1), None] {
            assert!(syn_rate(&Scalar::Number(number)).is_err());
        }
        for (written, meant) in [
            ("200", "200/s"),
            ("200/sec", "200/s"),
            ("200 / Minute", "200/m"),
            ("200 per hour", "200/h"),
            ("200/day", "200/d"),
        ] {
            let wanted = format!("write \"{meant}\"");
            assert_eq!(help(syn_rate(&text(written))), wanted);
        }
        assert_eq!(
            help(syn_rate(&Scalar::Number(Some(200)))),
            "write \"200/s\""
        );
    }

    #[test]
    fn bytes_have_suffixes() {
        let bytes = Some(Unit::Bytes);
        for (written, amount) in [
            ("10k/s", 10_000),
            ("10M/s", 10_000_000),
            ("10G/s", 10_000_000_000),
            ("10KiB/s", 10_240),
            ("10MiB/s", 10_485_760),
            ("10GiB/s", 10_737_418_240),
        ] {
            assert_eq!(limit_rate(&text(written), bytes), Ok(of(amount, 1)));
            let packets = limit_rate(&text(written), Some(Unit::Packets));
            let wanted = format!("write \"{amount}/s\", or add unit = \"bytes\"");
            assert_eq!(help(packets), wanted);
            let wanted = format!("write \"{amount}/s\"");
            assert_eq!(help(syn_rate(&text(written))), wanted);
        }
        for (written, meant) in [
            ("10K/s", "10k/s"),
            ("10MB/s", "10M/s"),
            ("10 MB/s", "10M/s"),
            ("10m/s", "10M/s"),
            ("10GB/h", "10G/h"),
            ("10Mi/s", "10MiB/s"),
            ("10bytes/s", "10/s"),
            ("10Mbit/s", "1250000/s"),
            ("1 Gbit/s", "125000000/s"),
            ("800 bits/s", "100/s"),
            ("10M", "10M/s"),
        ] {
            let wanted = format!("write \"{meant}\"");
            assert_eq!(help(limit_rate(&text(written), bytes)), wanted, "{written}");
        }
        for written in ["10Mb/s", "10T/s", "10 k i/s", "M/s", "59/m", "86399/d"] {
            assert!(limit_rate(&text(written), bytes).is_err(), "{written}");
        }
    }

    #[test]
    fn bursts_and_near_misses() {
        let (packets, bytes) = (Some(Unit::Packets), Some(Unit::Bytes));
        let rate = Some(of(200, 1));
        assert_eq!(burst(&text("400"), rate, packets), Ok(400));
        for (number, unit, good) in [
            (1, packets, true),
            (0, packets, false),
            (-1, packets, false),
            (4_294_967_295, packets, true),
            (4_294_967_296, packets, false),
            (4_294_967_296, Some(Unit::Connections), false),
            (1514, bytes, true),
            (1513, bytes, false),
            (1 << 36, bytes, false),
            (i64::MAX, None, false),
        ] {
            let read = burst(&Scalar::Number(Some(number)), rate, unit);
            assert_eq!(read.ok(), good.then_some(number as u64), "{number}");
        }
        let fast = Some(of(1 << 20, 1));
        assert_eq!(
            burst(&Scalar::Number(Some(1 << 40)), fast, bytes),
            Ok(1 << 40)
        );
        assert!(burst(&Scalar::Number(Some((1 << 40) + 1)), fast, bytes).is_err());
        assert!(burst(&Scalar::Number(None), rate, packets).is_err());
        assert_eq!(burst(&text("1M"), rate, bytes), Ok(1_000_000));
        assert_eq!(burst(&text("1M"), None, None), Ok(1_000_000));
        assert_eq!(
            help(burst(&text("1M"), rate, packets)),
            "write 1000000, or add unit = \"bytes\""
        );
        assert_eq!(help(burst(&text("1MB"), rate, bytes)), "write \"1M\"");
        assert_eq!(help(burst(&text("400/s"), rate, packets)), "write \"400\"");
        for written in ["", "many", "-1", "4e2", "400 packets"] {
            assert!(burst(&text(written), rate, packets).is_err(), "{written}");
        }
    }

    #[test]
    fn a_bucket_is_full_again_within_ten_years() {
        let days = |n| burst(&Scalar::Number(Some(n)), Some(of(1, 86_400)), ALL[0]);
        assert_eq!(days(3650), Ok(3650));
        assert_eq!(help(days(3651)), "write at most 3650, or a higher rate");
    }

    #[test]
    fn a_usual_burst_is_a_second_long() {
        assert_eq!(usual_burst(of(200, 1), Unit::Packets), 200);
        assert_eq!(usual_burst(of(90, 60), Unit::Packets), 2);
        assert_eq!(usual_burst(of(1, 86_400), Unit::Connections), 1);
        assert_eq!(usual_burst(of(10_000_000, 1), Unit::Bytes), 10_000_000);
        for (rate, burst) in [(1, 65_558), (65_558, 65_558), (65_559, 65_559)] {
            assert_eq!(usual_burst(of(rate, 1), Unit::Bytes), burst);
        }
        let most = of(Rate::MAX_A_SECOND, 1);
        assert_eq!(usual_burst(most, Unit::Packets), u64::from(u32::MAX));
        assert_eq!(usual_burst(most, Unit::Bytes), Rate::MAX_A_SECOND);
        // What is usual is never refused.
        for rate in [of(1, 1), of(1, 86_400), of(1, 60), most] {
            for unit in ALL.into_iter().flatten() {
                let usual = usual_burst(rate, unit);
                if unit == Unit::Bytes && rate.amount < rate.per_s.into() {
                    continue;
                }
                let written = Scalar::Number(Some(usual.try_into().unwrap()));
                assert_eq!(burst(&written, Some(rate), Some(unit)), Ok(usual));
            }
        }
    }
}
