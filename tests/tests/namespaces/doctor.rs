//! `firewall doctor` on machines that have something the matter, and on one that has not: what it finds, and that what it says
//! mends it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use firewall_common::abi::PROGRAM_INGRESS_COOKIE;
use firewall_tests::net::traffic::wait_until;
use firewall_tests::net::{Lab, Outcome, firewall};
use firewall_user::kernel::instance::OBJECT;
use serde::Deserialize;

use crate::probe::{InForce, policy};

/// A user without any rights; Debian calls it nobody.
const NOBODY: u32 = 65534;

#[derive(Debug, Deserialize)]
struct Finding {
    interface: Option<String>,
    check: String,
    severity: String,
    finding: String,
    remedy: Option<String>,
}

/// What doctor says of the inner interface, and its exit code.
struct Said {
    code: Option<i32>,
    findings: Vec<Finding>,
}

impl Said {
    fn of(lab: &Lab) -> Result<Self> {
        Self::about(lab, &["-i", lab.inside.interface()])
    }

    fn about(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        let arguments = [&["doctor", "--format", "json"], arguments].concat();
        Self::read(&lab.inside.firewall(&arguments)?)
    }

    fn read(outcome: &Outcome) -> Result<Self> {
        let findings = serde_json::from_str(&outcome.stdout)
            .with_context(|| format!("not the documented JSON: {outcome}"))?;
        ensure!(outcome.stderr.is_empty(), "{outcome}");
        Ok(Self {
            code: outcome.code,
            findings,
        })
    }

    /// The one finding of `check` about the interface.
    fn one(&self, check: &str) -> Result<&Finding> {
        let mut found = self
            .findings
            .iter()
            .filter(|finding| finding.check == check);
        let one = found
            .next()
            .with_context(|| format!("no {check} in {:?}", self.findings))?;
        ensure!(found.next().is_none(), "more than one {check}");
        Ok(one)
    }

    /// Asserts severity and verdict, and the exit code that goes with them.
    fn expect(&self, severity: &str, verdict: &str) -> Result<()> {
        let found = self.one("verdict")?;
        ensure!(
            (&found.severity[..], &found.finding[..]) == (severity, verdict),
            "{found:?}"
        );
        let code = i32::from(
            self.findings
                .iter()
                .any(|finding| finding.severity == "error"),
        );
        ensure!(
            self.code == Some(code),
            "exit code {:?}, expected {code}",
            self.code
        );
        Ok(())
    }

    /// What mends what `check` has found.
    fn remedy(&self, check: &str) -> Result<&str> {
        let found = self.one(check)?;
        let remedy = found.remedy.as_deref();
        remedy.with_context(|| format!("no remedy: {found:?}"))
    }
}

/// Does what doctor says.
fn mend(lab: &Lab, remedy: &str) -> Result<()> {
    let words: Vec<_> = remedy.split(' ').collect();
    match words[..] {
        ["firewall", ref arguments @ ..] => lab.inside.firewall(arguments)?.success().map(drop),
        _ => lab.inside.must(remedy).map(drop),
    }
}

#[test]
fn a_healthy_interface_is_told_so_before_and_after() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let said = Said::of(&lab)?;
    said.expect("ok", "native XDP will attach")?;
    let mine = |finding: &Finding| {
        finding
            .interface
            .as_deref()
            .is_none_or(|name| name == interface)
    };
    ensure!(said.findings.iter().all(mine), "{:?}", said.findings);
    ensure!(lab.inside.attached()?.is_none(), "it attached something");
    ensure!(!lab.inside.pins().exists(), "it pinned something");

    lab.apply(&policy(InForce::A), "native")?;
    // Without a name it finds what is guarded here, and nothing of other network namespaces.
    let said = Said::about(&lab, &[])?;
    said.expect("ok", "guarded in native mode")?;
    ensure!(said.findings.iter().all(mine), "{:?}", said.findings);

    let text = lab
        .inside
        .firewall(&["doctor", "-i", interface])?
        .success()?;
    let (_, text) = text
        .split_once("\n\n")
        .context("no paragraph for the interface")?;
    let directory = lab.directory().display().to_string();
    let text = text
        .replace(interface, "IFACE")
        .replace(&directory, "DIRECTORY");
    let expected = "\
ok       IFACE driver: driver veth runs XDP programs
note     IFACE vlan-offload: the card takes VLAN tags out of frames: files with [vlans] are refused, and \
answers of syn-cookies reach no VLAN in native mode
           ethtool -K IFACE rxvlan off rx-vlan-stag-hw-parse off
ok       IFACE egress: both programs are at work: what leaves is seen, and answered
ok       IFACE file: the rules in force are those of DIRECTORY/rules.toml
IFACE: guarded in native mode
";
    ensure!(text == expected, "{text}");
    Ok(())
}

/// The other end of a cable decides whether programs can run at this one, and the driver takes no more tags out once told.
#[test]
fn what_a_driver_does_is_mended_as_told() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let name = lab.inside.interface();
    let other = lab.outside.interface();
    let said = Said::of(&lab)?;
    mend(&lab, said.remedy("vlan-offload")?)?;
    let still = Said::of(&lab)?;
    ensure!(still.one("vlan-offload").is_err(), "{:?}", still.findings);

    lab.outside.ip(&format!("link delete {other}"))?;
    lab.outside.ip(&format!(
        "link add {other} numtxqueues 2 type veth peer name {name} numrxqueues 1 netns {}",
        lab.inside.namespace()
    ))?;
    let said = Said::of(&lab)?;
    let why = "driver veth runs no XDP programs while the other end has more queues to send than this one to receive";
    said.expect("warning", &format!("only generic mode: {why}"))?;
    mend(&lab, said.remedy("link")?)?;
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let attached = lab.inside.attached()?.context("nothing is attached")?;
    ensure!(attached.mode == "generic", "{attached:?}");
    Ok(())
}

