//! Single values: ports, ranges of them, VLANs and ICMP types, by number or name; sizes, times ([`times`]) and rates
//! ([`rates`]).

mod amounts;
mod protocols;
pub(super) mod rates;
pub(super) mod times;

use super::model::{BanAfter, Bans, Flows, Limits, Vlans};
use super::names::{self, IcmpFamily, closest};
use super::shown::quoted;
use super::typed::Scalar;

pub(super) use protocols::{protocol, tcp_flag};

/// What is wrong with a value, and what to write instead.
pub(super) type Complaint = (String, String);

/// One entry of `ports`.
pub(super) fn port_range(scalar: &Scalar) -> Result<(u16, u16), Complaint> {
    let text = match scalar {
        Scalar::Number(number) => {
            return number
                .map_or_else(|| port(-1), port)
                .map(|port| (port, port));
        }
        Scalar::Text(text) => text,
    };
    if let Some(number) = digits(text) {
        return port(number).map(|port| (port, port));
    }
    if let Some(known) = names::service_port(text) {
        return Ok((known, known));
    }
    if let Some(range) = written_range(text, port) {
        return range;
    }
    let help = closest(text, names::service_names()).map_or_else(
        || "write its number; the names known are those of common services, such as ssh, https or domain".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    Err((format!("there is no service called {}", quoted(text)), help))
}

/// Two numbers with something between that makes them a range, each checked by `number`; `None` if it is not that.
fn written_range(
    text: &str,
    number: impl Fn(i64) -> Result<u16, Complaint>,
) -> Option<Result<(u16, u16), Complaint>> {
    let (first, last) = text
        .split_once('-')
        .or_else(|| text.split_once(".."))
        .or_else(|| text.split_once(':'))?;
    let (first, last) = (digits(first.trim())?, digits(last.trim())?);
    if first > last {
        return Some(Err((
            format!("the range {} is reversed", quoted(text)),
            format!("write \"{last}-{first}\""),
        )));
    }
    let range = number(first).and_then(|first| Ok((first, number(last)?)));
    if range.is_ok() && *text != format!("{first}-{last}") {
        let message = format!("{} is not how a range is written", quoted(text));
        return Some(Err((message, format!("write \"{first}-{last}\""))));
    }
    Some(range)
}

/// One entry of `ids` under `[vlans]`.
pub(super) fn vlan_range(scalar: &Scalar) -> Result<(u16, u16), Complaint> {
    let text = match scalar {
        Scalar::Number(number) => return vlan(number.unwrap_or(-1)).map(|id| (id, id)),
        Scalar::Text(text) => text,
    };
    if let Some(number) = digits(text) {
        return vlan(number).map(|id| (id, id));
    }
    written_range(text, vlan).unwrap_or_else(|| {
        Err((
            format!("{} is not a VLAN id", quoted(text)),
            "write a number such as 10, or a range such as \"20-29\"".to_owned(),
        ))
    })
}

fn vlan(number: i64) -> Result<u16, Complaint> {
    match u16::try_from(number) {
        Ok(0) => Err((
            "0 is not a VLAN: it marks frames of none".to_owned(),
            "write untagged = true for them, which is so unless you say otherwise".to_owned(),
        )),
        Ok(id) if id <= Vlans::MAX_ID => Ok(id),
        _ => Err((
            "this is not a VLAN id".to_owned(),
            format!("VLAN ids go from 1 to {}", Vlans::MAX_ID),
        )),
    }
}

fn port(number: i64) -> Result<u16, Complaint> {
    match u16::try_from(number) {
        Ok(0) => Err((
            "port 0 is in no valid packet: those that carry it are dropped before any rule"
                .to_owned(),
            "ports go from 1 to 65535".to_owned(),
        )),
        Ok(port) => Ok(port),
        Err(_) => Err((
            "this is not a port".to_owned(),
            "ports go from 1 to 65535".to_owned(),
        )),
    }
}

/// One entry of `icmp-types`; nothing if it is a name and the family is not known, because the protocol was wrong.
pub(super) fn icmp_type(
    scalar: &Scalar,
    family: Option<IcmpFamily>,
) -> Result<Option<u8>, Complaint> {
    let not_a_type = || {
        (
            "this is not an ICMP type".to_owned(),
            "ICMP types go from 0 to 255".to_owned(),
        )
    };
    let by_number = |n: i64| u8::try_from(n).map(Some).map_err(|_| not_a_type());
    let name = match scalar {
        Scalar::Number(number) => return by_number(number.ok_or_else(not_a_type)?),
        Scalar::Text(name) => name,
    };
    if let Some(number) = digits(name) {
        return by_number(number);
    }
    let Some(family) = family else {
        return Ok(None);
    };
    if let Some(number) = family.type_number(name) {
        return Ok(Some(number));
    }
    let (own, other, other_protocol) = match family {
        IcmpFamily::V4 => ("ICMP", IcmpFamily::V6, "icmpv6"),
        IcmpFamily::V6 => ("ICMPv6", IcmpFamily::V4, "icmp"),
    };
    let message = format!("there is no {own} type called {}", quoted(name));
    let help = if other.type_number(name).is_some() {
        format!(
            "it is a type of {other_protocol}: write a rule with protocol = \"{other_protocol}\" for it"
        )
    } else if let Some(near) = closest(name, family.type_names()) {
        format!("did you mean \"{near}\"?")
    } else {
        let names: Vec<&str> = family.type_names().collect();
        format!(
            "write a number from 0 to 255, or one of {}",
            names.join(", ")
        )
    };
    Err((message, help))
}

/// A table whose size a file says, in the words of what is wrong with it.
pub(super) struct Table {
    least: u32,
    most: u32,
    called: &'static str,
    wanted: &'static str,
}

/// `size` under `[flows]`.
pub(super) const FLOW_TABLE: Table = Table {
    least: Flows::MIN_SIZE,
    most: Flows::MAX_SIZE,
    called: "the flow table",
    wanted: "how many flows are to be followed at once",
};

/// `size` under `[limits]`.
pub(super) const SOURCE_TABLE: Table = Table {
    least: Limits::MIN_SIZE,
    most: Limits::MAX_SIZE,
    called: "the table of sources",
    wanted: "how many sources are to be followed at once",
};

/// `size` under `[bans]`.
pub(super) const BAN_TABLE: Table = Table {
    least: Bans::MIN_SIZE,
    most: Bans::MAX_SIZE,
    called: "the table of bans",
    wanted: "how many bans there can be at once",
};

/// The `size` of a table.
pub(super) fn table_size(number: Option<i64>, table: &Table) -> Result<u32, Complaint> {
    let Table {
        least,
        most,
        called,
        wanted,
    } = table;
    within(number, *least, *most).ok_or_else(|| {
        (
            format!("{called} cannot have this size"),
            format!("write {wanted}, from {least} to {most}"),
        )
    })
}

/// How many bits of an address make a source's prefix.
pub(super) fn prefix_bits(number: Option<i64>, most: u8, family: &str) -> Result<u8, Complaint> {
    within(number, 1, most.into())
        .and_then(|bits| u8::try_from(bits).ok())
        .ok_or_else(|| {
            (
                format!("this is not how many bits of an {family} address a prefix has"),
                format!("write a number from 1 to {most}, without `/`"),
            )
        })
}

/// After how many packets a source is banned.
pub(super) fn ban_after(number: Option<i64>) -> Result<u32, Complaint> {
    let most = BanAfter::MAX_AFTER;
    within(number, 1, most).ok_or_else(|| {
        (
            "a ban cannot come after this many packets".to_owned(),
            format!("write a number from 1 to {most}"),
        )
    })
}

fn within(number: Option<i64>, least: u32, most: u32) -> Option<u32> {
    let number = u32::try_from(number?).ok()?;
    (least..=most).contains(&number).then_some(number)
}

/// The number that a text of digits and nothing else stands for; one too large for anything is as good as the largest.
pub(super) fn digits(text: &str) -> Option<i64> {
    let numeric = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| text.parse().unwrap_or(i64::MAX))
}

