//! Live frames through a veth pair, dropped at its far end by one firewall after the other.

use anyhow::{Context as _, Result};
use aya::programs::{Xdp, XdpMode};

use super::{Bench, groups};
use crate::{
    cidr::{Family, Mix},
    frame::{Frames, Packet, Service, frames},
    harness::Harness,
    namespace::{FAR, NEAR, Namespace, run as command},
    nftables,
    policy::Policy,
    random::Random,
    report::{Better, FIREWALL, Section},
    rule_list::{self, Rule, Traffic},
    statistics::Spread,
    xdp_filter,
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "traffic",
    title: "Live frames through a veth pair on one processor, all of them dropped at its end",
    unit: "ns/packet",
    note: "Sending included, which is what a bare XDP_DROP costs. nftables hooks in at netdev ingress, and its rules drop \
           instead of accepting, so that only finding the rule is measured; xdp-filter knows single addresses only.",
    better: Better::Lower,
};

/// Rates beside a bare XDP_DROP.
pub(crate) const RATIO: Section = Section {
    id: "traffic-ratio",
    title: "Drop rate beside that of a bare XDP_DROP",
    unit: "ratio",
    note: "1 is as fast as an XDP program that drops everything. The aim is at least 0.8.",
    better: Better::Higher,
};

const AIM_RATIO: f64 = 0.8;
/// Single addresses that xdp-filter is given: a process each.
const FILTERED: usize = 1_000;

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    // A thread of its own, because it moves into another network namespace and does not come back.
    std::thread::scope(|scope| scope.spawn(|| inside(bench)).join())
        .map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
}

fn inside(bench: &mut Bench) -> Result<()> {
    let _namespace = Namespace::enter()?;
    let mut lane = Lane {
        near: index(NEAR)?,
        bare: 0.0,
    };
    let sizes: &[usize] = if bench.quick {
        &[10, 1_000]
    } else {
        &[10, 100, 1_000, 10_000]
    };
    for &count in sizes {
        let mut random = Random::new(count as u64);
        let rules = rule_list::take(count, &mut random);
        for traffic in [Traffic::NoneUnnamed, Traffic::NoneNamed] {
            let case = format!("{count} rules, {}", traffic.name());
            let frames = traffic.frames(&rules, &mut random)?;
            of_rules(bench, &mut lane, &case, &rules, &frames)?;
        }
    }
    let sizes: &[usize] = if bench.quick {
        &[1_000]
    } else {
        &[1_000, 100_000]
    };
    for &count in sizes {
        of_group(bench, &mut lane, count)?;
    }
    Ok(())
}

fn of_rules(
    bench: &mut Bench,
    lane: &mut Lane,
    case: &str,
    rules: &[Rule],
    frames: &Frames,
) -> Result<()> {
    let file = bench.file("rules.toml", &rule_list::file(rules))?;
    lane.start(bench, case, frames)?;
    lane.firewall(bench, case, &file)?;
    for (subject, text) in [
        (nftables::RULES, nftables::rules(rules)),
        (nftables::SET, nftables::concatenated_set(rules)),
    ] {
        let file = bench.file("rules.nft", &text)?;
        nftables::load(&file)?;
        lane.add(bench, case, subject)?;
        nftables::unload()?;
    }
    Ok(())
}

fn of_group(bench: &mut Bench, lane: &mut Lane, count: usize) -> Result<()> {
    let mut random = Random::new(count as u64);
    let cidrs = Mix::Threats.take(count, &mut random);
    let case = format!("{count} CIDRs refused, hit");
    let file = groups::write(bench, &cidrs)?;
    let hits = frames(&mut random, |random| {
        let cidr = cidrs[random.below(cidrs.len() as u64) as usize];
        Packet::new(cidr.member(random), Service::Tcp(443))
    })?;
    lane.start(bench, &case, &hits)?;
    lane.firewall(bench, &case, &file)?;
    let file = bench.file("rules.nft", &nftables::refused(Family::V4, &cidrs))?;
    nftables::load(&file)?;
    lane.add(bench, &case, nftables::SET)?;
    nftables::unload()?;
    if count > FILTERED {
        return Ok(());
    }

    let singles: Vec<_> = cidrs
        .iter()
        .copied()
        .filter(|cidr| cidr.length == 32)
        .collect();
    let case = format!("{} addresses refused", singles.len());
    let file = groups::write(bench, &singles)?;
    let hits = frames(&mut random, |random| {
        let cidr = singles[random.below(singles.len() as u64) as usize];
        Packet::new(cidr.member(random), Service::Tcp(443))
    })?;
    lane.start(bench, &case, &hits)?;
    lane.firewall(bench, &case, &file)?;
    let filter = xdp_filter::Filter::load(&singles)?;
    lane.add(bench, &case, xdp_filter::SUBJECT)?;
    drop(filter);
    Ok(())
}

/// Where frames are sent, and what sending them costs.
struct Lane {
    near: u32,
    bare: f64,
}

impl Lane {
    /// Sends these frames from now on, and measures a bare XDP_DROP.
    fn start(&mut self, bench: &mut Bench, case: &str, frames: &Frames) -> Result<()> {
        bench.harness.send(frames)?;
        let link = attach(bench.harness.empty()?)?;
        let bare = self.measure(&mut bench.harness)?;
        bench.harness.empty()?.detach(link)?;
        self.bare = bare.median;
        bench.report.add(&SECTION, case, "bare XDP_DROP", bare);
        Ok(())
    }

    fn firewall(&self, bench: &mut Bench, case: &str, file: &std::path::Path) -> Result<()> {
        let mut policy = Policy::load(file)?;
        let link = attach(policy.instance.program())?;
        self.add(bench, case, FIREWALL)?;
        bench.report.aim(Some(AIM_RATIO));
        policy.instance.program().detach(link)?;
        Ok(())
    }

    fn add(&self, bench: &mut Bench, case: &str, subject: &str) -> Result<()> {
        let spread = self.measure(&mut bench.harness)?;
        bench.report.add(&SECTION, case, subject, spread);
        bench.report.add(
            &RATIO,
            case,
            subject,
            Spread::exactly(self.bare / spread.median),
        );
        Ok(())
    }

    fn measure(&self, harness: &mut Harness) -> Result<Spread> {
        let effort = harness.effort();
        let first = harness.live(self.near, effort.packets_at(f64::INFINITY))?;
        let packets = effort.packets_at(first);
        let rounds = (0..effort.rounds)
            .map(|_| harness.live(self.near, packets))
            .collect::<Result<Vec<_>>>()?;
        Ok(Spread::of(rounds))
    }
}

/// Attaches the program to the far end.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn attach(program: &mut Xdp) -> Result<aya::programs::xdp::XdpLinkId> {
    program
        .attach(FAR, XdpMode::Driver)
        .context("attaching to the far end")
}

/// Number of a link in this namespace.
///
/// # Errors
///
/// What `ip` says.
pub(super) fn index(link: &str) -> Result<u32> {
    let text = command(&["ip", "-o", "link", "show", link])?;
    let number = text.split(':').next().context("no interface index")?;
    Ok(number.trim().parse()?)
}
