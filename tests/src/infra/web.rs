//! A web server: nginx serves pages, and passes requests for notes on to the application.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::design::{Role, SERVERS};
use super::machine::Machine;
use crate::net::Daemon;

/// Starts nginx as a web server of the site.
pub(super) fn start(machine: &Machine) -> Result<Daemon> {
    let application = SERVERS.iter().find(|one| one.role == Role::Application);
    let application = application.context("no application")?.v4;
    let page = format!("A page, served by {}.\n", machine.name());
    nginx(
        machine,
        &page,
        &format!(
            "location = /alive {{ return 200 \"alive\\n\"; }}\n\
             location /notes {{ proxy_pass http://{application}:8080; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}"
        ),
    )
}

/// Starts nginx as a mirror of packages, such as there are.
pub(super) fn mirror(machine: &Machine) -> Result<Daemon> {
    nginx(machine, "Packages.\n", "")
}

fn nginx(machine: &Machine, page: &str, locations: &str) -> Result<Daemon> {
    machine.write("/run/www/index.html", page)?;
    machine.folder("/run/nginx")?;
    let mut temporary = String::new();
    for what in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "{what}_temp_path /run/nginx/{what};");
    }
    machine.write(
        "/etc/nginx/nginx.conf",
        &format!(
            "user nobody nogroup; daemon off; worker_processes 1; pid /run/nginx.pid; error_log stderr notice;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\naccess_log off; default_type text/plain; keepalive_requests 10000;\n{temporary}\
             server {{\nlisten 80; listen [::]:80; root /run/www;\n{locations}\n}}\n}}\n"
        ),
    )?;
    let mut command = machine.command("nginx");
    command.args(["-e", "stderr", "-p", "/run", "-c", "/etc/nginx/nginx.conf"]);
    machine.service("nginx", &mut command, "start worker process ")
}
