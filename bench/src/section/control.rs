//! What it costs to change the rules of a running server: a packet while something waits to be confirmed or a candidate is asked, and
//! the command that makes a live edit.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use firewall_common::abi::control::{Control, Place};
use firewall_common::abi::image::Line;
use firewall_common::abi::shadow::Shadow;
use firewall_common::parse::transport::tcp_flag;
use firewall_user::counters::Slots;
use firewall_user::kernel::{image, instance::Instance};
use firewall_user::rules::{self, compile::compile};

use super::{Bench, large::Large, served};
use crate::{
    cidr::{Cidr, Family},
    frame::{Frames, Packet, Service, frames},
    namespace::{FAR, Namespace, run as command},
    policy::timed,
    random::Random,
    report::{Better, FIREWALL, Section},
    statistics::Spread,
};

/// A packet.
pub(crate) const PACKETS: Section = Section {
    id: "control-packets",
    title: "A packet while rules are being changed",
    unit: "ns/packet",
    note: "Above an empty XDP program, 65,536 different packets, ten rules without addresses. The candidate has the same rules, the \
           one that differs none and another default.",
    better: Better::Lower,
};

/// A command.
pub(crate) const EDITS: Section = Section {
    id: "control-edits",
    title: "Live edits",
    unit: "ms",
    note: "The whole command, from its start to its end, on a guarded interface; one list of addresses or one list of rules.",
    better: Better::Lower,
};

const AIM_RULE: f64 = 100.0;
const AIM_CIDR: f64 = 20.0;
/// So far ahead that it does not come.
const DEADLINE: u64 = (1 << 48) - 1;
/// Where a frame of TCP over IPv4 has the flags.
const TCP_FLAGS: usize = 14 + 20 + 13;

/// Measures the sections.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    packets(bench)?;
    // A thread of its own, because it moves into another network namespace and does not come back.
    std::thread::scope(|scope| scope.spawn(|| edits(bench)).join())
        .map_err(|_| anyhow!("the measuring thread panicked"))?
}

fn packets(bench: &mut Bench) -> Result<()> {
    let rules = Compiled::of(bench, "served", served::OPEN)?;
    let opposite = |accepts: bool| if accepts { "drop" } else { "accept" };
    let open = some(Family::V4, 443).map(|mut frames| {
        for frame in frames.iter_mut() {
            frame[TCP_FLAGS] = tcp_flag::ACK;
        }
        frames
    });
    for (name, frames, accepts) in [
        ("SYN over IPv4, accepted", some(Family::V4, 443), true),
        ("SYN over IPv6, accepted", some(Family::V6, 443), true),
        ("of an open TCP connection", open, true),
        ("SYN, dropped by default", some(Family::V4, 3389), false),
    ] {
        let frames = frames?;
        let text = format!(
            "version = 1\n\n[defaults]\ningress = \"{}\"\n",
            opposite(accepts)
        );
        let other = Compiled::of(bench, opposite(accepts), &text)?;
        for (subject, candidate, on_trial) in [
            (FIREWALL, None, false),
            ("on trial", None, true),
            ("with a candidate", Some(&rules), false),
            ("with one that differs", Some(&other), false),
        ] {
            let [place, beside] =
                [0, 1].map(|slot| Place::new(image::class_of(&rules.image), slot));
            let mut instance = match candidate {
                Some(candidate) => Instance::load_with_shadow(0, &candidate.shadow(beside))?,
                None => Instance::load(0)?,
            };
            instance.install(place, rules.image.clone())?;
            instance.install(beside, candidate.unwrap_or(&rules).image.clone())?;
            if on_trial {
                instance.try_out(place, beside, DEADLINE)?;
            } else {
                instance.activate(place)?;
            }
            bench.harness.send(&frames)?;
            let program = instance.program().fd()?.try_clone()?;
            bench.harness.measure(&program)?;
            let spread = bench.harness.nanoseconds()?;
            bench.report.add(&PACKETS, name, subject, spread);
        }
    }
    Ok(())
}

/// A rule file's tables, and how many rules there are.
struct Compiled {
    image: Vec<Line>,
    rules: u32,
}

