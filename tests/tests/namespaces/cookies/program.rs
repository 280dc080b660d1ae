//! The program that answers SYNs, by itself: which it answers, and with what.

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use firewall_common::abi::PROGRAM_INGRESS_COOKIE;
use firewall_common::abi::handoff::Handoff;
use firewall_common::abi::image::Outcome;
use firewall_common::abi::reason::PassReason;
use firewall_common::decide::cookie::hardware_address;
use firewall_common::decide::{Asked, Decision};
use firewall_common::parse::{Parsed, parse};
use firewall_tests::net::traffic::Echo;
use firewall_tests::net::{Host, Lab};
use firewall_tests::packets::{at, ethertype, patched};
use firewall_user::kernel::instance::OBJECT;
use zerocopy::IntoBytes as _;

use super::{ALWAYS, OPTIONS, PORT, SYN_COOKIES, Syn, check, with_tags};

/// Where nobody listens.
const CLOSED: u16 = 8081;
/// Where the rule that lets the SYNs in is counted.
const RULE_SLOT: u32 = 200;
/// Of the kernel's, linux/bpf.h.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The program, attached to nothing.
struct Alone {
    ebpf: Ebpf,
}

impl Alone {
    /// Loads it for an interface with this hardware address.
    fn load(own: u64) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("HARDWARE_ADDRESS", &own, true)
            .load(OBJECT)?;
        program(&mut ebpf)?.load()?;
        Ok(Self { ebpf })
    }

    /// Has it decide a SYN that a rule accepts. Returns what is sent, or nothing where the SYN goes on to the kernel; and demands
    /// that it is counted as what became of it.
    fn run(&mut self, host: &Host, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        let Ok(Parsed::Ip(packet)) = parse(frame) else {
            bail!("the parser refuses it: {frame:02x?}");
        };
        let asked = Asked {
            packet,
            by_rules: Decision::by_rules(0, Outcome::new(true, false, RULE_SLOT)),
            identification: 0,
            number: 0,
        };
        let mut handoff = [0; size_of::<Handoff>()];
        handoff.copy_from_slice(Handoff::asked(&asked).as_bytes());
        let map = self.ebpf.map_mut("INGRESS_HANDOFF").context("no handoff")?;
        let mut map = PerCpuArray::<_, [u8; size_of::<Handoff>()]>::try_from(map)?;
        let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        map.set(0, PerCpuValues::try_from(vec![handoff; processors])?, 0)?;

        let before = self.counts()?;
        let mut out = vec![0; 8192];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let ebpf = &mut self.ebpf;
        let result = host.enter(|| Ok(program(ebpf)?.test_run(options)?))?;
        out.truncate(result.data_size_out as usize);
        let counted: Vec<_> = self
            .counts()?
            .iter()
            .zip(before)
            .map(|(now, was)| now - was)
            .collect();
        match result.return_value {
            XDP_TX => {
                ensure!(counted == [0, 1, frame.len() as u64], "{counted:?}");
                Ok(Some(out))
            }
            XDP_PASS => {
                ensure!(counted == [1, 0, 0], "{counted:?}");
                ensure!(out == frame, "changed, and passed on: {out:02x?}");
                Ok(None)
            }
            action => bail!("XDP action {action}"),
        }
    }

    /// Packets of the rule, packets that were answered, bytes of these.
    fn counts(&self) -> Result<[u64; 3]> {
        let map = self.ebpf.map("COUNTERS").context("no counters")?;
        let map = PerCpuArray::<_, [u64; 3]>::try_from(map)?;
        let sum = |slot: u32, field: usize| -> Result<u64> {
            let values = map.get(&slot, 0)?;
            Ok(values.iter().map(|value| value[field]).sum())
        };
        let cookie = PassReason::SynCookie.counter();
        Ok([sum(RULE_SLOT, 0)?, sum(cookie, 0)?, sum(cookie, 1)?])
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(PROGRAM_INGRESS_COOKIE);
    Ok(program.context("no such program")?.try_into()?)
}

#[test]
fn syns_to_a_listening_socket_are_answered() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.inside.sysctl(SYN_COOKIES, ALWAYS)?;
    let _service = Echo::start(&lab.inside, PORT)?;
    let own = lab.inside.hardware_address()?;
    let mut alone = Alone::load(hardware_address(own))?;
    let verified = program(&mut alone.ebpf)?
        .info()?
        .verified_instruction_count();
    println!("{verified:?} instructions verified");
    let all_tags = [
        &[][..],
        &[(ethertype::VLAN, 7)],
        &[(ethertype::SERVICE_VLAN, 7), (ethertype::VLAN, 8)],
    ];
    let mut cookies = Vec::new();
    for ipv6 in [false, true] {
        for options in [&[][..], &OPTIONS[..4], &OPTIONS, &[1; 40]] {
            for tags in all_tags {
                let syn = Syn::new(&lab, ipv6, PORT)?.options(options);
                let frame = with_tags(&syn.frame()?, tags);
                let case = format!("{frame:02x?}");
                for padding in [0, 6, 100] {
                    let padded = [&frame[..], &vec![0x5a; padding]].concat();
                    let answer = alone.run(&lab.inside, &padded)?.context(case.clone())?;
                    let answer = check(&answer, &syn, tags).context(case.clone())?;
                    let says_mss = options.starts_with(&[2, 4]);
                    let expected = match (says_mss, ipv6) {
                        (true, false) => 1460,
                        (true, true) => 1440,
                        (false, false) => 536,
                        (false, true) => 1220,
                    };
                    ensure!(answer.mss == expected, "{answer:?}: {case}");
                    cookies.push(answer.cookie);
                }
            }
        }
    }
    cookies.dedup();
    ensure!(
        cookies.len() >= 4,
        "they say what they are for: {cookies:?}"
    );
    Ok(())
}

#[test]
fn what_only_the_kernel_can_answer_goes_on_to_it() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.inside.sysctl(SYN_COOKIES, ALWAYS)?;
    let _service = Echo::start(&lab.inside, PORT)?;
    let own = hardware_address(lab.inside.hardware_address()?);
    let mut alone = Alone::load(own)?;
    for ipv6 in [false, true] {
        let good = Syn::new(&lab, ipv6, PORT)?.options(&OPTIONS);
        let frame = good.frame()?;
        ensure!(alone.run(&lab.inside, &frame)?.is_some(), "{frame:02x?}");
        let tcp = if ipv6 { at::V6_PAYLOAD } else { at::V4_PAYLOAD };
        let cases = [
            ("nobody listens", Syn::new(&lab, ipv6, CLOSED)?.frame()?),
            ("it brings data", good.clone().data(b"GET /").frame()?),
            ("wrong checksum", patched(&frame, tcp + 4, &[1, 2, 3, 4])),
            ("for another host", patched(&frame, 0, &[2, 1, 1, 1, 1, 1])),
            ("in several buffers", [&frame[..], &[0; 6000]].concat()),
        ];
        for (name, frame) in cases {
            let answer = alone.run(&lab.inside, &frame)?;
            ensure!(answer.is_none(), "{name}: {answer:02x?}");
        }
    }
    // The kernel says when: with 1 in need, with 0 never.
    for value in ["1", "0"] {
        lab.inside.sysctl(SYN_COOKIES, value)?;
        let frame = Syn::new(&lab, false, PORT)?.frame()?;
        ensure!(alone.run(&lab.inside, &frame)?.is_none(), "{value}");
    }
    Ok(())
}
