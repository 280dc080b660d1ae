//! What can be typed, and how a command ends.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::command;
use crate::command::apply::Apply;
use crate::command::ban::Ban;
use crate::command::capture::Capture;
use crate::command::detach::Detach;
use crate::command::explain::Explain;
use crate::command::flows::Filter;
use crate::command::group::GroupVerb;
use crate::command::plan::Asked;
use crate::command::ports::Ports;
use crate::command::rollback::Rollback;
use crate::command::rule::RuleVerb;
use crate::command::serve::Serve;
use crate::command::shadow::Shadow;
use crate::command::top::Top;
use crate::command::unban::Unban;
use crate::command::upgrade::Upgrade;
use crate::command::watch::Watch;
use crate::output::{Differs, Format, Output, Refused, Unwell};

/// A packet filter at XDP: what no rule lets in is dropped before the kernel allocates a buffer for it.
#[derive(Debug, Parser)]
#[command(name = "firewall", version, max_term_width = 100)]
struct Cli {
    /// Text for people or JSON for programs.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read rule files and say what is wrong with them; touch nothing.
    Check {
        /// Rule files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Put a rule file in force, from one packet to the next.
    Apply(Apply),
    /// Keep what was applied with `--confirm`.
    Confirm {
        /// Only on these interfaces; on all on which something waits to be confirmed unless told.
        #[arg(short, long = "interface", value_name = "IFACE")]
        interface: Vec<String>,
    },
    /// Go back to a generation that was in force before.
    Rollback(Rollback),
    /// Look at a candidate that is asked beside the rules in force, put it in force, or drop it.
    Shadow(Shadow),
    /// The generations that were put in force, the latest first.
    History {
        #[command(flatten)]
        interfaces: Interfaces,
    },
    /// What a rule file would change, in packets; touch nothing. Exit code 3 if anything changes.
    Plan(Asked),
    /// Which interfaces are guarded, how, since when and by which file.
    Status {
        /// Only these interfaces.
        #[arg(short, long = "interface", value_name = "IFACE")]
        interface: Vec<String>,
    },
    /// Add and remove single rules of what is in force.
    #[command(subcommand)]
    Rule(RuleVerb),
    /// Add and remove members of the address groups in force.
    #[command(subcommand)]
    Group(GroupVerb),
    /// The rules in force, with what each has decided.
    Rules {
        #[command(flatten)]
        interfaces: Interfaces,
    },
    /// Packets and bytes by rule, reason and port.
    Stats {
        #[command(flatten)]
        interfaces: Interfaces,
        /// Show again every second, with rates, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// What comes for which port: those that rules name, and those most knocked at that none does.
    Ports(Ports),
    /// What comes and goes, live, on a terminal: rates by rule, reason, port and talker, and bans; keys sort, filter and ban.
    Top(Top),
    /// What this host has opened and may be answered, the most recent first.
    Flows {
        /// A guarded interface; all of its network namespace share their flows.
        #[arg(short, long, value_name = "IFACE")]
        interface: String,
        #[command(flatten)]
        filter: Filter,
    },
    /// Packets as they are dropped, and those that rules with `log` accept: a sample of them, a line each, until interrupted.
    Watch(Watch),
    /// The same in a pcapng file, each packet with what has decided it as its comment.
    Capture(Capture),
    /// Refuse sources from the next packet on, whatever rules accept.
    Ban(Ban),
    /// Lift bans.
    Unban(Unban),
    /// Who is banned, until when, by whom and why.
    Bans {
        /// Only on these interfaces; on all guarded ones unless told.
        #[arg(short, long = "interface", value_name = "IFACE")]
        interface: Vec<String>,
    },
    /// What keeps the firewall from guarding, or from doing it well, and what mends it; touch nothing.
    Doctor {
        /// These interfaces; all guarded ones unless told.
        #[arg(short, long = "interface", value_name = "IFACE")]
        interface: Vec<String>,
    },
    /// What becomes of a packet, and why: on a guarded interface, of which nothing changes, or under a rule file.
    Explain(Explain),
    /// Serve metrics and health to monitoring, and see to it that what is guarded stays so.
    Serve(Serve),
    /// Take over what an older version guards: no packet is lost, and flows, bans and counts go on.
    Upgrade(Upgrade),
    /// What the programs say of themselves, until interrupted.
    #[cfg(feature = "diagnostics")]
    Diagnostics {
        /// The guarded interface.
        #[arg(short, long, value_name = "IFACE")]
        interface: String,
    },
    /// Take the firewall off: everything is let in again.
    Detach(Detach),
    /// Write man pages and completions, for packages.
    #[command(hide = true)]
    Generate {
        /// A folder that is there; `man` and `completions` are made in it.
        directory: PathBuf,
    },
}

/// The interfaces a command is about.
#[derive(Args, Debug)]
pub(crate) struct Interfaces {
    /// Network interface; may be given several times.
    #[arg(short, long = "interface", value_name = "IFACE", required = true)]
    interface: Vec<String>,
}

impl Interfaces {
    /// Their names, each once.
    pub(crate) fn names(&self) -> Vec<String> {
        command::once(&self.interface)
    }
}

/// Exit code where two things that were compared are not the same.
const EXIT_DIFFERS: u8 = 3;

/// Runs the command that was typed. Exit codes: 0 done, 1 refused or failed, 2 bad usage, 3 what was compared differs.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.format);
    // What is read page by page or for ever ends with its reader; what does something does all of it.
    let output = match cli.verb {
        Verb::Stats { .. }
        | Verb::Ports(_)
        | Verb::Flows { .. }
        | Verb::Watch(_)
        | Verb::Capture(_)
        | Verb::Bans { .. }
        | Verb::Explain(_) => output.that_ends(),
        _ => output,
    };
    let done = match cli.verb {
        Verb::Check { files } => command::check::run(&files, &output),
        Verb::Apply(apply) => command::apply::run(&apply, &output),
        Verb::Confirm { interface } => command::confirm::run(&interface, &output),
        Verb::Rollback(rollback) => command::rollback::run(&rollback, &output),
        Verb::Shadow(shadow) => command::shadow::run(&shadow, &output),
        Verb::History { interfaces } => command::history::run(&interfaces.names(), &output),
        Verb::Plan(asked) => command::plan::run(&asked, &output),
        Verb::Status { interface } => command::status::run(&interface, &output),
        Verb::Rule(verb) => command::rule::run(&verb, &output),
        Verb::Group(verb) => command::group::run(&verb, &output),
        Verb::Rules { interfaces } => command::rules::run(&interfaces.names(), &output),
        Verb::Stats { interfaces, watch } => {
            command::stats::run(&interfaces.names(), watch, &output)
        }
        Verb::Ports(ports) => command::ports::run(&ports, &output),
        Verb::Top(top) => command::top::run(&top),
        Verb::Flows { interface, filter } => command::flows::run(&interface, &filter, &output),
        Verb::Watch(watch) => command::watch::run(&watch, &output),
        Verb::Capture(capture) => command::capture::run(&capture, &output),
        Verb::Ban(ban) => command::ban::run(&ban, &output),
        Verb::Unban(unban) => command::unban::run(&unban, &output),
        Verb::Bans { interface } => command::bans::run(&interface, &output),
        Verb::Doctor { interface } => command::doctor::run(&interface, &output),
        Verb::Explain(explain) => command::explain::run(&explain, &output),
        Verb::Serve(serve) => command::serve::run(&serve, &output),
        Verb::Upgrade(upgrade) => command::upgrade::run(&upgrade, &output),
        #[cfg(feature = "diagnostics")]
        Verb::Diagnostics { interface } => command::diagnostics::run(&interface),
        Verb::Detach(detach) => command::detach::run(&detach, &output),
        Verb::Generate { directory } => command::generate::run(Cli::command(), &directory),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    if error.downcast_ref::<Differs>().is_some() {
        return ExitCode::from(EXIT_DIFFERS);
    }
    // Whoever reads has gone: nothing failed, there is just nobody to tell.
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    if !error.is::<Refused>() && !error.is::<Unwell>() {
        // If standard error is closed as well there is no one left to tell.
        let _ = match cli.format {
            Format::Text => writeln!(io::stderr(), "error: {error:#}"),
            Format::Json => writeln!(
                io::stderr(),
                "{}",
                serde_json::json!({ "error": format!("{error:#}") })
            ),
        };
    }
    ExitCode::FAILURE
}
