//! The database: MariaDB, a primary that takes the writes and a replica that follows it.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};

use super::design::{Role, SERVERS, Server};
use super::machine::{Machine, NOBODY};
use crate::net::{Daemon, Outcome};

/// Where the data is, on the machine.
const DATA: &str = "/run/mysql";

/// What the system tables are made of, below the package's `usr/share/mysql`.
const SYSTEM_TABLES: [&str; 2] = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"];

/// How long the replica may take to have what the primary has.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the primary, with the users and the table that the site has.
pub(super) fn primary(machine: &Machine) -> Result<Daemon> {
    let [application, replica] = [Role::Application, Role::Replica].map(network);
    start(
        machine,
        1,
        &format!(
            "CREATE USER 'application'@'{application}' IDENTIFIED BY 'not-a-secret';\n\
             CREATE USER 'replica'@'{replica}' IDENTIFIED BY 'not-a-secret';\n\
             CREATE USER 'exporter'@'localhost' IDENTIFIED BY 'not-a-secret';\n\
             GRANT REPLICATION SLAVE ON *.* TO 'replica'@'{replica}';\n\
             GRANT PROCESS, REPLICATION CLIENT, SLAVE MONITOR, SELECT ON *.* TO 'exporter'@'localhost';\n\
             CREATE DATABASE site;\n\
             GRANT SELECT, INSERT ON site.* TO 'application'@'{application}';\n\
             CREATE TABLE site.notes (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, note VARCHAR(200) NOT NULL);\n"
        ),
    )
}

/// Starts the replica, which has nothing but what it reads from the primary's binary log.
pub(super) fn replica(machine: &Machine) -> Result<Daemon> {
    let primary = server(Role::Primary)?;
    start(
        machine,
        2,
        &format!(
            "SET GLOBAL read_only = 1;\n\
             CHANGE MASTER TO MASTER_HOST = '{}', MASTER_USER = 'replica', MASTER_PASSWORD = 'not-a-secret', \
             MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1;\nSTART SLAVE;\n",
            primary.v4
        ),
    )
}

/// Waits until the replica has all that the primary had when this was called.
///
/// # Errors
///
/// If replication stands still; the replica's status is told.
pub fn wait_for_replica(primary: &Machine, replica: &Machine) -> Result<()> {
    let position = ask(primary, "SELECT @@gtid_binlog_pos")?;
    let deadline = Instant::now() + PATIENCE;
    while ask(replica, "SELECT @@gtid_slave_pos")? != position {
        if Instant::now() > deadline {
            bail!(
                "never at {position}: {}",
                ask(replica, "SHOW SLAVE STATUS")?
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Asks a database on its own machine, as its administrator; what it says, as the client of MariaDB would print it.
///
/// # Errors
///
/// What it says.
pub fn ask(machine: &Machine, question: &str) -> Result<String> {
    let mut command = machine.command("mariadb");
    command
        .args(["--no-defaults", "--socket=/run/mysql/mysql.sock", "--batch"])
        .args(["--skip-column-names", "--execute", question]);
    let said = machine.run(&mut command)?.success();
    Ok(said.with_context(|| question.to_owned())?.trim().to_owned())
}

fn server(role: Role) -> Result<&'static Server> {
    let found = SERVERS.iter().find(|server| server.role == role);
    found.with_context(|| format!("no {}", role.name()))
}

/// Addresses of a role, as MariaDB's users have them.
fn network(role: Role) -> String {
    let segment = role.segment();
    let mask = u32::MAX << (32 - segment.length);
    let [first, mask] = [segment.v4.to_bits() & mask, mask].map(std::net::Ipv4Addr::from_bits);
    format!("{first}/{mask}")
}

fn start(machine: &Machine, id: u8, first: &str) -> Result<Daemon> {
    machine.folder(DATA)?;
    machine.write(
        "/etc/mysql/my.cnf",
        &format!(
            "[mariadbd]\nuser = nobody\ndatadir = {DATA}\nsocket = /run/mysql/mysql.sock\npid-file = {DATA}/pid\ntmpdir = {DATA}\n\
             bind-address = *\nserver-id = {id}\nlog-bin = binary\ngtid-strict-mode = 1\n\
             skip-name-resolve\nmax-connect-errors = 1000000\nmax-connections = 200\n\
             innodb-buffer-pool-size = 16M\ninnodb-log-file-size = 8M\ninnodb-flush-log-at-trx-commit = 2\n\
             performance-schema = off\n"
        ),
    )?;
    let places = Places::find(machine)?;
    initialise(machine, &places)?;
    machine.write("/run/first.sql", first)?;
    let mut command = mariadbd(machine, &places);
    command.arg("--init-file=/run/first.sql");
    machine.service("mariadbd", &mut command, "ready for connections")
}

/// Where the package's files are, on the machine.
struct Places {
    /// What `usr` is for it.
    base: String,
}

impl Places {
    /// Unpacked by set-up, or installed.
    fn find(machine: &Machine) -> Result<Self> {
        let base = ["/run/tools/debian/tools/usr", "/usr"]
            .into_iter()
            .find(|base| {
                let tables = Path::new(base).join("share/mysql").join(SYSTEM_TABLES[0]);
                machine.file(tables).is_file()
            });
        let base = base.context("MariaDB is not here: `cargo xtask setup` sees to it")?;
        Ok(Self {
            base: base.to_owned(),
        })
    }

    fn share(&self) -> String {
        format!("{}/share/mysql", self.base)
    }
}

fn mariadbd(machine: &Machine, places: &Places) -> std::process::Command {
    let mut command = machine.command("mariadbd");
    command
        .arg("--defaults-file=/etc/mysql/my.cnf")
        .arg(format!("--basedir={}", places.base))
        .arg(format!("--lc-messages-dir={}", places.share()))
        .arg(format!("--character-sets-dir={}/charsets", places.share()))
        .arg(format!("--user={NOBODY}"));
    command
}

/// Makes the system tables. The package's own script does the same, and more that takes Perl and seconds.
fn initialise(machine: &Machine, places: &Places) -> Result<()> {
    let mut command = mariadbd(machine, places);
    let mut child = command
        .args(["--bootstrap", "--skip-log-bin", "--innodb-fast-shutdown=2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start mariadbd")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let mut text =
        "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = 'root';\n".to_owned();
    for file in SYSTEM_TABLES {
        let file = machine.file(format!("{}/{file}", places.share()));
        text += &fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    }
    // It may end early, and then says why.
    let written = stdin.write_all(text.as_bytes());
    drop(stdin);
    Outcome::from(child.wait_with_output()?)
        .success()
        .context("the system tables")?;
    Ok(written?)
}