impl Compiled {
    fn of(bench: &Bench, name: &str, text: &str) -> Result<Self> {
        let file = bench.file(&format!("{name}.toml"), text)?;
        let loaded = rules::load(&file).map_err(|report| anyhow!(report.render(false, 100)))?;
        Ok(Self {
            image: compile(&loaded.rule_set, &Slots::default())?.image,
            rules: loaded.rule_set.rules.len() as u32,
        })
    }

    /// What programs have to know to ask it in this place.
    fn shadow(&self, place: Place) -> Shadow {
        Shadow {
            place: Control::new(place, Place::NONE).word,
            ingress_rules: self.rules + 1,
            egress_rules: 1,
        }
    }
}

/// SYNs to this port.
pub(super) fn some(family: Family, port: u16) -> Result<Frames> {
    let from = match family {
        Family::V4 => Cidr::around(family, 0xc612_0000, 15),
        Family::V6 => Cidr::around(family, 0x2001_0db8 << 96, 32),
    };
    frames(&mut Random::new(1), |random| Packet {
        source: from.member(random),
        service: Service::Tcp(port),
        vlan: None,
    })
}

fn edits(bench: &mut Bench) -> Result<()> {
    let _namespace = Namespace::enter()?;
    let firewall = firewall()?;
    let firewall = firewall.to_str().context("a path that is not UTF-8")?;
    let rounds = if bench.quick { 3 } else { 11 };
    for large in Large::wanted(bench) {
        let file = large.write(bench)?;
        let case = large.name(bench);
        command(&[firewall, "apply", path(&file)?, "-i", FAR])?;
        let edited = edit(bench, &case, firewall, *large, rounds);
        command(&[firewall, "detach", "-i", FAR])?;
        edited?;
    }
    Ok(())
}

/// What is added or removed in each round.
type Cidrs = fn(u32) -> String;

fn edit(bench: &mut Bench, case: &str, firewall: &str, large: Large, rounds: u32) -> Result<()> {
    let mut add =
        |what: &str, aim: Option<f64>, arguments: &dyn Fn(u32) -> Vec<String>| -> Result<()> {
            let mut times = Vec::new();
            for round in 0..rounds {
                let arguments = arguments(round);
                let mut line = vec![firewall];
                line.extend(arguments.iter().map(String::as_str));
                line.extend(["-i", FAR]);
                let (done, took) = timed(|| command(&line));
                done?;
                times.push(took);
            }
            bench.report.add(&EDITS, case, what, Spread::of(times));
            bench.report.aim(aim);
            Ok(())
        };
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    add("rule add", Some(AIM_RULE), &|round| {
        words(&["rule", "add", &format!("accept udp {}", 1000 + round)])
    })?;
    add("rule remove", Some(AIM_RULE), &|round| {
        words(&["rule", "remove", &format!("udp {}", 1000 + round)])
    })?;
    if let Large::Group(mix) = large {
        // Those are in none of the lists; of these some part is.
        let (new, in_part): (Cidrs, Cidrs) = match mix.family() {
            Family::V4 => (
                |round| format!("240.0.0.{round}"),
                |round| format!("{}.0.0.0/12", 20 + round),
            ),
            Family::V6 => (
                |round| format!("fd00::{round}"),
                |round| format!("{:x}::/8", 0x2000 + round * 0x100),
            ),
        };
        add("group add", Some(AIM_CIDR), &|round| {
            words(&["group", "add", "refused", &new(round)])
        })?;
        add("group remove, of those added", Some(AIM_CIDR), &|round| {
            words(&["group", "remove", "refused", &new(round)])
        })?;
        // What the file has is read for that.
        add("group add, of what it has in part", None, &|round| {
            words(&["group", "add", "refused", &in_part(round)])
        })?;
    }
    add("rollback", None, &|_| words(&["rollback"]))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// The command, which was built beside this one.
fn firewall() -> Result<PathBuf> {
    let firewall = std::env::current_exe()?.with_file_name("firewall");
    if firewall.exists() {
        Ok(firewall)
    } else {
        Err(anyhow!(
            "{} is not there: `cargo build --release -p firewall-user`",
            firewall.display()
        ))
    }
}
