//! Whether an interface takes the program in native mode, and what its card does to frames before.

use std::num::NonZero;
use std::thread::available_parallelism;

use super::finding::Finding;
use crate::kernel::driver::{self, Abilities};
use crate::kernel::interface::Interface;
use crate::kernel::offload::{self, Queues, Switch};

/// Largest MTU that fits into one page of 4 KiB with what drivers put around a frame for XDP (`ENA_XDP_MAX_MTU`,
/// drivers/net/ethernet/amazon/ena/ena_xdp.h; of the others some take a few bytes more).
const MTU_OF_ONE_BUFFER: u32 = 3498;

/// Drivers that need as many queues again for XDP as there are for traffic (`ena_xdp_legal_queue_count`; gve,
/// `verify_xdp_configuration`).
const DOUBLING: [&str; 2] = ["ena", "gve"];

/// The driver that leaves frames merged where its host gives it no way to ask for others (`virtnet_xdp_set`).
const VIRTIO: &str = "virtio_net";

/// Checks whose warnings say that native mode will be refused.
pub(super) const OF_NATIVE: [&str; 4] = ["driver", "mtu", "lro", "queues"];

/// What was found out about an interface.
#[derive(Clone, Debug, Default)]
struct Card {
    name: String,
    mtu: u32,
    is_up: bool,
    driver: Option<String>,
    /// `None` where the kernel does not tell.
    abilities: Option<Abilities>,
    merging: Vec<Switch>,
    stripping: Vec<&'static str>,
    /// `None` for software, and where the driver does not tell.
    queues: Option<Queues>,
    cpus: u32,
}

/// Every finding about the card of `interface`.
pub(super) fn findings(interface: &Interface) -> Vec<Finding> {
    let name = &interface.name;
    let (merging, stripping) = (offload::merging(name), offload::vlan_stripping(name));
    let untold = merging.as_ref().err().map(|error| {
        let text = format!("the kernel does not tell what the card does to frames: {error:#}");
        Finding::note("offloads", text).mended_by(format!("ethtool -k {name}"))
    });
    let queues = interface
        .software
        .is_none()
        .then(|| offload::queues(name).ok());
    let mut findings = judge(&Card {
        name: name.clone(),
        mtu: interface.mtu,
        is_up: interface.is_up,
        driver: driver::name(interface),
        abilities: driver::abilities(interface).ok(),
        merging: merging.unwrap_or_default(),
        stripping: stripping.unwrap_or_default(),
        queues: queues.flatten(),
        cpus: available_parallelism().map_or(1, NonZero::get) as u32,
    });
    findings.extend(untold);
    findings
}

fn judge(card: &Card) -> Vec<Finding> {
    let findings = [
        up(card),
        Some(native(card)),
        mtu(card),
        lro(card),
        queues(card),
        vlan_offload(card),
    ];
    findings.into_iter().flatten().collect()
}

fn up(card: &Card) -> Option<Finding> {
    let name = &card.name;
    (!card.is_up).then(|| {
        Finding::note("link", "the interface is down")
            .mended_by(format!("ip link set dev {name} up"))
    })
}

fn native(card: &Card) -> Finding {
    const CHECK: &str = "driver";
    let driver = match &card.driver {
        Some(driver) => format!("driver {driver}"),
        None => "its driver".to_owned(),
    };
    match card.abilities {
        None => Finding::note(
            CHECK,
            format!("the kernel does not tell whether {driver} runs XDP programs; apply tries"),
        ),
        Some(Abilities { native: true, .. }) => Finding::ok(CHECK, format!("{driver} runs XDP programs")),
        // veth takes programs only where each queue of the other end has one here (`veth_set_xdp_features`, drivers/net/veth.c).
        Some(_) if card.driver.as_deref() == Some("veth") => Finding::warning(
            CHECK,
            "driver veth runs no XDP programs while the other end has more queues to send than this one to receive",
        )
        .mended_by(format!("ethtool -L {} rx N", card.name)),
        Some(_) => Finding::warning(CHECK, format!("{driver} runs no XDP programs")),
    }
}

fn mtu(card: &Card) -> Option<Finding> {
    let abilities = card.abilities.filter(|abilities| abilities.native)?;
    (!abilities.several_buffers && card.mtu > MTU_OF_ONE_BUFFER).then(|| {
        Finding::warning(
            "mtu",
            format!(
                "its driver runs XDP programs only over frames of one buffer, which an MTU of {} exceeds",
                card.mtu
            ),
        )
        .mended_by(format!("ip link set dev {} mtu {MTU_OF_ONE_BUFFER}", card.name))
    })
}

fn lro(card: &Card) -> Option<Finding> {
    const CHECK: &str = "lro";
    let virtio = card.driver.as_deref() == Some(VIRTIO);
    // Drivers switch GRO of the card off by themselves, but for virtio_net where it cannot.
    let mut refused = card.merging.iter();
    let switch = refused.find(|switch| switch.name == "lro" || (virtio && switch.is_fixed))?;
    let text = "the card merges frames that arrive, and drivers refuse XDP programs then";
    Some(if switch.is_fixed {
        Finding::warning(
            CHECK,
            format!(
                "{text}; {} cannot be switched off here, only by whoever runs this machine",
                switch.name
            ),
        )
    } else {
        Finding::warning(CHECK, text)
            .mended_by(format!("ethtool -K {} {} off", card.name, switch.name))
    })
}

fn queues(card: &Card) -> Option<Finding> {
    const CHECK: &str = "queues";
    let name = &card.name;
    let queues = card.queues?;
    let doubles = card
        .driver
        .as_deref()
        .is_some_and(|driver| DOUBLING.contains(&driver));
    let doubled = match queues.max_combined {
        0 => (queues.receive, queues.max_receive),
        most => (queues.combined, most),
    };
    if let (in_use, most) = doubled
        && doubles
        && in_use > most / 2
    {
        let text = format!(
            "its driver needs a second queue for each of the {in_use} in use, of {most} that there are"
        );
        let found = Finding::warning(CHECK, text);
        return Some(match (most / 2, queues.max_combined) {
            (0, _) => found,
            (half, 0) => found.mended_by(format!("ethtool -L {name} rx {half} tx {half}")),
            (half, _) => found.mended_by(format!("ethtool -L {name} combined {half}")),
        });
    }
    if queues.receive + queues.combined != 1 || card.cpus == 1 {
        return None;
    }
    let found = Finding::note(
        CHECK,
        format!(
            "one queue: one CPU of {} decides about everything that arrives",
            card.cpus
        ),
    );
    let usable = |most: u32| (if doubles { most / 2 } else { most }).min(card.cpus);
    Some(
        match (usable(queues.max_combined), usable(queues.max_receive)) {
            (combined @ 2.., _) => {
                found.mended_by(format!("ethtool -L {name} combined {combined}"))
            }
            (_, receive @ 2..) => found.mended_by(format!("ethtool -L {name} rx {receive}")),
            _ => found,
        },
    )
}

fn vlan_offload(card: &Card) -> Option<Finding> {
    if card.stripping.is_empty() {
        return None;
    }
    let off: Vec<_> = card
        .stripping
        .iter()
        .map(|on| format!("{on} off"))
        .collect();
    let found = Finding::note(
        "vlan-offload",
        "the card takes VLAN tags out of frames: files with [vlans] are refused, and answers of syn-cookies reach no VLAN in \
         native mode",
    );
    Some(found.mended_by(format!("ethtool -K {} {}", card.name, off.join(" "))))
}

#[cfg(test)]
mod tests;
