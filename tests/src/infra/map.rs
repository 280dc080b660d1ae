//! The map of who may talk to whom, as the probes saw it.

use std::collections::BTreeSet;

use comfy_table::{ContentArrangement, Table, TableComponent, presets::UTF8_HORIZONTAL_ONLY};

use super::design::{Fate, Role, SERVICES, fate};
use super::probe::Seen;

/// Rows of the map.
const FROM: &[Role] = &[
    Role::Internet,
    Role::Office,
    Role::Balancer,
    Role::Web,
    Role::Application,
    Role::Primary,
    Role::Replica,
    Role::Monitoring,
];

/// Columns of the map, with the machines behind each.
const TO: &[(&str, &[Role])] = &[
    ("balancer", &[Role::Balancer]),
    ("web", &[Role::Web]),
    ("application", &[Role::Application]),
    ("primary", &[Role::Primary]),
    ("replica", &[Role::Replica]),
    ("monitoring", &[Role::Monitoring]),
    ("dns, ntp, mirror", &[Role::Names, Role::Time, Role::Mirror]),
    ("outside", &[Role::Internet, Role::Office]),
];

/// How wide the map may be, in characters.
const WIDTH: u16 = 132;

/// The map as a table: rows from, columns to, in the cells the services that were reached. What was reached in part only
/// (not on all machines of the role, or not over both families) has a question mark.
pub fn table(seen: &[Seen]) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .remove_style(TableComponent::HorizontalLines)
        .remove_style(TableComponent::MiddleIntersections)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table.set_header(std::iter::once("from \\ to").chain(TO.iter().map(|(name, _)| *name)));
    for from in FROM {
        let cells = TO.iter().map(|(_, roles)| cell(seen, *from, roles));
        table.add_row(std::iter::once(from.name().to_owned()).chain(cells));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// The services that `from` has reached.
fn cell(seen: &[Seen], from: Role, to: &[Role]) -> String {
    let mut names = Vec::new();
    let mut tried = 0;
    for service in SERVICES {
        let mut some = false;
        let mut part = false;
        for role in to {
            let of_these = seen.iter().filter(|one| {
                one.from.role == from && one.to.role == *role && one.service.name == service.name
            });
            let results: BTreeSet<bool> = of_these.map(|one| one.reached).collect();
            tried += results.len();
            some |= results.contains(&true);
            part |= results.len() > 1;
        }
        if some {
            names.push(format!("{}{}", service.name, if part { "?" } else { "" }));
        }
    }
    if names.len() == SERVICES.len() {
        "everything".to_owned()
    } else if tried == 0 {
        String::new()
    } else if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(" ")
    }
}

/// Whether the design says that this is reached.
pub fn is_designed(one: &Seen) -> bool {
    fate(one.from.role, one.to.role, one.service) == Fate::Served
}

/// What is otherwise than designed, a sentence each.
pub fn differences(seen: &[Seen]) -> Vec<String> {
    let mut differences = Vec::new();
    for one in seen {
        if is_designed(one) != one.reached {
            differences.push(format!(
                "{} {} {} of {} over {}",
                one.from.name,
                if one.reached {
                    "reaches"
                } else {
                    "does not reach"
                },
                one.service.name,
                one.to.name,
                if one.v6 { "IPv6" } else { "IPv4" },
            ));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::design::SERVERS;

    /// Everything as designed, but what `change` makes of it.
    fn seen(change: impl Fn(&mut Seen)) -> Vec<Seen> {
        let mut all = Vec::new();
        for from in SERVERS {
            for to in SERVERS.iter().filter(|to| to.name != from.name) {
                for service in SERVICES {
                    let mut one = Seen {
                        from,
                        to,
                        service,
                        v6: false,
                        reached: fate(from.role, to.role, service) == Fate::Served,
                    };
                    change(&mut one);
                    all.push(one);
                }
            }
        }
        all
    }

    #[test]
    fn what_is_as_designed_makes_no_difference() {
        assert_eq!(differences(&seen(|_| {})), [""; 0]);
    }

    #[test]
    fn a_hole_and_a_break_are_told_and_marked() {
        let broken = seen(|one| match (one.from.name, one.to.name, one.service.name) {
            ("web2", "db1", "mysql") => one.reached = true,
            ("lb1", "web2", "http") => one.reached = false,
            _ => {}
        });
        assert_eq!(
            differences(&broken),
            [
                "lb1 does not reach http of web2 over IPv4",
                "web2 reaches mysql of db1 over IPv4"
            ]
        );
        let table = table(&broken);
        assert!(
            table.contains("http?") && table.contains("mysql?"),
            "{table}"
        );
    }
}
