//! What is known of an interface that is looked after, and what is done for it without its rule file.

use anyhow::Result;
use tracing::{info, warn};

use super::{State, TURN};
use crate::command::serve::good;
use crate::command::serve::tally::Tally;
use crate::kernel::guard::Returned;
use crate::kernel::held::{Held, Links, Look};
use crate::kernel::interface::{Interface, Mode};
use crate::kernel::pins::Hook;
use crate::lock;

/// An interface that is looked after.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) held: Held,
    /// What guards it while its pins are those from before it went.
    pub(super) returned: Option<Returned>,
    /// In which mode the program ran, and for which hardware address, when it was seen last.
    pub(super) mode: Option<Mode>,
    pub(super) hardware_address: Option<[u8; 6]>,
    /// Index of the interface that a command has taken the firewall off: it is not guarded again by itself.
    pub(super) released: bool,
    /// Whether it was guarded when it was looked at last.
    pub(super) was_guarded: bool,
    /// What was kept last, for the next start of the machine.
    pub(super) good: Option<good::Kept>,
}

impl Kept {
    pub(super) fn new(name: &str) -> Self {
        Self {
            held: Held::of(name),
            returned: None,
            mode: None,
            hardware_address: None,
            released: false,
            was_guarded: false,
            good: None,
        }
    }

    /// Whether both programs are on `interface`.
    pub(super) fn is_on(&mut self, interface: &Interface) -> Result<bool> {
        let at_work = self.held.at_work(&Links::read()?)?;
        let program = |hook: Hook| {
            let (program, index) = at_work.get(hook.name())?;
            (*index == interface.index).then_some(*program)
        };
        let (Some(ingress), Some(_)) = (program(Hook::Ingress), program(Hook::Egress)) else {
            return Ok(false);
        };
        let mut programs = interface.xdp.iter();
        if let Some((mode, _)) = programs.find(|(_, id)| *id == ingress) {
            self.mode = Some(*mode);
        }
        self.hardware_address = interface.hardware_address;
        self.was_guarded = true;
        self.released = false;
        Ok(true)
    }

    /// Pins again what has lost its pins, unless somebody is taking the firewall off.
    pub(super) fn put_back(&mut self, name: &str, tally: &Tally) -> Result<State> {
        if lock::is_being_detached(name)? {
            info!("{name}: the firewall is taken off");
            self.held.let_go();
            self.returned = None;
            self.released = true;
            return Ok(State::Waits);
        }
        let Some(_turn) = lock::exclusive_within(TURN)? else {
            return Ok(State::Waits);
        };
        // A command may just have had its turn.
        if self.held.look()? == Look::Lost {
            let names = self.held.put_back()?;
            tally.of(name, |one| one.repinned += 1);
            warn!(
                "{name}: pins were lost, and are put back: {}; it was guarded all the time",
                names.join(", ")
            );
            self.held.look()?;
        }
        Ok(State::Well)
    }
}
