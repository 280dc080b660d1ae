//! Downloads such as a package manager's: much data that comes in because this host has asked for it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, PATIENCE, tcp};
use firewall_tests::net::{Daemon, Host, Lab, MODES, rules};

const BYTES: usize = 16 << 20;

/// Starts nginx on a host of the lab, which serves the large file as `/large` on port 80.
pub(crate) fn nginx(lab: &Lab, host: &Host) -> Result<Daemon> {
    let root = lab.directory().join("www");
    fs::create_dir_all(&root)?;
    fs::write(root.join("large"), content())?;
    let directory = lab.directory().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {directory}/{what}; "))
        .concat();
    let configuration = lab.write(
        "nginx.conf",
        &format!(
            "user root root; daemon off; worker_processes 1; pid {directory}/nginx.pid;\n\
             error_log stderr notice;\nevents {{ }}\n\
             http {{ access_log off; {temporary}\n\
             server {{ listen 80; listen [::]:80; root {directory}/www; }} }}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    command
        .args(["-e", "stderr", "-p"])
        .arg(lab.directory())
        .arg("-c")
        .arg(configuration);
    let log = lab.directory().join("nginx.log");
    Daemon::start(host, &mut command, &log, "start worker process ")
}

/// What the large file holds: a lost, repeated or misplaced segment changes it.
fn content() -> Vec<u8> {
    (0..BYTES)
        .map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8)
        .collect()
}

/// Fetches `/large` from the host with this address by curl, on another; what came.
fn fetch(lab: &Lab, client: &Host, address: IpAddr) -> Result<Vec<u8>> {
    let file = lab.directory().join("fetched");
    let url = format!("http://{}/large", SocketAddr::new(address, 80));
    let mut command = Command::new("curl");
    command
        .args([
            "--disable",
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
        ])
        .args([
            "--max-time",
            &(6 * PATIENCE.as_secs()).to_string(),
            "--output",
        ])
        .arg(&file)
        .arg(url);
    client.run(&mut command)?.success()?;
    Ok(fs::read(file)?)
}

/// Fetches the large file over IPv4 and IPv6 from one host to the other.
pub(crate) fn fetch_all(lab: &Lab, client: &Host, server: &Host, what: &str) -> Result<()> {
    for address in [IpAddr::from(server.v4), IpAddr::from(server.v6)] {
        let fetched = fetch(lab, client, address).with_context(|| format!("{what}, {address}"))?;
        // Not ensure!(a == b), which would print both.
        let whole = fetched == content();
        ensure!(
            whole,
            "{what}, {address}: {} bytes came, or others",
            fetched.len()
        );
    }
    Ok(())
}

#[test]
fn a_download_arrives_whole() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _server = nginx(&lab, &lab.outside)?;
        lab.apply(&rules(&[]), mode)?;
        fetch_all(&lab, &lab.inside, &lab.outside, mode)?;
        let stats = lab.stats()?;
        ensure!(stats.passed("answer") > 100, "{mode}: {stats:#?}");
        ensure!(stats.totals.dropped.packets == 0, "{mode}: {stats:#?}");
    }
    Ok(())
}

/// The near miss: a scan whose segments come from the port of a web server, as answers do.
#[test]
fn a_scan_from_a_servers_port_finds_nothing() -> Result<()> {
    const PORT: u16 = 8080;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _service = Echo::start(&lab.inside, PORT)?;
    let scan = |kind: &str| -> Result<String> {
        let mut command = Command::new("nmap");
        command
            .args([
                "-n",
                "-Pn",
                "--source-port",
                "80",
                "--max-retries",
                "0",
                kind,
            ])
            .args(["-p", &PORT.to_string()])
            .arg(lab.inside.v4.to_string());
        lab.outside.run(&mut command)?.success()
    };
    let found = scan("-sS")?;
    ensure!(
        found.contains("8080/tcp open"),
        "without a firewall: {found}"
    );
    let found = scan("-sA")?;
    ensure!(
        found.contains("8080/tcp unfiltered"),
        "without a firewall: {found}"
    );
    lab.apply(&rules(&[]), "native")?;
    for kind in ["-sS", "-sA"] {
        let found = scan(kind)?;
        ensure!(found.contains("8080/tcp filtered"), "{kind}: {found}");
    }
    ensure!(lab.stats()?.dropped("no-rule") >= 2);
    Ok(())
}

/// As in a data centre: large frames, and segments that the receiver merges before the network stack sees them.
#[test]
fn a_download_in_jumbo_frames_with_gro_arrives_whole() -> Result<()> {
    const MTU: u64 = 9000;
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        for host in [&lab.outside, &lab.inside] {
            let interface = host.interface();
            host.ip(&format!("link set {interface} mtu {MTU}"))?;
            host.must(&format!("ethtool -K {interface} gro on"))?;
        }
        let _server = nginx(&lab, &lab.outside)?;
        lab.apply(&rules(&[]), mode)?;
        let features = lab
            .inside
            .must(&format!("ethtool -k {}", lab.inside.interface()))?;
        ensure!(
            features.contains("generic-receive-offload: on"),
            "{mode}: {features}"
        );
        fetch_all(&lab, &lab.inside, &lab.outside, mode)?;
        let stats = lab.stats()?;
        let answers = stats.passes.iter().find(|pass| pass.reason == "answer");
        let answers = answers.context("no such reason")?;
        ensure!(
            answers.bytes / answers.packets > MTU / 2,
            "{mode}: the frames are not large: {answers:?}"
        );
        ensure!(stats.totals.dropped.packets == 0, "{mode}: {stats:#?}");
        // What was merged is no reason to let anything else in.
        let _other = Echo::start(&lab.inside, 8080)?;
        ensure!(!tcp(
            &lab.outside,
            SocketAddr::new(lab.inside.v4.into(), 8080),
            1
        )?);
    }
    Ok(())
}
