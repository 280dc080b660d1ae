//! fail2ban, with the action that is shipped for it: who fails to log in is banned by the firewall.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, SILENCE, exchange, tcp, wait_until};
use firewall_tests::net::{Daemon, Lab, MODES, firewall, rules, workspace};
use rustix::process::Signal;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use crate::users;

const SSH_PORT: u16 = 2222;
const ECHO_PORT: u16 = 7000;
const SERVED: &str =
    r#"name = "served"; action = "accept"; protocol = "tcp"; ports = [2222, 7000]"#;

/// Another address of the host outside.
const SECOND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);

/// What sshd says, in the directory of the test.
const LOG: &str = "auth.log";

/// Starts sshd on the host inside, with a syslog daemon that writes as it does on hosts: each line with its time, and the
/// process that fail2ban tells connections by. Both see users, a `/run` and a `/dev` of this test's own.
fn sshd(lab: &Lab) -> Result<Daemon> {
    const START: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd /run/dev && : > /run/dev/null || exit
mount --bind /dev/null /run/dev/null && mount --bind /run/dev /dev || exit
mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow || exit
busybox syslogd -n -S -O - &
until [ -S /dev/log ]; do sleep 0.01; done
exec "$(command -v sshd)" -D -f "$0/sshd_config"
"#;
    let directory = lab.directory().display();
    users(lab)?;
    lab.write(
        "sshd_config",
        &format!(
            "Port {SSH_PORT}\nHostKey {directory}/host\nPidFile none\nUsePAM no\nPasswordAuthentication no\n"
        ),
    )?;
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(lab.directory().join("host"));
    lab.inside.run(&mut command)?.success()?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", START])
        .arg(lab.directory());
    let log = lab.directory().join(LOG);
    Daemon::start(
        &lab.inside,
        &mut command,
        &log,
        "Server listening on :: port",
    )
}

/// Tries to log in as somebody who does not exist.
fn guess(lab: &Lab, from: IpAddr, to: IpAddr) -> Result<()> {
    let line = format!(
        "ssh -F none -T -p {SSH_PORT} -b {from} -o BatchMode=yes -o PubkeyAuthentication=no -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 admin@{to}"
    );
    let outcome = lab.outside.run(Command::new("sh").args(["-c", &line]))?;
    ensure!(outcome.stderr.contains("Permission denied"), "{outcome}");
    Ok(())
}

/// Whether the service that everybody may use serves a client with the source address `from`.
fn serves(lab: &Lab, from: IpAddr, to: IpAddr) -> Result<bool> {
    lab.outside.enter(|| {
        let to = SocketAddr::new(to, ECHO_PORT);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        match socket.connect_timeout(&to.into(), SILENCE) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("{from} to {to}")),
        }
        exchange(&mut socket.into(), 100).with_context(|| format!("{from} to {to}"))?;
        Ok(true)
    })
}

/// Waits until it does.
fn wait_until_served(lab: &Lab, from: IpAddr, to: IpAddr) -> Result<()> {
    wait_until(&format!("{from} is served"), || serves(lab, from, to))
}

/// A line of `firewall bans`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Ban {
    interface: String,
    address: IpAddr,
    prefix: String,
    expires_s: Option<f64>,
    by: String,
    reason: Option<String>,
}

impl Ban {
    fn is_by(&self, jail: &str) -> bool {
        self.reason.as_deref() == Some(&format!("fail2ban {jail}"))
    }
}

