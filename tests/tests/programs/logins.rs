//! A login by ssh, which somebody has open while he puts the firewall in force: the one that must not hang.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::{Daemon, Lab, MODES, rules};

use crate::sessions::{IMPATIENT, wait_until_forgotten};
use crate::users;

const PORT: &str = "2222";
const SSH: &str = r#"name = "ssh"; action = "accept"; protocol = "tcp"; ports = [2222]"#;

/// Starts sshd on the host inside. It sees users and a `/run` of this test's own, since it wants a user and a directory
/// that only an installed one has; nothing of the machine is changed.
fn sshd(lab: &Lab) -> Result<Daemon> {
    const START: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd || exit
mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow || exit
exec "$(command -v sshd)" -D -e -f "$0/sshd_config"
"#;
    let directory = lab.directory().display();
    users(lab)?;
    lab.write(
        "sshd_config",
        &format!(
            "Port {PORT}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/login.pub\nPidFile none\n\
             UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        ),
    )?;
    for key in ["host", "login"] {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(lab.directory().join(key));
        lab.inside.run(&mut command)?.success()?;
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", START])
        .arg(lab.directory());
    let log = lab.directory().join("sshd.log");
    Daemon::start(
        &lab.inside,
        &mut command,
        &log,
        "Server listening on :: port",
    )
}

/// The command that logs in from outside, with nothing of this machine's configuration.
fn ssh(lab: &Lab, address: IpAddr) -> String {
    let key = lab.directory().join("login");
    format!(
        "ssh -F none -T -p {PORT} -i {} -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2 root@{address}",
        key.display()
    )
}

/// Somebody who has logged in, and whose shell repeats the lines that he types.
struct Session {
    typed: File,
    ssh: Daemon,
}

impl Session {
    fn open(lab: &Lab, address: IpAddr) -> Result<Self> {
        const REPEAT: &str = "'echo logged in; while read line; do echo got $line; done'";
        let file = lab.directory().join(format!("typed-{}", address.is_ipv4()));
        let typed = File::create(&file)?;
        let line = format!(
            "tail -n +1 -f {} | {} {REPEAT}",
            file.display(),
            ssh(lab, address)
        );
        let log = file.with_extension("log");
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        Ok(Self {
            typed,
            ssh: Daemon::start(&lab.outside, &mut command, &log, "logged in")?,
        })
    }

    /// Types a word and waits until it comes back.
    fn answers(&mut self, word: &str) -> Result<()> {
        writeln!(self.typed, "{word}")?;
        self.ssh.wait_for(&format!("got {word}"))
    }
}

/// Whether a new login succeeds.
fn admits(lab: &Lab, address: IpAddr) -> Result<bool> {
    let line = format!("{} echo welcome", ssh(lab, address));
    let outcome = lab.outside.run(Command::new("sh").args(["-c", &line]))?;
    if outcome.code == Some(0) {
        return Ok(outcome.stdout.contains("welcome"));
    }
    ensure!(outcome.stderr.contains("timed out"), "{outcome}");
    Ok(false)
}

#[test]
fn a_login_survives_the_firewall_and_a_pause() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _server = sshd(&lab)?;
        let addresses = [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)];
        let mut sessions = Vec::new();
        for address in addresses {
            sessions.push(Session::open(&lab, address)?);
        }
        // A file that forgets to accept logins: whoever has one can mend it, nobody else gets in.
        lab.apply(&(rules(&[]) + IMPATIENT), mode)?;
        for word in ["before", "after"] {
            for session in &mut sessions {
                session
                    .answers(word)
                    .with_context(|| format!("{mode}, {word} a pause"))?;
            }
            wait_until_forgotten(&lab)?;
        }
        for address in addresses {
            ensure!(!admits(&lab, address)?, "{mode}: {address} admits anybody");
        }
        lab.apply(&rules(&[SSH]), mode)?;
        for (session, address) in sessions.iter_mut().zip(addresses) {
            session
                .answers("mended")
                .with_context(|| format!("{mode}, with a rule"))?;
            ensure!(admits(&lab, address)?, "{mode}: {address} admits nobody");
        }
    }
    Ok(())
}
