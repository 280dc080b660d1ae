//! Protocols and TCP flags, by name or number.

use super::super::model::Protocol;
use super::super::names::{self, closest};
use super::super::shown::quoted;
use super::super::typed::Scalar;
use super::{Complaint, digits};

/// A protocol, or `any` for all of them.
pub(in crate::rules) fn protocol(scalar: &Scalar) -> Result<Protocol, Complaint> {
    let name = match scalar {
        Scalar::Text(name) if name == "any" => return Ok(Protocol::Any),
        Scalar::Text(name) => name,
        Scalar::Number(number) => {
            let number = number.and_then(|n| u8::try_from(n).ok());
            return number.map(Protocol::Number).ok_or_else(|| {
                (
                    "this is not a protocol number".to_owned(),
                    "protocol numbers go from 0 to 255".to_owned(),
                )
            });
        }
    };
    let number =
        names::protocol_number(name).or_else(|| digits(name).and_then(|n| u8::try_from(n).ok()));
    number.map(Protocol::Number).ok_or_else(|| {
        let near = closest(name, names::protocol_names().chain(["any"]));
        let help = near.map_or_else(
            || {
                "write a name such as tcp, udp, icmp or esp, a number from 0 to 255, or any"
                    .to_owned()
            },
            |near| format!("did you mean \"{near}\"?"),
        );
        let message = format!("there is no protocol called {}", quoted(name));
        (message, help)
    })
}

/// The bit of a TCP flag.
pub(in crate::rules) fn tcp_flag(name: &str) -> Result<u8, Complaint> {
    names::tcp_flag_bit(name).ok_or_else(|| {
        let help = closest(name, names::tcp_flag_names()).map_or_else(
            || {
                let names: Vec<&str> = names::tcp_flag_names().collect();
                format!("the flags are {}", names.join(", "))
            },
            |near| format!("did you mean \"{near}\"?"),
        );
        (
            format!("there is no TCP flag called {}", quoted(name)),
            help,
        )
    })
}