pub(super) fn protocol_text(number: u8) -> String {
    names::protocol_name(number).map_or_else(|| format!("protocol {number}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<(u16, u16), Complaint> {
        port_range(&Scalar::Text(text.to_owned()))
    }

    #[test]
    fn ports_and_near_misses() {
        assert_eq!(range("22"), Ok((22, 22)));
        assert_eq!(range("ssh"), Ok((22, 22)));
        assert_eq!(range("kerberos-adm"), Ok((749, 749)));
        assert_eq!(range("1-65535"), Ok((1, 65535)));
        assert_eq!(range("7-7"), Ok((7, 7)));
        assert_eq!(port_range(&Scalar::Number(Some(65535))), Ok((65535, 65535)));
        for text in [
            "0",
            "65536",
            "99999999999999999999",
            "2-1",
            "0-1",
            "1-",
            "-1",
            "1:2",
            "1..2",
            "01-2",
            "ssh-http",
            "",
            "é",
        ] {
            assert!(range(text).is_err(), "{text}");
        }
        for number in [Some(0), Some(-1), Some(65536), None] {
            assert!(port_range(&Scalar::Number(number)).is_err(), "{number:?}");
        }
        assert_eq!(range("1..20").unwrap_err().1, "write \"1-20\"");
        assert_eq!(range("20:1").unwrap_err().1, "write \"1-20\"");
    }

    #[test]
    fn sizes_of_tables() {
        for size in [1024, 1025, 65_536, 8_388_608] {
            assert_eq!(table_size(Some(size), &FLOW_TABLE), Ok(size as u32));
        }
        for size in [Some(1023), Some(8_388_609), Some(0), Some(-1), None] {
            assert!(table_size(size, &FLOW_TABLE).is_err(), "{size:?}");
        }
        for table in [SOURCE_TABLE, BAN_TABLE] {
            for size in [1024, 4_194_304] {
                assert_eq!(table_size(Some(size), &table), Ok(size as u32));
            }
            for size in [Some(1023), Some(4_194_305), Some(1 << 32 | 1024), None] {
                assert!(table_size(size, &table).is_err(), "{size:?}");
            }
        }
    }

    #[test]
    fn prefixes_and_counts_of_bans() {
        assert_eq!(prefix_bits(Some(1), 32, "IPv4"), Ok(1));
        assert_eq!(prefix_bits(Some(32), 32, "IPv4"), Ok(32));
        assert_eq!(prefix_bits(Some(128), 128, "IPv6"), Ok(128));
        for bits in [Some(0), Some(33), Some(-1), Some(256 + 24), None] {
            assert!(prefix_bits(bits, 32, "IPv4").is_err(), "{bits:?}");
        }
        assert_eq!(ban_after(Some(1)), Ok(1));
        assert_eq!(ban_after(Some(4000)), Ok(4000));
        for count in [Some(0), Some(4001), Some(-1), None] {
            assert!(ban_after(count).is_err(), "{count:?}");
        }
    }

    #[test]
    fn icmp_types_and_near_misses() {
        let of = |text: &str, family| icmp_type(&Scalar::Text(text.to_owned()), family);
        assert_eq!(of("redirect", Some(IcmpFamily::V4)), Ok(Some(5)));
        assert_eq!(of("redirect", Some(IcmpFamily::V6)), Ok(Some(137)));
        assert_eq!(of("255", None), Ok(Some(255)));
        assert_eq!(of("no matter", None), Ok(None));
        assert!(of("256", None).is_err());
        assert!(
            of("echo-reqest", Some(IcmpFamily::V4))
                .unwrap_err()
                .1
                .contains("echo-request")
        );
        assert!(
            of("timestamp-reply", Some(IcmpFamily::V6))
                .unwrap_err()
                .1
                .contains("protocol = \"icmp\"")
        );
        assert!(
            of("qqqqq", Some(IcmpFamily::V6))
                .unwrap_err()
                .1
                .contains("packet-too-big")
        );
    }
}