fn bans(lab: &Lab) -> Result<Vec<Ban>> {
    let text = lab
        .inside
        .firewall(&["bans", "--format", "json"])?
        .success()?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

fn ban_of(lab: &Lab, address: IpAddr) -> Result<Option<Ban>> {
    Ok(bans(lab)?.into_iter().find(|ban| ban.address == address))
}

/// Waits until a jail's ban of an address is listed.
fn wait_until_banned(lab: &Lab, address: IpAddr, jail: &str) -> Result<Ban> {
    let mut found = None;
    wait_until(&format!("{address} is banned by {jail}"), || {
        found = ban_of(lab, address)?.filter(|ban| ban.is_by(jail));
        Ok(found.is_some())
    })?;
    found.context("it was found")
}

/// The server of fail2ban on the host inside, with nothing of this machine's.
struct Fail2ban {
    server: Daemon,
    configuration: PathBuf,
}

impl Fail2ban {
    /// Starts it with these jails, as a reader of the action's comment would set it up, to ban on `interface`: empty means all.
    fn start(lab: &Lab, interface: &str, jails: &str) -> Result<Self> {
        let configuration = lab.directory().join("fail2ban");
        fs::create_dir(&configuration)?;
        let debian = debian_configuration()?;
        let parts = [
            "action.d",
            "fail2ban.conf",
            "filter.d",
            "jail.conf",
            "paths-common.conf",
            "paths-debian.conf",
        ];
        let mut copy = Command::new("cp");
        copy.arg("-r")
            .args(parts.map(|part| debian.join(part)))
            .arg(&configuration);
        lab.inside.run(&mut copy)?.success()?;
        let action = workspace().join("firewall-user/dist/fail2ban/action.d/firewall.conf");
        fs::copy(&action, configuration.join("action.d/firewall.conf"))
            .with_context(|| format!("cannot copy {}", action.display()))?;

        let directory = lab.directory().display();
        let firewall = firewall()?.display();
        lab.write(
            "fail2ban/action.d/firewall.local",
            &format!("[Init]\nfirewall = {firewall}\ninterface = {interface}\n"),
        )?;
        lab.write(
            "fail2ban/fail2ban.local",
            &format!(
                "[DEFAULT]\nlogtarget = STDOUT\nsocket = {directory}/socket\npidfile = {directory}/pid\n\
                 dbfile = {directory}/fail2ban.sqlite3\n"
            ),
        )?;
        // Without looking for names: a host in a lab has nobody to ask, its own included.
        lab.write(
            "fail2ban/jail.local",
            &format!(
                "[DEFAULT]\nbanaction = firewall\nbanaction_allports = firewall\nusedns = no\nignoreself = false\n{jails}"
            ),
        )?;
        let mut command = Command::new("fail2ban-server");
        command.arg("-f").arg("-c").arg(&configuration).arg("start");
        let log = lab.directory().join("fail2ban.log");
        Ok(Self {
            server: Daemon::start(&lab.inside, &mut command, &log, "Server ready")?,
            configuration,
        })
    }

    /// Has the client ask something of the server; `line` is cut at spaces.
    fn ask(&self, lab: &Lab, line: &str) -> Result<String> {
        let mut command = Command::new("fail2ban-client");
        command
            .arg("-c")
            .arg(&self.configuration)
            .args(line.split(' '));
        let outcome = lab.inside.run(&mut command)?;
        outcome.success().with_context(|| line.to_owned())
    }

    /// Fails if anything has failed.
    fn is_content(&self) -> Result<()> {
        let said = self.server.said()?;
        let complains = [" ERROR ", " CRITICAL "]
            .iter()
            .any(|level| said.contains(level));
        ensure!(!complains, "{said}");
        Ok(())
    }
}

/// The configuration that the package brings: where set-up has unpacked it, or installed.
fn debian_configuration() -> Result<PathBuf> {
    [
        workspace().join("target/tools/debian/tools/etc/fail2ban"),
        Path::new("/etc/fail2ban").to_owned(),
    ]
    .into_iter()
    .find(|directory| directory.join("jail.conf").is_file())
    .context("fail2ban is not here: `cargo xtask setup` sees to it")
}

/// A jail for sshd, under any name.
fn jail(lab: &Lab, name: &str, bantime: &str) -> String {
    format!(
        "\n[{name}]\nenabled = true\nfilter = sshd\nport = {SSH_PORT}\nlogpath = {}\nbackend = polling\n\
         maxretry = 3\nbantime = {bantime}\n",
        lab.directory().join(LOG).display()
    )
}

#[test]
fn failed_logins_are_banned_until_fail2ban_lifts_the_ban() -> Result<()> {
    for (mode, named) in MODES.into_iter().zip([true, false]) {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let link = lab.outside.interface();
        lab.outside
            .ip(&format!("address add {SECOND_V6}/64 dev {link} nodad"))?;
        lab.apply(&rules(&[SERVED]), mode)?;
        let _echo = Echo::start(&lab.inside, ECHO_PORT)?;
        let _sshd = sshd(&lab)?;
        let interface = if named { lab.inside.interface() } else { "" };
        let mut fail2ban = Fail2ban::start(&lab, interface, &jail(&lab, "sshd", "10m"))?;

        let (v4, v6) = (IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6));
        let intruders = [IpAddr::from(lab.outside.v4), SECOND_V6.into()];
        let others = [IpAddr::from(lab.stranger()), lab.outside.v6.into()];
        for (inside, (intruder, other)) in
            [v4, v6].into_iter().zip(intruders.into_iter().zip(others))
        {
            // Two failures may be mistakes.
            for from in [other, other, intruder, intruder, intruder] {
                guess(&lab, from, inside)?;
            }
            fail2ban
                .server
                .wait_for(&format!("[sshd] Ban {intruder}\n"))?;
            let ban = wait_until_banned(&lab, intruder, "sshd")?;
            let length = if intruder.is_ipv4() { 32 } else { 128 };
            ensure!(
                ban.interface == lab.inside.interface()
                    && ban.prefix == format!("{intruder}/{length}")
                    && ban.by == "command",
                "{mode}: {ban:?}"
            );
            let left_s = ban.expires_s.with_context(|| format!("{mode}: for ever"))?;
            ensure!(left_s > 500.0 && left_s <= 600.0, "{mode}: {ban:?}");
            ensure!(
                !serves(&lab, intruder, inside)?,
                "{mode}: {intruder} is served"
            );
            ensure!(serves(&lab, other, inside)?, "{mode}: {other} is not");
        }
        ensure!(bans(&lab)?.len() == 2, "{mode}: {:?}", bans(&lab)?);

        let [first, second] = intruders;
        fail2ban.ask(&lab, &format!("set sshd unbanip {first}"))?;
        wait_until_served(&lab, first, v4).with_context(|| format!("{mode}, unbanned"))?;
        ensure!(!serves(&lab, second, v6)?, "{mode}: {second} is served");
        fail2ban.ask(&lab, "stop sshd")?;
        wait_until_served(&lab, second, v6).with_context(|| format!("{mode}, stopped"))?;
        ensure!(bans(&lab)?.is_empty(), "{mode}: {:?}", bans(&lab)?);
        fail2ban.is_content()?;
    }
    Ok(())
}

