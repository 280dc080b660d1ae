//! The Debian package: it installs, guards on over an upgrade, and leaves nothing when it is purged.

mod machine;
mod service;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};
use firewall_tests::net::{Outcome, firewall, skip, workspace};
use serde_json::Value;
use tempfile::TempDir;

use machine::{Init, Machine};

/// The interface to guard.
const GUARDED: &str = "guarded0";

/// The exposure, of 100, that `systemd-analyze security` may see at most.
const EXPOSURE: u32 = 30;

/// The two versions that are installed.
const VERSIONS: [&str; 2] = ["0.1.0-1", "0.1.0-2"];

/// Makes the package of the command that is tested.
fn package(directory: &Path, version: &str) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let file = directory.join(format!("firewall_{version}.deb"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace())
        .args(["xtask", "package", "--version", version, "--firewall"])
        .arg(firewall()?)
        .arg("--output")
        .arg(&file);
    let output = cargo.output().context("cannot start cargo")?;
    Outcome::from(output)
        .success()
        .context("cargo xtask package")?;
    Ok(file)
}

/// The packages of both versions, made once.
fn packages() -> Result<&'static [PathBuf]> {
    static PACKAGES: OnceLock<Result<Vec<PathBuf>, String>> = OnceLock::new();
    let packages = PACKAGES.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        VERSIONS
            .map(|version| package(&directory, version).map_err(|error| format!("{error:#}")))
            .into_iter()
            .collect()
    });
    match packages {
        Ok(packages) => Ok(packages),
        Err(error) => bail!("{error}"),
    }
}

/// A machine with both packages at hand, or the reason why there is none.
fn machine(init: Init) -> Result<Result<Machine, String>> {
    let machine = Machine::new(init)?;
    if let Ok(machine) = &machine {
        for package in packages()? {
            machine.bring(package)?;
        }
    }
    Ok(machine)
}

#[test]
fn the_same_sources_make_the_same_package() -> Result<()> {
    let directory = TempDir::new()?;
    let again = package(directory.path(), VERSIONS[0])?;
    let [first, second] = packages()? else {
        bail!("there are two versions");
    };
    // Not ensure!(a == b), which would print both.
    let is_same = fs::read(first)? == fs::read(&again)?;
    ensure!(
        is_same,
        "{} and {} differ",
        first.display(),
        again.display()
    );
    let is_another = fs::read(second)? != fs::read(&again)?;
    ensure!(is_another, "another version makes no other package");
    Ok(())
}

#[test]
fn it_installs_upgrades_and_goes_without_a_trace() -> Result<()> {
    let machine = match machine(Init::Nobody)? {
        Ok(machine) => machine,
        Err(why) => return skip(&why),
    };
    install(&machine)?;
    let guarded = guard(&machine)?;
    upgrade(&machine, &guarded)?;
    // As a power cut may leave it.
    machine.run("mkdir /var/lib/firewall && echo '{' > /var/lib/firewall/bans.json")?;
    remove(&machine)?;
    machine.run("test -e /var/lib/firewall/bans.json.unreadable")?;
    purge(&machine)
}

