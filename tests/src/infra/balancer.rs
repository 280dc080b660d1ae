//! A load balancer: HAProxy, which ends TLS, and keepalived, which holds the site's address on one of the two.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};

use super::design::{Role, SERVERS, SITE, SITE_NAME};
use super::machine::{INTERFACE, Machine, NOBODY};
use crate::net::Daemon;

/// The certificate with its key, for HAProxy.
const PEM: &str = "/run/site.pem";

/// Where HAProxy's process is told, on the machine.
pub const HAPROXY_PID: &str = "/run/haproxy.pid";

/// What keepalived runs to see whether HAProxy is there and can pass requests on: one that has just come back, and knows of no
/// web server yet, is not to take the address.
const CHECK: &str = "#!/bin/sh\nPATH=/run/tools/bin:$PATH exec curl --disable --silent --fail --noproxy '*' --max-time 1 \
    --output /dev/null http://127.0.0.1:8405/ready\n";

/// A certificate that signs itself, and its key.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// Both, as HAProxy wants them.
    pem: String,
    /// What clients trust.
    pub(super) public: String,
}

impl Certificate {
    /// Makes one for the site, which lasts a day.
    ///
    /// # Errors
    ///
    /// If there is no openssl.
    pub(super) fn new(machine: &Machine) -> Result<Self> {
        let mut command = machine.command("openssl");
        command
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
            .args(["-keyout", "/run/site.key", "-out", "/run/site.crt"])
            .args(["-subj", &format!("/CN={SITE_NAME}")])
            .args(["-addext", &format!("subjectAltName=DNS:{SITE_NAME}")])
            // Not the configuration of this machine, nor of a place where the package would be installed.
            .env("OPENSSL_CONF", "/dev/null");
        machine.run(&mut command)?.success()?;
        let read =
            |path: &str| std::fs::read_to_string(machine.file(path)).context("a certificate");
        let public = read("/run/site.crt")?;
        Ok(Self {
            pem: read("/run/site.key")? + &public,
            public,
        })
    }
}

/// Starts HAProxy.
pub(super) fn haproxy(machine: &Machine, certificate: &Certificate) -> Result<Daemon> {
    machine.write(PEM, &certificate.pem)?;
    machine.write("/etc/haproxy/haproxy.cfg", &configuration())?;
    let mut command = machine.command("haproxy");
    command.args([
        "-W",
        "-db",
        "-f",
        "/etc/haproxy/haproxy.cfg",
        "-p",
        HAPROXY_PID,
    ]);
    machine.service("haproxy", &mut command, "Loading success")
}

/// Requests are spread over the web servers, which are asked each second whether they are there. A request that meets one
/// which is not goes to the other.
fn configuration() -> String {
    let servers: String = SERVERS
        .iter()
        .filter(|server| server.role == Role::Web)
        .map(|server| {
            format!(
                "    server {} {}:80 check inter 1s fall 2 rise 1\n",
                server.name, server.v4
            )
        })
        .collect();
    format!(
        "global\n    maxconn 4000\n    uid {NOBODY}\n    gid {NOBODY}\n    log stdout format raw daemon notice\n\
         defaults\n    mode http\n    log global\n    timeout connect 2s\n    timeout client 30s\n    timeout server 30s\n    \
         retries 3\n    option redispatch 1\n    option forwardfor\n\
         frontend site\n    bind :::80 v4v6\n    bind :::443 v4v6 ssl crt {PEM} alpn h2,http/1.1\n    \
         http-request redirect scheme https unless {{ ssl_fc }}\n    default_backend web\n\
         backend web\n    balance roundrobin\n    option httpchk GET /alive\n    http-response set-header x-served-by %s\n{servers}\
         frontend metrics\n    bind :::8404 v4v6\n    http-request use-service prometheus-exporter if {{ path /metrics }}\n\
         frontend ready\n    bind 127.0.0.1:8405\n    monitor-uri /ready\n    monitor fail if {{ nbsrv(web) lt 1 }}\n"
    )
}

/// Starts keepalived; of the two the one with the higher priority is to hold the address.
pub(super) fn keepalived(machine: &Machine, priority: u8) -> Result<Daemon> {
    let [v4, v6] = SITE;
    let check = "/etc/keepalived/can-serve";
    machine.write(check, CHECK)?;
    fs::set_permissions(machine.file(check), Permissions::from_mode(0o755))?;
    machine.write(
        "/etc/keepalived/keepalived.conf",
        &format!(
            "global_defs {{\n    script_user root\n    enable_script_security\n    vrrp_startup_delay 0\n}}\n\
             vrrp_script haproxy {{\n    script {check}\n    interval 1\n    timeout 2\n    fall 1\n    rise 1\n    weight -100\n}}\n\
             vrrp_instance site {{\n    state BACKUP\n    interface {INTERFACE}\n    virtual_router_id 51\n    priority {priority}\n    \
             version 3\n    advert_int 0.2\n    virtual_ipaddress {{\n        {v4}/28 dev {INTERFACE}\n    }}\n    \
             virtual_ipaddress_excluded {{\n        {v6}/64 dev {INTERFACE} preferred_lft 0\n    }}\n    \
             track_script {{\n        haproxy\n    }}\n}}\n"
        ),
    )?;
    let mut command = machine.command("keepalived");
    command
        .args([
            "--dont-fork",
            "--log-console",
            "--no-syslog",
            "--log-detail",
        ])
        .args(["--vrrp", "--use-file", "/etc/keepalived/keepalived.conf"])
        .args([
            "--pid",
            "/run/keepalived.pid",
            "--vrrp_pid",
            "/run/vrrp.pid",
        ]);
    machine.service("keepalived", &mut command, "Entering BACKUP STATE")
}

/// Whether it holds the site's address now.
///
/// # Errors
///
/// If the machine is off.
pub fn holds_the_address(machine: &Machine) -> Result<bool> {
    let text = machine.must(&format!("ip address show dev {INTERFACE}"))?;
    Ok(SITE
        .iter()
        .all(|address| text.contains(&format!(" {address}/"))))
}
