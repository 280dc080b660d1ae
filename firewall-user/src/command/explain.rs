//! `firewall explain`: what becomes of a packet, and why.
//!
//! On an interface the kernel is asked, in a copy of what guards it that has state of its own; of a rule file alone, the same code
//! on the host.

mod recording;
mod shown;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::Args;

use super::guard;
use crate::explain::judge::Judge;
use crate::explain::met::Ground;
use crate::explain::simulated::{Memory, Simulated};
use crate::kernel::bans;
use crate::kernel::guard::Guard;
use crate::kernel::interface::{self, Interface};
use crate::output::{self, Format, Output, Refused};
use crate::rules::packet::{Concrete, Host, Pattern};
use crate::{live, lock, policy, privilege, rules};

/// Which packets, and where.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The packet, such as `tcp from 203.0.113.7 to :22`, `icmp echo-request` or `udp to 192.0.2.53:53 out`.
    #[arg(required_unless_present = "pcap", conflicts_with = "pcap")]
    packet: Vec<String>,
    /// The guarded interface that it arrives at, or leaves through.
    #[arg(
        short,
        long,
        value_name = "IFACE",
        required_unless_present = "rules",
        conflicts_with = "rules"
    )]
    interface: Option<String>,
    /// A rule file, where nothing has to be loaded.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Recorded packets instead, of a pcap or pcapng file.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// The recorded packets leave.
    #[arg(long, requires = "pcap", conflicts_with = "packet")]
    out: bool,
    /// Of the recorded packets those from this address leave, and all others arrive; may be given several times.
    #[arg(long, value_name = "ADDR", requires = "pcap", conflicts_with_all = ["packet", "out"])]
    host: Vec<IpAddr>,
}

/// Where packets are decided, for whoever reads it.
#[derive(Debug)]
struct Place {
    interface: Option<String>,
    file: String,
    generation: Option<u64>,
    /// Whether the programs asked are those at work.
    same_programs: Option<bool>,
    /// Why the rule that nearly matched is not told.
    untold: Option<String>,
}

pub(crate) fn run(explain: &Explain, output: &Output) -> Result<()> {
    let pattern: Option<Pattern> = match &explain.packet[..] {
        [] => None,
        words => Some(words.join(" ").parse()?),
    };
    match (&explain.interface, &explain.rules) {
        (Some(name), _) => on_interface(name, pattern.as_ref(), explain, output),
        (None, Some(file)) => of_file(file, pattern.as_ref(), explain, output),
        (None, None) => bail!("name a guarded interface with -i, or a rule file with --rules"),
    }
}

fn on_interface(
    name: &str,
    pattern: Option<&Pattern>,
    explain: &Explain,
    output: &Output,
) -> Result<()> {
    privilege::require()?;
    // The copy has nothing in common with the interface any more but its tables, which an apply leaves alone that comes now.
    let look = lock::shared()?;
    let (interface, guard) = guard(name)?;
    let (mut replica, tables) = guard.replica(&interface)?;
    let loaded = live::loaded(&guard).ok();
    drop(look);

    let description = &guard.description;
    let place = Place {
        interface: Some(name.to_owned()),
        file: description.file.clone(),
        generation: Some(description.generation),
        same_programs: Some(replica.same_programs),
        untold: match loaded {
            Some(_) => None,
            None => Some(format!(
                "what {} was when it was applied is not kept",
                description.file
            )),
        },
    };
    let ground = Ground {
        image: &tables,
        policy: &description.policy,
        rule_set: loaded.as_ref().map(|loaded| &loaded.rule_set),
    };
    let packet = match pattern {
        Some(pattern) => Some(pattern.concrete(&host(&interface)?)?),
        None => None,
    };
    let judge = Judge::Kernel(&mut replica);
    let ban = |source| banned(&guard, source);
    judge_all(packet, judge, ground, &place, explain, ban, output)
}

