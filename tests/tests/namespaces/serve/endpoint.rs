//! The endpoint withstands whoever means it ill, and tells nobody else anything.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use firewall_tests::net::exposition::{Exposition, get};
use firewall_tests::net::{Lab, PINS, rules};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::Service;
use crate::growth::MANY;

/// A user that owns nothing.
const NOBODY: u32 = 65_534;
/// More memory than this the service may not take for any number of clients.
const MORE_MEMORY: u64 = 32 << 20;

/// Where it listens in the namespace of the host inside.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9590);

fn connect(lab: &Lab) -> Result<TcpStream> {
    let stream = lab.inside.enter(|| Ok(TcpStream::connect(ADDRESS)?))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Bytes of the service's memory.
fn memory(service: &Service) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", service.daemon.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kibibytes << 10)
}

#[test]
fn only_what_is_asked_for_well_is_answered() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[]), "native")?;
    let service = Service::start(&lab, &["--listen", "127.0.0.1:9590"])?;
    ensure!(get(connect(&lab)?, "/metrics")?.status == 200);
    ensure!(get(connect(&lab)?, "/metrics?x=1")?.status == 200);
    let health = get(connect(&lab)?, "/healthz")?;
    ensure!(health.status == 200 && health.body == "ok\n", "{health:?}");
    for path in ["/", "/metrics/", "/../etc/passwd", "/%2e%2e/x"] {
        ensure!(get(connect(&lab)?, path)?.status == 404, "{path}");
    }
    for (request, expected) in [
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("no HTTP\r\n\r\n", "400"),
    ] {
        let mut stream = connect(&lab)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1);
        ensure!(status == Some(expected), "{request:?}: {answer}");
    }
    let before = memory(&service)?;
    let long = "x".repeat(64 << 10);
    for request in [
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nX: {long}\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(10_000)),
    ] {
        for _ in 0..20 {
            let mut stream = connect(&lab)?;
            // It may be refused while it is still being sent.
            let _ = stream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            let status = answer.split(' ').nth(1).unwrap_or("none");
            ensure!(["none", "414", "431", "400"].contains(&status), "{answer}");
        }
    }
    let grown = memory(&service)?.saturating_sub(before);
    ensure!(grown < MORE_MEMORY, "{grown} bytes more");
    ensure!(service.get("/metrics")?.status == 200);
    Ok(())
}

#[test]
fn slow_clients_and_many_keep_nobody_out() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    // An answer of some megabytes, which does not fit into sockets' buffers.
    lab.apply(&rules(&[MANY]), "native")?;
    let service = Service::start(&lab, &["--listen", "127.0.0.1:9590"])?;
    let whole = service.get("/metrics")?.body.len();
    ensure!(whole > 4 << 20, "{whole} bytes");
    let before = memory(&service)?;

    let mut slow = Vec::new();
    for number in 0..500 {
        let mut stream = connect(&lab)?;
        match number % 3 {
            // Nothing is asked, or half of it, or the answer is not taken.
            0 => {}
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ")?,
            _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?,
        }
        slow.push(stream);
        if number % 50 == 0 {
            let began = Instant::now();
            let answer = get(connect(&lab)?, "/metrics")?;
            ensure!(answer.status == 200 && answer.body.len() > whole / 2);
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "{:?}",
                began.elapsed()
            );
        }
    }
    let grown = memory(&service)?.saturating_sub(before);
    eprintln!(
        "500 slow clients: {} KiB more than {} KiB, an answer has {} KiB",
        grown >> 10,
        before >> 10,
        whole >> 10
    );
    // Four texts at the most, beside what a scrape takes while it is made.
    ensure!(grown < MORE_MEMORY + 4 * whole as u64, "{grown} bytes more");
    let refused = service
        .metrics()?
        .sum("firewall_http_connections_refused_total", &[]);
    ensure!(refused > 300.0, "{refused}");
    // Those that are left are ended, however slowly they go on.
    let deadline = Instant::now() + Duration::from_secs(40);
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => bail!("not ended: {error}"),
        }
        ensure!(Instant::now() < deadline, "not ended in time");
    }
    Ok(())
}

#[test]
fn many_scrapes_are_one_look() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[]), "native")?;
    let service = Service::start(&lab, &[])?;
    let texts: Vec<Result<String>> = thread::scope(|scope| {
        let scrapes: Vec<_> = (0..32)
            .map(|_| scope.spawn(|| Ok(service.get("/metrics")?.body)))
            .collect();
        scrapes
            .into_iter()
            .map(|one| one.join().expect("it panics"))
            .collect()
    });
    let mut texts = texts.into_iter().collect::<Result<Vec<_>>>()?;
    texts
        .iter()
        .try_for_each(|text| Exposition::read(text).map(drop))?;
    texts.dedup();
    ensure!(texts.len() <= 4, "{} different ones", texts.len());
    Ok(())
}

#[test]
fn another_user_reads_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[]), "native")?;
    let service = Service::start(&lab, &[])?;
    // The way there is open: it is the socket itself that is not.
    fs::set_permissions(lab.directory(), Permissions::from_mode(0o755))?;
    let mode = fs::metadata(&service.socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o660, "{mode:o}");
    let (socket, state) = (&service.socket, lab.inside.state());
    as_nobody(|| {
        let denied = |what: &str, error: Option<std::io::Error>| {
            let kind = error.map(|error| error.kind());
            ensure!(
                kind == Some(ErrorKind::PermissionDenied),
                "{what}: {kind:?}"
            );
            Ok(())
        };
        denied("the socket", UnixStream::connect(socket).err())?;
        denied("the pins", fs::read_dir(PINS).err())?;
        denied("a pin", fs::metadata(state.join("link")).err())?;
        denied("removing a pin", fs::remove_file(state.join("link")).err())?;
        denied("the lock", fs::File::open("/run/firewall/lock").err())
    })?;
    ensure!(service.get("/metrics")?.status == 200);
    Ok(())
}

/// Does something as a user that owns nothing; of this thread, which ends then.
fn as_nobody(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let done = thread::scope(|scope| {
        scope
            .spawn(|| {
                let (group, user) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
                set_thread_groups(&[])?;
                set_thread_res_gid(group, group, group)?;
                set_thread_res_uid(user, user, user)?;
                work()
            })
            .join()
    });
    match done {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn the_service_keeps_three_privileges() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let service = Service::start(&lab, &[])?;
    let status = fs::read_to_string(format!("/proc/{}/status", service.daemon.id()))?;
    let set = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        Ok(u64::from_str_radix(
            line.context("no such line")?.trim(),
            16,
        )?)
    };
    // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF of linux/capability.h.
    let kept = 1 << 12 | 1 << 38 | 1 << 39;
    for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
        ensure!(set(name)? == kept, "{name} {:x}", set(name)?);
    }
    ensure!(set("CapInh:")? == 0 && set("CapAmb:")? == 0);
    ensure!(status.contains("NoNewPrivs:\t1"));
    Ok(())
}