#[test]
fn bans_of_fail2ban_end_also_when_it_was_killed() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED]), "native")?;
    lab.write(LOG, "")?;
    let _echo = Echo::start(&lab.inside, ECHO_PORT)?;
    let mut fail2ban = Fail2ban::start(&lab, "", &jail(&lab, "sshd", "8s"))?;
    let (intruder, inside) = (IpAddr::from(lab.outside.v4), IpAddr::from(lab.inside.v4));

    // By both: the one that comes later has nothing to do, and says nothing of it.
    fail2ban.ask(&lab, &format!("set sshd banip {intruder}"))?;
    wait_until_banned(&lab, intruder, "sshd")?;
    ensure!(!serves(&lab, intruder, inside)?);
    fail2ban
        .server
        .wait_for(&format!("[sshd] Unban {intruder}\n"))?;
    wait_until_served(&lab, intruder, inside)?;
    fail2ban.is_content()?;

    // By the kernel alone.
    fail2ban.ask(&lab, &format!("set sshd banip {intruder}"))?;
    wait_until_banned(&lab, intruder, "sshd")?;
    fail2ban.server.signal(Signal::KILL)?;
    let ban = ban_of(&lab, intruder)?.context("it has ended early")?;
    ensure!(!serves(&lab, intruder, inside)?);
    let left_s = ban.expires_s.context("for ever")?;
    thread::sleep(Duration::from_secs_f64(left_s));
    wait_until_served(&lab, intruder, inside)
}