fn of_file(
    file: &Path,
    pattern: Option<&Pattern>,
    explain: &Explain,
    output: &Output,
) -> Result<()> {
    let packet = match pattern {
        Some(pattern) => Some(pattern.concrete(&Host::default())?),
        None => None,
    };
    let loaded = rules::load(file).or_else(|report| {
        match output.format {
            Format::Text => output.aside(report.render(output::colour(), output::width()))?,
            Format::Json => output
                .json(&serde_json::json!({ "file": file, "ok": false, "diagnostics": report }))?,
        }
        Err(anyhow::Error::from(Refused))
    })?;
    let prepared = policy::prepare(&loaded, None, 0)?;
    let memory = Memory::new(&loaded.rule_set);
    let place = Place {
        interface: None,
        file: file.display().to_string(),
        generation: None,
        same_programs: None,
        untold: None,
    };
    let ground = Ground {
        image: &prepared.image,
        policy: &prepared.policy,
        rule_set: Some(&loaded.rule_set),
    };
    let judge = Judge::File(Box::new(Simulated::new(&prepared.image, &memory)));
    judge_all(packet, judge, ground, &place, explain, |_| Ok(None), output)
}

/// The packet that was written, or those that were recorded. `ban` says more of the ban of an address.
fn judge_all(
    packet: Option<Concrete>,
    mut judge: Judge<'_>,
    ground: Ground<'_>,
    place: &Place,
    explain: &Explain,
    ban: impl Fn(IpAddr) -> Result<Option<String>>,
    output: &Output,
) -> Result<()> {
    if place.same_programs == Some(false) {
        output.aside(
            "warning: the programs at work are not those of this version: what they do may differ; detach and apply again to \
             run its own",
        )?;
    }
    if let (None, Some(file)) = (packet, &explain.pcap) {
        return recording::run(file, explain, &mut judge, ground, output);
    }
    let Some(packet) = packet else {
        bail!("write a packet, or name a recording with --pcap");
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let frame = packet.frame();
    let judged = judge.decide(&frame, packet.direction, now.unwrap_or_default(), ground)?;
    let ban = match judged.cause.is_ban() {
        true => ban(packet.source)?,
        false => None,
    };
    shown::one(&packet, frame.len(), &judged, ban.as_deref(), place, output)?;
    agreed(judged.agrees)
}

/// An error where the kernel and the host cannot both be right.
fn agreed(agrees: bool) -> Result<()> {
    if !agrees {
        bail!(
            "the kernel and this program do not agree on what becomes of this packet: one of them is wrong; please report it with \
             the rule file and the packet"
        );
    }
    Ok(())
}

/// The addresses of an interface, for packets that do not say them.
fn host(interface: &Interface) -> Result<Host> {
    let mut host = Host::default();
    let addresses = interface::addresses(interface.index)?;
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let mut v6: Vec<_> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        })
        .collect();
    // Link-local ones last: nobody asks about them without saying so.
    v6.sort_by_key(std::net::Ipv6Addr::is_unicast_link_local);
    host.v4 = v4.unwrap_or(host.v4);
    host.v6 = v6.first().copied().unwrap_or(host.v6);
    Ok(host)
}

/// The ban that holds for an address: `198.51.100.0/24 for 10 min 0 s, "ticket 4711"`.
fn banned(guard: &Guard, source: IpAddr) -> Result<Option<String>> {
    let wanted = super::bans::Target::from(source).prefix();
    let live = guard.bans()?.live();
    let ban = live.iter().find(|ban| bans::contains(&ban.prefix, &wanted));
    Ok(ban.map(|ban| {
        let whom = super::bans::Target::from(&ban.prefix);
        let time = match ban.left_ns {
            Some(left) => format!("for {}", output::duration(left / 1_000_000_000)),
            None => "for good".to_owned(),
        };
        match &ban.reason {
            Some(reason) => format!("{whom} {time}, \"{reason}\""),
            None => format!("{whom} {time}"),
        }
    }))
}