#[test]
fn somebody_elses_program_is_named_and_taken_off_as_told() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let mut object = Ebpf::load(OBJECT)?;
    let program = object.program_mut(PROGRAM_INGRESS_COOKIE);
    let program: &mut Xdp = program.context("no such program")?.try_into()?;
    program.load()?;
    lab.inside
        .enter(|| Ok(program.attach(interface, XdpMode::Skb)?))?;
    let said = Said::of(&lab)?;
    let found = said.one("xdp")?;
    ensure!(
        found.finding.contains("`ingress_cookie` in generic mode"),
        "{found:?}"
    );
    said.expect("error", &format!("cannot be guarded: {}", found.finding))?;
    mend(&lab, said.remedy("xdp")?)?;
    Said::of(&lab)?.expect("ok", "native XDP will attach")
}

#[test]
fn filters_of_tc_are_told() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    lab.inside
        .must(&format!("tc qdisc add dev {interface} clsact"))?;
    ensure!(
        Said::of(&lab)?.one("filters").is_err(),
        "a qdisc alone filters nothing"
    );
    let filter = [
        "filter", "add", "dev", interface, "egress", "protocol", "all",
    ];
    // Classic BPF: return 0, which is no match.
    let program = ["bpf", "bytecode", "1,6 0 0 0"];
    let mut tc = Command::new("tc");
    lab.inside.run(tc.args(filter).args(program))?.success()?;
    let said = Said::of(&lab)?;
    let found = said.one("filters")?;
    ensure!(
        found.severity == "note" && found.finding.contains("egress (bpf)"),
        "{found:?}"
    );
    said.expect("ok", "native XDP will attach")
}

#[test]
fn what_is_wrong_with_a_guard_is_mended_as_told() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "generic")?;
    let said = Said::of(&lab)?;
    ensure!(said.one("mode")?.severity == "note");
    ensure!(said.remedy("mode")?.ends_with("--mode native"));
    said.expect("ok", "guarded in generic mode")?;

    std::fs::remove_file(lab.inside.state().join("link-egress"))?;
    wait_until("nothing sees what leaves", || {
        Ok(lab.inside.egress()?.is_empty())
    })?;
    let said = Said::of(&lab)?;
    let why = &said.one("egress")?.finding;
    said.expect("error", &format!("guarded in generic mode, but: {why}"))?;
    mend(&lab, said.remedy("egress")?)?;
    let said = Said::of(&lab)?;
    said.expect("ok", "guarded in generic mode")?;

    let file = lab.write("rules.toml", &policy(InForce::B))?;
    ensure!(
        Said::of(&lab)?.one("file")?.severity == "note",
        "another file is not told"
    );
    std::fs::remove_file(file)?;
    ensure!(
        Said::of(&lab)?.one("file")?.severity == "warning",
        "no file is not told"
    );
    Ok(())
}

#[test]
fn pins_without_their_interface_are_stale() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "native")?;
    let (name, other) = (lab.inside.interface(), lab.outside.interface());
    lab.outside.ip(&format!("link delete {other}"))?;
    let said = Said::about(&lab, &[])?;
    let remedy = said.remedy("pins")?.to_owned();
    ensure!(
        said.code == Some(0) && remedy == format!("firewall detach -i {name}"),
        "{remedy}"
    );

    lab.outside.ip(&format!(
        "link add {other} type veth peer name {name} netns {}",
        lab.inside.namespace()
    ))?;
    let said = Said::of(&lab)?;
    said.expect("error", "NOT guarded any more")?;
    ensure!(said.remedy("pins")? == format!("firewall apply FILE -i {name}"));
    mend(&lab, &remedy)?;
    Said::of(&lab)?.expect("ok", "native XDP will attach")
}

/// What is guarded must not be taken for unguarded, nor be told to be taken off.
#[test]
fn a_mount_namespace_without_bpffs_hides_a_guard() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "native")?;
    let script = format!(
        "umount /sys/fs/bpf && exec {} doctor --format json -i {}",
        firewall()?.display(),
        lab.inside.interface()
    );
    let mut unshare = Command::new("unshare");
    let outcome = lab
        .inside
        .run(unshare.args(["--mount", "sh", "-c", &script]))?;
    let said = Said::read(&outcome)?;
    said.expect("error", "guarded, by what cannot be seen from here")?;
    ensure!(said.one("bpffs")?.severity == "error");
    for check in ["bpffs", "pins"] {
        let remedy = said.remedy(check)?;
        ensure!(remedy.starts_with("nsenter --net="), "{remedy}");
    }
    Ok(())
}

#[test]
fn without_root_the_rest_is_told() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let binary = std::fs::read(firewall()?)?;
    // The folder that it was built into may be closed to others.
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let copy = directory.path().join("firewall");
    std::fs::write(&copy, binary)?;
    std::fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    let mut command = Command::new(&copy);
    command.args(["doctor", "--format", "json", "-i", lab.inside.interface()]);
    let said = Said::read(&lab.inside.run(command.uid(NOBODY).gid(NOBODY))?)?;
    ensure!(said.one("privileges")?.severity == "error");
    ensure!(said.one("driver")?.severity == "ok");
    said.expect(
        "error",
        "only root can tell whether it is guarded, or can be",
    )
}
