//! A thousand random edits of a guarded interface, and the rule file that they must come to: both decide each packet alike.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{TestRun as _, Xdp};
use aya_obj::programs::XdpAttachType;
use firewall_common::parse::protocol;
use firewall_tests::kernel::of;
use firewall_tests::net::{Host, Lab};
use firewall_tests::packets::{
    HOST_V4, HOST_V6, ethernet, ethertype, ipv4_between, ipv6_between, tcp, tcp_flag, udp,
};
use firewall_tests::policy::Policy;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

const EDITS: usize = 1000;
/// Edits after which the two are compared.
const STRETCH: usize = 50;
/// A rule set that is larger than that only shrinks.
const MOST_RULES: usize = 12;

const PORTS: [u16; 5] = [22, 53, 80, 8000, 8080];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "any"];
/// One stands in the rule file, the other in a list.
const GROUPS: [&str; 2] = ["here", "listed"];
/// What members are: some lie within others.
const MEMBERS: [&str; 8] = [
    "203.0.113.0/24",
    "203.0.113.0/28",
    "203.0.113.7",
    "203.0.113.200",
    "2001:db8:2::/48",
    "2001:db8:2::/64",
    "2001:db8:2::7",
    "2001:db8:2:1::/64",
];
/// Of the same, within and just outside of each.
const SOURCES_V4: [[u8; 4]; 6] = [
    [203, 0, 113, 7],
    [203, 0, 113, 8],
    [203, 0, 113, 16],
    [203, 0, 113, 200],
    [203, 0, 113, 255],
    [203, 0, 114, 0],
];
const SOURCES_V6: [[u16; 3]; 5] = [[2, 0, 7], [2, 0, 8], [2, 1, 7], [2, 2, 7], [3, 0, 7]];

/// An edit; numbers say which of those there are.
#[derive(Clone, Debug)]
enum Edit {
    AddRule { rule: Rule, at: usize },
    RemoveRule(usize),
    AddMember { group: usize, member: usize },
    RemoveMember { group: usize, member: usize },
}

#[derive(Clone, Debug)]
struct Rule {
    action: &'static str,
    protocol: &'static str,
    port: Option<u16>,
    from: Option<&'static str>,
}

/// What the edits have come to.
#[derive(Debug, Default)]
struct Model {
    rules: Vec<(String, Rule)>,
    groups: [Vec<&'static str>; 2],
    /// Rules there ever were, which names are made of.
    named: usize,
}

#[test]
fn a_thousand_random_edits_come_to_what_their_file_would() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.write("listed.txt", "")?;
    let mut model = Model::default();
    let empty = model
        .text()
        .replace("listed = []", "listed = { file = \"listed.txt\" }");
    lab.apply(&empty, "auto")?;
    let frames = frames();
    let mut runner = TestRunner::deterministic();
    let edits = vec(edit(), EDITS).new_tree(&mut runner);
    let edits = edits.map_err(|why| anyhow::anyhow!("{why}"))?.current();
    // Every packet gets both verdicts in the course of it.
    let mut verdicts = vec![[false; 2]; frames.len()];
    for (number, edit) in edits.into_iter().enumerate() {
        let words = model.make(&edit);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = lab
            .inside
            .firewall(&[&words[..], &["-i", lab.inside.interface()]].concat())?;
        outcome
            .success()
            .with_context(|| format!("edit {number}: {words:?} of {}", model.text()))?;
        if (number + 1) % STRETCH == 0 {
            let policy = Policy::parse(&model.text())?;
            let live = verdicts_in_force(&lab.inside, &frames)?;
            for ((frame, live), seen) in frames.iter().zip(live).zip(&mut verdicts) {
                let expected = policy.decide(frame).decision;
                ensure!(
                    live == expected.accepts(),
                    "after {} edits {frame:02x?} is let in: {live}, but {expected:?} by {}",
                    number + 1,
                    model.text()
                );
                seen[usize::from(live)] = true;
            }
        }
    }
    let both = verdicts.iter().filter(|seen| **seen == [true; 2]).count();
    ensure!(
        both > frames.len() / 2,
        "only {both} of {} packets were both let in and refused",
        frames.len()
    );
    Ok(())
}

impl Model {
    /// Makes an edit, and says how `firewall` is told. Where there is nothing to be removed, something is added.
    fn make(&mut self, edit: &Edit) -> Vec<String> {
        match *edit {
            Edit::RemoveRule(at) if !self.rules.is_empty() => {
                let (name, _) = self.rules.remove(at % self.rules.len());
                words(["rule", "remove", &name])
            }
            Edit::AddRule { at, .. } if self.rules.len() >= MOST_RULES => {
                self.make(&Edit::RemoveRule(at))
            }
            Edit::AddRule { ref rule, at } => self.add(rule, at),
            Edit::RemoveRule(at) => self.add(&ALL, at),
            Edit::RemoveMember { group, member } if !self.groups[group].is_empty() => {
                let members = &mut self.groups[group];
                let member = members.remove(member % members.len());
                words(["group", "remove", GROUPS[group], member])
            }
            Edit::AddMember { group, member } | Edit::RemoveMember { group, member } => {
                let member = MEMBERS[member % MEMBERS.len()];
                if !self.groups[group].contains(&member) {
                    self.groups[group].push(member);
                }
                words(["group", "add", GROUPS[group], member])
            }
        }
    }