/// Under the restrictions of the unit the service does all that it has to, from before there is an interface on, and nothing that
/// happens to it takes the firewall off.
#[test]
fn systemd_starts_and_stops_the_service_and_the_kernel_guards_on() -> Result<()> {
    let machine = match machine(Init::Systemd)? {
        Ok(machine) => machine,
        Err(why) => return skip(&why),
    };
    machine.bring(&workspace().join("rules/web.toml"))?;
    machine.run(&format!(
        "mkdir /etc/firewall && cp /run/packages/web.toml /etc/firewall/{GUARDED}.toml && ip link set lo up"
    ))?;
    machine.run("dpkg --install /run/packages/firewall_0.1.0-1.deb")?;
    // As at the start of the machine, before there is any interface but lo.
    ensure!(
        service::is_active(&machine)?,
        "{}",
        service::said(&machine)?
    );
    links(&machine)?;
    service::wait_until(&machine, || Ok(status(&machine)?["state"] == "guarded"))?;
    let first = service::process(&machine)?;
    ensure!(service::is_confined(&machine)?, "it may do more");
    let metrics = service::metrics(&machine)?;
    let attached =
        format!(r#"firewall_attached{{interface="{GUARDED}",hook="xdp",mode="native"}} 1"#);
    ensure!(metrics.contains(&attached), "{metrics}");

    // From a reload on what the rule file says is in force.
    machine.run(&format!(
        "firewall rule add 'accept tcp 8443' -i {GUARDED} && systemctl reload firewall"
    ))?;
    service::wait_until(&machine, || {
        Ok(!machine
            .run(&format!("firewall rule list -i {GUARDED}"))?
            .contains("8443"))
    })?;

    machine.run(&format!("firewall ban 198.51.100.7 -i {GUARDED} --for 1h"))?;
    let guarded = status(&machine)?;
    machine.run("systemctl stop firewall")?;
    ensure!(status(&machine)? == guarded, "stopped");
    machine.run("grep -q 198.51.100.7 /var/lib/firewall/bans.json")?;
    machine.run("systemctl start firewall && systemctl kill --signal KILL firewall")?;
    ensure!(status(&machine)? == guarded, "killed");
    service::wait_until_active(&machine)?;
    ensure!(service::process(&machine)? != first);

    let before = service::process(&machine)?;
    machine.run("dpkg --install /run/packages/firewall_0.1.0-2.deb")?;
    ensure!(
        service::is_active(&machine)?,
        "{}",
        service::said(&machine)?
    );
    ensure!(service::process(&machine)? != before, "it is the old one");
    ensure!(status(&machine)? == guarded, "upgraded");

    remove(&machine)?;
    ensure!(!service::is_active(&machine)?, "removed and active");
    Ok(())
}

/// All is in its place, and the service is enabled but not started where no systemd runs.
fn install(machine: &Machine) -> Result<()> {
    machine.run("dpkg --install /run/packages/firewall_0.1.0-1.deb")?;
    machine.run("firewall --version")?;
    for file in [
        "/etc/default/firewall",
        "/etc/firewall/README",
        "/usr/share/bash-completion/completions/firewall",
        "/usr/share/doc/firewall/README.md",
        "/usr/share/doc/firewall/changelog.Debian.gz",
        "/usr/share/doc/firewall/copyright",
        "/usr/share/firewall/crowdsec/firewall-bouncer.sh",
        "/usr/share/firewall/fail2ban/action.d/firewall.conf",
        "/usr/share/firewall/grafana/firewall.json",
        "/usr/share/firewall/prometheus/alerts.yml",
        "/usr/share/fish/vendor_completions.d/firewall.fish",
        "/usr/share/man/man8/firewall-rule-add.8.gz",
        "/usr/share/man/man8/firewall.8.gz",
        "/usr/share/zsh/vendor-completions/_firewall",
    ] {
        machine.run(&format!("test -s {file}"))?;
    }
    let unit = machine.run("readlink /etc/systemd/system/sysinit.target.wants/firewall.service")?;
    ensure!(
        unit.ends_with("/systemd/system/firewall.service\n"),
        "{unit}"
    );
    let known = machine.run(
        ". /usr/share/bash-completion/completions/firewall && complete -p firewall && echo $BASH_VERSION",
    );
    ensure!(known?.contains("-F _firewall"), "bash completes nothing");
    let page = machine.run("gzip -dc /usr/share/man/man8/firewall-apply.8.gz")?;
    ensure!(page.contains("\\-\\-confirm"), "{page}");

    if machine
        .run("command -v systemd-analyze || true")?
        .is_empty()
    {
        skip("the unit is not verified: there is no systemd-analyze")?;
    } else {
        machine.run("systemd-analyze verify --man=no firewall.service")?;
        machine.run(&format!(
            "systemd-analyze security --no-pager --offline=yes --threshold={EXPOSURE} firewall.service"
        ))?;
    }
    Ok(())
}

/// Guards an interface with an example of the package; what guards it.
fn guard(machine: &Machine) -> Result<Value> {
    links(machine)?;
    machine.run(&format!(
        "cp /usr/share/firewall/rules/web.toml /etc/firewall/{GUARDED}.toml && \
         firewall apply /etc/firewall/{GUARDED}.toml -i {GUARDED}"
    ))?;
    let status = status(machine)?;
    ensure!(status["state"] == "guarded", "{status}");
    Ok(status)
}

/// Makes the interface.
fn links(machine: &Machine) -> Result<()> {
    machine.run(&format!(
        "ip link add {GUARDED} type veth peer name beyond0 && ip link set {GUARDED} up && ip link set beyond0 up"
    ))?;
    Ok(())
}

/// What `firewall status` tells of it.
fn status(machine: &Machine) -> Result<Value> {
    let text = machine.run("firewall status --format json")?;
    let all: Value = serde_json::from_str(&text).context(text)?;
    Ok(all[0].clone())
}

/// The same programs guard before and after; what the administrator wrote stays.
fn upgrade(machine: &Machine, guarded: &Value) -> Result<()> {
    machine.run("echo FIREWALL_OPTIONS= > /etc/default/firewall")?;
    let said = machine.run("dpkg --install /run/packages/firewall_0.1.0-2.deb 2>&1")?;
    ensure!(said.contains("no older version guards"), "{said}");
    let after = status(machine)?;
    ensure!(after == *guarded, "{guarded} and then {after}");
    let kept = machine.run("cat /etc/default/firewall")?;
    ensure!(kept == "FIREWALL_OPTIONS=\n", "{kept}");
    Ok(())
}

/// The firewall is off, said aloud, and the configuration still there.
fn remove(machine: &Machine) -> Result<()> {
    let said = machine.run("dpkg --remove firewall 2>&1")?;
    ensure!(
        said.contains(&format!(
            "{GUARDED}: the firewall is off, everything is let in"
        )),
        "{said}"
    );
    let link = machine.run(&format!("ip link show dev {GUARDED}"))?;
    ensure!(!link.contains("xdp"), "{link}");
    machine.run("test ! -e /sys/fs/bpf/firewall || test -z \"$(ls /sys/fs/bpf/firewall)\"")?;
    machine.run("test ! -e /usr/sbin/firewall && test -s /etc/default/firewall")?;
    let state = machine.run("dpkg-query --show --showformat '${Status}' firewall")?;
    ensure!(state == "deinstall ok config-files", "{state}");
    Ok(())
}

/// The administrator's rule file stays, and nothing else.
fn purge(machine: &Machine) -> Result<()> {
    machine.run("dpkg --purge firewall")?;
    let left = machine.left()?;
    let rules = format!("etc/firewall/{GUARDED}.toml");
    ensure!(left == ["etc/firewall", &rules], "{left:?}");
    Ok(())
}
