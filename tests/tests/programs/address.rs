//! An IPv6 address by router advertisement (SLAAC), obtained while everything else is refused.

use anyhow::{Result, ensure};
use firewall_tests::net::traffic::{SILENCE, wait_until};
use firewall_tests::net::{Daemon, Lab, MODES, rules};

use crate::dnsmasq;

const PREFIX: &str = "2001:db8:7:";

/// Advertises the prefix.
fn router(lab: &Lab) -> Result<Daemon> {
    let interface = lab.outside.interface();
    lab.outside
        .ip(&format!("address add {PREFIX}:1/64 dev {interface} nodad"))?;
    dnsmasq(
        lab,
        &[
            "--port=0".to_owned(),
            "--enable-ra".to_owned(),
            format!("--dhcp-range={PREFIX}:,ra-only,64"),
            format!("--interface={interface}"),
            "--bind-interfaces".to_owned(),
        ],
    )
}

/// Has the host inside ask for routers, as an interface does that comes up.
fn ask_for_routers(lab: &Lab) -> Result<()> {
    let parameter = |name: &str, value: &str| {
        let name = format!("ipv6/conf/{}/{name}", lab.inside.interface());
        lab.inside.sysctl(&name, value)
    };
    parameter("accept_ra", "1")?;
    parameter("autoconf", "1")?;
    // It would wait for a second before it asks, and another for duplicates.
    parameter("router_solicitation_delay", "0")?;
    parameter("accept_dad", "0")?;
    parameter("disable_ipv6", "1")?;
    parameter("disable_ipv6", "0")
}

fn has_address(lab: &Lab) -> Result<bool> {
    let text = lab.inside.ip(&format!(
        "-6 address show dev {} scope global",
        lab.inside.interface()
    ))?;
    Ok(text.contains(PREFIX))
}

#[test]
fn an_address_comes_by_router_advertisement() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[]), mode)?;
        let _router = router(&lab)?;
        ensure!(!has_address(&lab)?, "{mode}: it has one already");
        ask_for_routers(&lab)?;
        wait_until("an address", || has_address(&lab))?;
        let routes = lab.inside.ip("-6 route show default")?;
        ensure!(routes.contains("proto ra"), "{mode}: {routes}");
        let stats = lab.stats()?;
        ensure!(
            stats.passed("neighbour-discovery") > 0,
            "{mode}: {stats:#?}"
        );
    }
    Ok(())
}

/// The near miss: that it is this essential through which it comes.
#[test]
fn no_address_comes_where_the_file_says_so() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(
        &(rules(&[]) + "\n[essentials]\nneighbour-discovery = false\n"),
        "native",
    )?;
    let mut router = router(&lab)?;
    ask_for_routers(&lab)?;
    router.wait_for(&format!("RTR-ADVERT({})", lab.outside.interface()))?;
    std::thread::sleep(SILENCE);
    ensure!(!has_address(&lab)?, "it has one");
    lab.stats_when(|stats| stats.dropped("no-rule") > 0)?;
    Ok(())
}