    fn add(&mut self, rule: &Rule, at: usize) -> Vec<String> {
        self.named += 1;
        let name = format!("r{}", self.named);
        let mut words = words(["rule", "add", &rule.line(), "--name", &name]);
        let place = at % (self.rules.len() + 1);
        // One that is neither the first nor the last can be put there in two ways.
        match self.rules.get(place) {
            Some((next, _)) if place == 0 || at.is_multiple_of(2) => {
                words.extend(["--before".to_owned(), next.clone()]);
            }
            Some(_) => words.extend(["--after".to_owned(), self.rules[place - 1].0.clone()]),
            None => {}
        }
        self.rules.insert(place, (name, rule.clone()));
        words
    }

    /// All of it as a rule file.
    fn text(&self) -> String {
        let mut text = "version = 1\n\n[groups]\n".to_owned();
        for (name, members) in GROUPS.iter().zip(&self.groups) {
            text += &format!("{name} = {members:?}\n");
        }
        for (name, rule) in &self.rules {
            text += &format!("\n[[rule]]\nname = \"{name}\"\n{}", rule.text());
        }
        text
    }
}

/// A rule for everything.
const ALL: Rule = Rule {
    action: "accept",
    protocol: "any",
    port: None,
    from: None,
};

impl Rule {
    /// As it is typed.
    fn line(&self) -> String {
        let port = self.port.map(|port| format!(" {port}")).unwrap_or_default();
        let from = self
            .from
            .map(|from| format!(" from {from}"))
            .unwrap_or_default();
        format!("{} {}{port}{from}", self.action, self.protocol)
    }

    /// As it stands in a file.
    fn text(&self) -> String {
        let mut text = format!("action = \"{}\"\n", self.action);
        if self.protocol != "any" {
            text += &format!("protocol = \"{}\"\n", self.protocol);
        }
        if let Some(port) = self.port {
            text += &format!("ports = [{port}]\n");
        }
        if let Some(from) = self.from {
            text += &format!("from = [\"{from}\"]\n");
        }
        text
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn edit() -> impl Strategy<Value = Edit> {
    let from = prop_oneof![
        1 => Just(None),
        2 => select(&GROUPS[..]).prop_map(Some),
        1 => select(&MEMBERS[..]).prop_map(Some),
    ];
    let port = prop_oneof![1 => Just(None), 3 => select(&PORTS[..]).prop_map(Some)];
    let rule = (
        select(&["accept", "drop"][..]),
        select(&PROTOCOLS[..]),
        port,
        from,
    );
    let rule = rule.prop_map(|(action, protocol, port, from)| Rule {
        action,
        protocol,
        port: port.filter(|_| protocol != "any"),
        from,
    });
    let member = || (0..GROUPS.len(), any::<usize>());
    prop_oneof![
        3 => (rule, any::<usize>()).prop_map(|(rule, at)| Edit::AddRule { rule, at }),
        2 => any::<usize>().prop_map(Edit::RemoveRule),
        3 => member().prop_map(|(group, member)| Edit::AddMember { group, member }),
        2 => member().prop_map(|(group, member)| Edit::RemoveMember { group, member }),
    ]
}

/// From each source to each port, and one beside, over TCP and UDP.
fn frames() -> Vec<Vec<u8>> {
    let ports = PORTS.into_iter().chain([81]);
    let payloads = ports.flat_map(|port| {
        [
            (protocol::TCP, tcp(port, tcp_flag::SYN)),
            (protocol::UDP, udp(40_000, port, b"x")),
        ]
    });
    payloads
        .flat_map(|(protocol, payload)| {
            let v4 = SOURCES_V4.map(|source| {
                let packet = ipv4_between(Ipv4Addr::from(source), HOST_V4, protocol, &payload);
                ethernet(ethertype::IPV4, &packet)
            });
            let v6 = SOURCES_V6.map(|[network, subnet, host]| {
                let source = Ipv6Addr::new(0x2001, 0xdb8, network, subnet, 0, 0, 0, host);
                let packet = ipv6_between(source, HOST_V6, protocol, &payload);
                ethernet(ethertype::IPV6, &packet)
            });
            v4.into_iter().chain(v6).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether the program at work lets each of the frames in.
pub(super) fn verdicts_in_force(host: &Host, frames: &[Vec<u8>]) -> Result<Vec<bool>> {
    host.enter(|| {
        let pin = host.state().join("program");
        let program = Xdp::from_pin(pin, XdpAttachType::Interface)?;
        let verdict = |frame: &Vec<u8>| match program.test_run(of(frame))?.return_value {
            1 => Ok(false),
            2 => Ok(true),
            action => bail!("XDP action {action}"),
        };
        frames.iter().map(verdict).collect()
    })
}