/// An address has one ban, whoever gives it: that of a jail neither shortens nor lifts another's.
#[test]
fn jails_and_operators_do_not_lift_each_others_bans() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED]), "native")?;
    lab.write(LOG, "")?;
    let jails = jail(&lab, "lenient", "10m") + &jail(&lab, "strict", "-1");
    let fail2ban = Fail2ban::start(&lab, "", &jails)?;
    let set = |line: &str, address: IpAddr| fail2ban.ask(&lab, &format!("set {line} {address}"));
    let [first, second]: [IpAddr; 2] = ["203.0.113.7".parse()?, "203.0.113.8".parse()?];

    set("strict banip", first)?;
    wait_until_banned(&lab, first, "strict")?;
    set("lenient banip", first)?;
    // A jail does one after the other.
    set("lenient banip", second)?;
    let ban = wait_until_banned(&lab, second, "lenient")?;
    ensure!(ban.expires_s.is_some(), "{ban:?}");
    set("strict banip", second)?;
    wait_until_banned(&lab, second, "strict")?;
    for address in [first, second] {
        set("lenient unbanip", address)?;
        let ban = ban_of(&lab, address)?.with_context(|| format!("{address} is not banned"))?;
        ensure!(ban.is_by("strict") && ban.expires_s.is_none(), "{ban:?}");
    }
    set("strict unbanip", first)?;
    ensure!(ban_of(&lab, first)?.is_none(), "{:?}", bans(&lab)?);

    let by_hand = "2001:db8:7::/48";
    lab.inside.firewall(&["ban", by_hand])?.success()?;
    fail2ban.is_content()?;
    fail2ban.ask(&lab, "stop")?;
    wait_until("the bans of fail2ban are lifted", || {
        Ok(bans(&lab)?.len() == 1)
    })?;
    let left = bans(&lab)?;
    ensure!(left[0].prefix == by_hand, "{left:?}");
    Ok(())
}

#[test]
fn fail2ban_says_that_an_interface_is_not_guarded() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.write(LOG, "")?;
    let interface = lab.inside.interface();
    let mut fail2ban = Fail2ban::start(&lab, interface, &jail(&lab, "sshd", "10m"))?;
    fail2ban
        .server
        .wait_for(&format!("{interface} is not guarded"))?;
    // It goes on as soon as there is something to ban with.
    lab.apply(&rules(&[SERVED]), "native")?;
    let intruder = IpAddr::from(lab.outside.v6);
    fail2ban.ask(&lab, &format!("set sshd banip {intruder}"))?;
    wait_until_banned(&lab, intruder, "sshd")?;
    Ok(())
}

/// The script for CrowdSec's custom bouncer, started as that does.
#[test]
fn decisions_of_crowdsec_become_bans() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let served = "version = 1\n[[rule]]\nname = \"echo\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [7001]\n";
    lab.apply(served, "native")?;
    let _echo = Echo::start(&lab.inside, 7001)?;
    let target = SocketAddr::new(lab.inside.v4.into(), 7001);
    let script = workspace().join("firewall-user/dist/crowdsec/firewall-bouncer.sh");
    let decide = |words: [&str; 5]| {
        let mut command = Command::new(&script);
        command.args(words).env("FIREWALL", firewall()?);
        lab.inside.run(&mut command)?.success()
    };
    let source = lab.outside.v4.to_string();
    let reason = "crowdsecurity/ssh-bf";
    decide(["add", &source, "14399", reason, "{\"scope\":\"Ip\"}"])?;
    ensure!(!tcp(&lab.outside, target, 1)?);
    decide(["add", "2001:db8:bad::/48", "1h2m3.25s", reason, "{}"])?;
    let said = lab.inside.firewall(&["bans"])?.success()?;
    ensure!(
        said.contains("crowdsec crowdsecurity/ssh-bf")
            && said.contains("3 h 59 min")
            && said.contains("1 h 2 min")
            && said.contains("2001:db8:bad::/48"),
        "{said}"
    );
    decide(["del", &source, "0", reason, "{}"])?;
    ensure!(tcp(&lab.outside, target, 1)?);
    Ok(())
}
