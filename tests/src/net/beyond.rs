//! A third host, behind the one outside, which becomes a router.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::host::Host;
use super::lab::Lab;

/// The router's addresses on the far side.
const ROUTER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(203, 0, 113, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 1),
);

impl Lab {
    /// Makes a host in 203.0.113.0/24 and 2001:db8:5::/64 that is reached through the host outside. Packets on their way
    /// there that have more than `mtu` bytes are answered with an ICMP error by the router; both ends believe in the usual
    /// 1500, so that TCP does not agree on less when it connects.
    ///
    /// # Errors
    ///
    /// If the namespace or the link cannot be made.
    pub fn beyond(&self, mtu: u32) -> Result<Host> {
        let (router, inside) = (&self.outside, &self.inside);
        let near = format!("{}r", router.interface());
        let far = format!("{}b", router.interface());
        let mut host = Host::new(format!("{}-beyond", router.namespace()), far.clone(), 2)?;
        host.v4 = Ipv4Addr::new(203, 0, 113, 2);
        host.v6 = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 2);

        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
        router.ip(&format!(
            "link add {near} type veth peer name {far} netns {}",
            host.namespace()
        ))?;
        for (end, interface, v4, v6) in [
            (router, &near, ROUTER.0, ROUTER.1),
            (&host, &far, host.v4, host.v6),
        ] {
            end.ip(&format!("link set {interface} up"))?;
            end.ip(&format!(
                "address add {v4}/24 dev {interface} noprefixroute"
            ))?;
            end.ip(&format!(
                "address add {v6}/64 dev {interface} nodad noprefixroute"
            ))?;
        }
        for (end, interface, limit) in [
            (router, &near, format!(" mtu {mtu}")),
            (&host, &far, String::new()),
        ] {
            for network in ["203.0.113.0/24", "2001:db8:5::/64"] {
                end.ip(&format!("route add {network} dev {interface}{limit}"))?;
            }
        }
        host.ip(&format!("route add default via {}", ROUTER.0))?;
        host.ip(&format!("route add default via {}", ROUTER.1))?;
        inside.ip(&format!("route add 203.0.113.0/24 via {}", router.v4))?;
        inside.ip(&format!("route add 2001:db8:5::/64 via {}", router.v6))?;
        Ok(host)
    }
}
