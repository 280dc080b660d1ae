//! Cards as they are found, and what is said of them.

use super::super::finding::Severity;
use super::*;

const NATIVE: Abilities = Abilities {
    native: true,
    several_buffers: false,
};

/// A card with nothing to be said of it.
fn good() -> Card {
    Card {
        name: "eth0".to_owned(),
        mtu: 1500,
        is_up: true,
        driver: Some("ena".to_owned()),
        abilities: Some(NATIVE),
        queues: Some(Queues {
            combined: 4,
            max_combined: 8,
            ..Queues::default()
        }),
        cpus: 8,
        ..Card::default()
    }
}

/// Check, severity and remedy of all that is said of a card.
fn said(card: &Card) -> Vec<(&'static str, Severity, Option<String>)> {
    let found = judge(card).into_iter();
    found
        .map(|finding| (finding.check, finding.severity, finding.remedy))
        .collect()
}

/// All but that the driver runs programs.
fn wrong(card: &Card) -> Vec<(&'static str, Severity, Option<String>)> {
    let mut said = said(card);
    said.retain(|(_, severity, _)| *severity != Severity::Ok);
    said
}

#[test]
fn of_a_good_card_nothing_is_said_but_that_its_driver_runs_programs() {
    assert_eq!(said(&good()), [("driver", Severity::Ok, None)]);
}

#[test]
fn without_a_native_driver_the_mtu_does_not_matter() {
    let card = Card {
        abilities: Some(Abilities {
            native: false,
            several_buffers: false,
        }),
        mtu: 9000,
        ..good()
    };
    assert_eq!(wrong(&card), [("driver", Severity::Warning, None)]);
    let untold = Card {
        abilities: None,
        ..good()
    };
    assert_eq!(wrong(&untold), [("driver", Severity::Note, None)]);
}

#[test]
fn jumbo_frames_take_a_driver_of_several_buffers() {
    let remedy = "ip link set dev eth0 mtu 3498".to_owned();
    let jumbo = Card {
        mtu: 3499,
        ..good()
    };
    assert_eq!(wrong(&jumbo), [("mtu", Severity::Warning, Some(remedy))]);
    assert_eq!(
        wrong(&Card {
            mtu: 3498,
            ..good()
        }),
        []
    );
    let several = Card {
        mtu: 9000,
        abilities: Some(Abilities {
            several_buffers: true,
            ..NATIVE
        }),
        ..good()
    };
    assert_eq!(wrong(&several), []);
}

#[test]
fn merged_frames_are_in_the_way_where_the_driver_does_not_stop_it_itself() {
    let with = |driver: &str, name, is_fixed| Card {
        driver: Some(driver.to_owned()),
        merging: vec![Switch { name, is_fixed }],
        ..good()
    };
    let remedy = Some("ethtool -K eth0 lro off".to_owned());
    assert_eq!(
        wrong(&with("ixgbe", "lro", false)),
        [("lro", Severity::Warning, remedy)]
    );
    assert_eq!(
        wrong(&with("ixgbe", "lro", true)),
        [("lro", Severity::Warning, None)]
    );
    assert_eq!(
        wrong(&with("virtio_net", "rx-gro-hw", true)),
        [("lro", Severity::Warning, None)]
    );
    assert_eq!(wrong(&with("virtio_net", "rx-gro-hw", false)), []);
    assert_eq!(wrong(&with("bnxt_en", "rx-gro-hw", true)), []);
}

#[test]
fn some_drivers_need_half_of_the_queues_for_themselves() {
    let queues = |driver: &str, combined, max_combined| Card {
        driver: Some(driver.to_owned()),
        queues: Some(Queues {
            combined,
            max_combined,
            ..Queues::default()
        }),
        ..good()
    };
    let remedy = Some("ethtool -L eth0 combined 4".to_owned());
    assert_eq!(
        wrong(&queues("ena", 8, 8)),
        [("queues", Severity::Warning, remedy)]
    );
    assert_eq!(wrong(&queues("ena", 4, 8)), []);
    assert_eq!(wrong(&queues("ice", 8, 8)), []);
    assert_eq!(
        wrong(&queues("ena", 1, 1)),
        [("queues", Severity::Warning, None)]
    );
    let apart = Card {
        driver: Some("gve".to_owned()),
        queues: Some(Queues {
            receive: 16,
            max_receive: 16,
            ..Queues::default()
        }),
        ..good()
    };
    let remedy = Some("ethtool -L eth0 rx 8 tx 8".to_owned());
    assert_eq!(wrong(&apart), [("queues", Severity::Warning, remedy)]);
}

#[test]
fn one_queue_is_worth_a_note_where_there_could_be_more() {
    let one = |max_combined, cpus| Card {
        driver: Some("ice".to_owned()),
        queues: Some(Queues {
            combined: 1,
            max_combined,
            ..Queues::default()
        }),
        cpus,
        ..good()
    };
    let remedy = Some("ethtool -L eth0 combined 4".to_owned());
    assert_eq!(wrong(&one(16, 4)), [("queues", Severity::Note, remedy)]);
    assert_eq!(wrong(&one(1, 4)), [("queues", Severity::Note, None)]);
    assert_eq!(wrong(&one(16, 1)), []);
}

#[test]
fn what_takes_tags_out_is_named_as_ethtool_does() {
    let card = Card {
        stripping: vec!["rxvlan", "rx-vlan-stag-hw-parse"],
        is_up: false,
        ..good()
    };
    let up = Some("ip link set dev eth0 up".to_owned());
    let off = Some("ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off".to_owned());
    let expected = [
        ("link", Severity::Note, up),
        ("vlan-offload", Severity::Note, off),
    ];
    assert_eq!(wrong(&card), expected);
}
