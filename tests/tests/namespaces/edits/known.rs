//! Addresses that come into a list in force, of which the tables know all that is needed: the list itself is not read.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::Lab;
use firewall_tests::packets::{HOST_V4, ethernet, ethertype, ipv4_between, tcp, tcp_flag};

use super::random::verdicts_in_force;

/// Nobody may shut out the office.
const FILE: &str = r#"
version = 1

[groups]
refused = { file = "refused.txt" }
office = ["203.0.113.0/24"]

[[rule]]
name = "blocklist"
action = "drop"
from = ["refused"]

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [80]

[[assert]]
packet = "tcp from office to :80"
expect = "accept"
message = "the office sees the site"
"#;

/// Somebody else, who is added and removed, neighbours of his, and somebody in the list.
const SOURCES: [[u8; 4]; 5] = [
    [198, 51, 100, 7],
    [198, 51, 100, 6],
    [198, 51, 100, 8],
    [192, 0, 2, 77],
    [203, 0, 113, 1],
];

#[test]
fn what_comes_into_a_list_takes_no_reading_of_it() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.write("refused.txt", "192.0.2.64/28\n198.51.100.128/25\n")?;
    lab.apply(FILE, "auto")?;
    let frames = SOURCES.map(|source| {
        let packet = ipv4_between(source.into(), HOST_V4, 6, &tcp(80, tcp_flag::SYN));
        ethernet(ethertype::IPV4, &packet)
    });
    let seen = || verdicts_in_force(&lab.inside, &frames);
    let group = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let interface = ["-i", lab.inside.interface()];
        lab.inside
            .firewall(&[&["group"], &words[..], &interface].concat())
    };
    ensure!(seen()? == [true, true, true, false, true], "{:?}", seen()?);
    let mut lists = 0;
    for entry in fs::read_dir(lab.inside.state())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("list-") {
            fs::remove_file(entry.path())?;
            lists += 1;
        }
    }
    ensure!(lists == 1, "{lists} lists were kept");

    group("add refused 198.51.100.7")?.success()?;
    ensure!(seen()? == [false, true, true, false, true], "{:?}", seen()?);
    group("add refused 198.51.100.6 198.51.100.8")?.success()?;
    ensure!(
        seen()? == [false, false, false, false, true],
        "{:?}",
        seen()?
    );
    group("remove refused 198.51.100.6 198.51.100.7")?.success()?;
    ensure!(seen()? == [true, true, false, false, true], "{:?}", seen()?);
    let back = lab
        .inside
        .firewall(&["rollback", "-i", lab.inside.interface()])?;
    back.success()?;
    ensure!(
        seen()? == [false, false, false, false, true],
        "{:?}",
        seen()?
    );

    // An assertion is asked about what comes in.
    let said = group("add refused 203.0.113.0/25")?.failure(1)?;
    ensure!(said.contains("the office sees the site"), "{said}");
    ensure!(
        seen()? == [false, false, false, false, true],
        "{:?}",
        seen()?
    );

    // What is in the list in part, or was read with it, takes the list, which is gone.
    for words in [
        "add refused 198.51.100.0/24",
        "remove refused 192.0.2.64/28",
    ] {
        let said = group(words)?.failure(1)?;
        ensure!(said.contains("list-"), "{said}");
    }
    ensure!(
        seen()? == [false, false, false, false, true],
        "{:?}",
        seen()?
    );
    lab.apply(FILE, "auto").context("the list is read again")?;
    ensure!(seen()? == [true, true, true, false, true], "{:?}", seen()?);
    Ok(())
}
