//! Building the site: machines, cables, services, and then the firewall on each server.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, bail};

use super::balancer::{self, Certificate};
use super::design::{ROUTER, Role, SERVERS};
use super::machine::Machine;
use super::{application, database, guard, monitoring, names_and_time, network, web};
use crate::net::Daemon;

/// What the machines run that no package has.
#[derive(Clone, Debug)]
pub struct Programs {
    /// What was built of `src/bin/application.rs`.
    pub application: PathBuf,
}

/// The site while it runs; dropping it switches everything off.
#[derive(Debug)]
pub struct Site {
    // First, since with their machine all services end at once.
    machines: Vec<Machine>,
    router: Machine,
    services: Vec<Daemon>,
}

impl Site {
    /// Builds it, without a firewall anywhere.
    ///
    /// # Errors
    ///
    /// If a machine or a service does not begin, with what it says.
    pub fn build(programs: &Programs) -> Result<Self> {
        let router = Machine::start(&ROUTER)?;
        network::bridges(&router)?;
        let machines = in_parallel(SERVERS, Machine::start)?;
        for machine in &machines {
            network::cable(&router, machine)?;
            settings(machine)?;
        }
        let certificate = Certificate::new(&router)?;
        for machine in &machines {
            machine.write("/run/site.crt", &certificate.public)?;
        }
        let mut site = Self {
            machines,
            router,
            services: Vec::new(),
        };
        // One thread for each machine, but the replica begins when there is something to follow.
        let (replicas, others): (Vec<_>, Vec<_>) = site
            .machines
            .iter()
            .partition(|machine| machine.server.role == Role::Replica);
        let mut services = Vec::new();
        for group in [others, replicas] {
            let started = in_parallel(&group, |machine| {
                services_of(machine, programs, &certificate)
            })?;
            services.extend(started.into_iter().flatten());
        }
        site.services = services;
        Ok(site)
    }

    /// Puts the rule file of its role in force on each server, and starts the firewall's service for monitoring there; what
    /// each command said.
    ///
    /// # Errors
    ///
    /// A rule file is refused, or a service does not begin.
    pub fn guard(&mut self) -> Result<Vec<String>> {
        let guarded: Vec<_> = self.guarded().collect();
        let said = in_parallel(&guarded, |machine| {
            Ok((guard::apply(machine)?, guard::serve(machine)?))
        })?;
        let (said, services): (Vec<_>, Vec<_>) = said.into_iter().unzip();
        self.services.extend(services);
        Ok(said)
    }

    /// All machines but the router.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Those with a rule file.
    pub fn guarded(&self) -> impl Iterator<Item = &Machine> {
        let machines = self.machines.iter();
        machines.filter(|machine| machine.server.role.rules().is_some())
    }

    /// The machine with this name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        let mut machines = self.machines.iter();
        let found = machines.find(|machine| machine.name() == name);
        found.with_context(|| format!("no machine is called {name}"))
    }

    /// What stands between all of them.
    pub fn router(&self) -> &Machine {
        &self.router
    }

    /// The balancer that holds the site's address, and the other one.
    ///
    /// # Errors
    ///
    /// None does, or both do.
    pub fn balancers(&self) -> Result<[&Machine; 2]> {
        let both = [self.machine("lb1")?, self.machine("lb2")?];
        let [first, second] = both;
        match (
            balancer::holds_the_address(first)?,
            balancer::holds_the_address(second)?,
        ) {
            (true, false) => Ok([first, second]),
            (false, true) => Ok([second, first]),
            (held, _) => bail!(
                "the site's address is held by {}",
                if held { "both" } else { "none" }
            ),
        }
    }
}

/// Settings of the network stack.
fn settings(machine: &Machine) -> Result<()> {
    // So that probes may ping without being root's programs.
    machine.sysctl(&[("ipv4/ping_group_range", "0 2147483647")])?;
    if machine.server.role == Role::Balancer {
        // `syn-cookies` of its rule file takes it.
        machine.sysctl(&[("ipv4/tcp_syncookies", "2")])?;
    }
    Ok(())
}

/// Starts what runs on a machine.
fn services_of(
    machine: &Machine,
    programs: &Programs,
    certificate: &Certificate,
) -> Result<Vec<Daemon>> {
    let mut services = match machine.server.role {
        Role::Internet | Role::Office => Vec::new(),
        Role::Balancer => {
            let priority = if machine.name() == "lb1" { 150 } else { 100 };
            vec![
                balancer::haproxy(machine, certificate)?,
                balancer::keepalived(machine, priority)?,
            ]
        }
        Role::Web => vec![web::start(machine)?],
        Role::Application => vec![application::start(machine, &programs.application)?],
        Role::Primary => vec![
            database::primary(machine)?,
            monitoring::mysqld_exporter(machine)?,
        ],
        Role::Replica => vec![
            database::replica(machine)?,
            monitoring::mysqld_exporter(machine)?,
        ],
        Role::Monitoring => vec![monitoring::prometheus(machine)?],
        Role::Names => vec![names_and_time::names(machine)?],
        Role::Time => vec![names_and_time::time(machine)?],
        Role::Mirror => vec![web::mirror(machine)?],
    };
    if machine.server.role.rules().is_some() {
        services.push(monitoring::node_exporter(machine)?);
    }
    Ok(services)
}

/// Does something with each of them at once.
fn in_parallel<'a, T: Sync, R: Send>(
    all: &'a [T],
    work: impl Fn(&'a T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter()
            .map(|one| scope.spawn(move || work(one)))
            .collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All of them, so that nothing that was started is left to itself.
        let results: Vec<_> = results.collect();
        results.into_iter().collect()
    })
}
