//! Single values of a rule: ports, ranges of them and ICMP types, by number or name.

use super::names::{self, IcmpFamily, closest};
use super::shown::quoted;
use super::typed::Scalar;

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
    let ends = text
        .split_once('-')
        .or_else(|| text.split_once(".."))
        .or_else(|| text.split_once(':'));
    if let Some((first, last)) = ends
        && let (Some(first), Some(last)) = (digits(first.trim()), digits(last.trim()))
    {
        if first > last {
            return Err((
                format!("the range {} is reversed", quoted(text)),
                format!("write \"{last}-{first}\""),
            ));
        }
        let range = (port(first)?, port(last)?);
        if *text != format!("{first}-{last}") {
            let message = format!("{} is not how a range of ports is written", quoted(text));
            return Err((message, format!("write \"{first}-{last}\"")));
        }
        return Ok(range);
    }
    let help = closest(text, names::service_names()).map_or_else(
        || "write its number; the names known are those of common services, such as ssh, https or domain".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    Err((format!("there is no service called {}", quoted(text)), help))
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
