//! A web server in wrong hands: of a service's user, who is held by what leaves, and of root, who takes that firewall off and
//! is held by everybody else's.

use anyhow::{Result, ensure};
use firewall_tests::infra::design::{Role, SITE, fate_without_sender};
use firewall_tests::infra::probe::{Decoys, Seen, all_from};
use firewall_tests::infra::{INTERFACE, Site, guard};

use crate::client::get;
use crate::designed::dropped;

pub(crate) fn a_web_server_in_wrong_hands_finds_no_way_on(site: &mut Site) -> Result<()> {
    let web = site.machine("web1")?;
    let shell = |line: &str| web.run(web.unprivileged("bash").args(["-c", line]));
    // What the design lets it do, it can.
    let application = site.machine("app1")?.v4();
    let line = format!(
        "exec 3<>/dev/tcp/{application}/8080 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let said = shell(&line)?.success()?;
    ensure!(said.contains("notes_read_total"), "{said}");

    // And not: a shell for its master, the database, the other web server, another resolver.
    let before = dropped(web, "egress-no-rule")?;
    let client = site.machine("client")?;
    for (to, port) in [
        (client, 443),
        (client, 4444),
        (site.machine("db1")?, 3306),
        (site.machine("web2")?, 80),
        (site.machine("mon1")?, 9090),
        (client, 53),
    ] {
        for address in to.addresses() {
            let line = format!("timeout 0.9 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
            let outcome = shell(&line)?;
            // 124 is what timeout says when the time is over: nothing came back.
            ensure!(outcome.code == Some(124), "{address} {port}: {outcome}");
        }
    }
    let kept = dropped(web, "egress-no-rule")? - before;
    ensure!(kept >= 12, "{kept}");
    // Nor does it turn the firewall off, or see what is in it.
    for line in [
        "firewall detach -i eth0",
        "firewall apply /dev/null -i eth0",
        "ls /sys/fs/bpf/firewall/eth0",
    ] {
        let outcome = shell(line)?;
        ensure!(outcome.code != Some(0), "{line}: {outcome}");
    }

    // Root does. Then everybody else is as closed to it as ever, and open is what has no firewall.
    guard::firewall(web, &["detach", "-i", INTERFACE])?.success()?;
    let decoys = Decoys::start(site)?;
    let expected = |seen: &Seen| fate_without_sender(Role::Web, seen.to.role, seen.service);
    for seen in all_from(site, web, expected)? {
        ensure!(seen.reached == expected(&seen), "{seen:?}");
        ensure!(
            !(seen.reached && matches!(seen.to.role, Role::Primary | Role::Replica)),
            "{seen:?}"
        );
    }
    drop(decoys);
    guard::apply(web)?;
    get(client, SITE[0], "/").map(drop)
}
