//! An interface that was guarded, went, and is there again: the programs that are pinned still, with all that they know, are put on it.
//!
//! Nothing is loaded or compiled for that, so it takes as long as attaching takes. What is in force, on trial, banned, limited and
//! counted goes on where it was when the interface went.

use anyhow::{Context as _, Result, bail};
use aya::programs::links::FdLink;
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;

use super::{Found, Guard, egress_at_work};
use crate::kernel::attach::{self, ModeChoice};
use crate::kernel::flows::FlowTable;
use crate::kernel::interface::{self, Interface};
use crate::kernel::pins::{self, Hook, Pins};

/// The links of an interface that is back. While they are not pinned, the process that has them guards it.
#[derive(Debug)]
pub struct Returned {
    ingress: FdLink,
    /// `None`: its link is there, and pinned.
    egress: Option<FdLink>,
    index: u32,
}

impl Returned {
    /// Guards `interface` again, on which [`Guard::find`] has found stale pins. That changes no pin, and so is nothing for which it has to
    /// be one's turn.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn attach(interface: &Interface, mode: ModeChoice) -> Result<Self> {
        attach::check(interface)?;
        let pins = Pins::of(&interface.name);
        let egress = match egress_at_work(&pins, interface)? {
            Some(_) => None,
            None => {
                let path = pins.program(Hook::Egress);
                let mut program = SchedClassifier::from_pin(&path)
                    .with_context(|| format!("opening {}", path.display()))?;
                Some(attach::egress(&mut program, interface)?)
            }
        };
        let path = pins.program(Hook::Ingress);
        let mut program = Xdp::from_pin(&path, XdpAttachType::Interface)
            .with_context(|| format!("opening {}", path.display()))?;
        let ingress = attach::ingress(&mut program, interface, mode)?;
        Ok(Self {
            ingress,
            egress,
            index: interface.index,
        })
    }

    /// Index of the interface.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Pins the links in the place of those that were. It has to be the caller's turn.
    ///
    /// # Errors
    ///
    /// What the kernel says; the interface is then not guarded any more.
    pub fn pin(self, interface: &Interface) -> Result<Box<Guard>> {
        let pins = Pins::of(&interface.name);
        // As when it was attached first: the pin of what leaves before the other.
        if let Some(egress) = self.egress {
            pins::replace(&pins.link(Hook::Egress), |next| egress.pin(next).map(drop))?;
        }
        pins::replace(&pins.link(Hook::Ingress), |next| {
            self.ingress.pin(next).map(drop)
        })?;
        let found = interface::find(&interface.name)?.map(|interface| Guard::find(&interface));
        match found {
            Some(Ok(Found::Guard(guard))) => Ok(guard),
            Some(Err(error)) => Err(error),
            _ => bail!("{} went again", interface.name),
        }
    }
}

impl Guard {
    /// Has the programs of an interface that is back know what is not as it was: its hardware address, for SYN cookies, if it is not the
    /// one `before`, and the flow table, if other interfaces have made another meanwhile. That takes the verifier's seconds, in which
    /// the programs are at work that were.
    ///
    /// # Errors
    ///
    /// What the kernel says; the programs are then as they were.
    pub fn settle_in(&mut self, interface: &Interface, before: Option<[u8; 6]>) -> Result<()> {
        let of_namespace = FlowTable::of_namespace(interface)?;
        let has_another = of_namespace.map(|table| table.replace(&self.pins));
        if has_another.transpose()? != Some(true) && before == interface.hardware_address {
            return Ok(());
        }
        self.end_growth()?;
        self.drop_idle_nexts()?;
        let (number, _) = self
            .counters()?
            .used_by(&self.pins.program(Hook::Ingress))?;
        let candidate = self.shadow()?.map(|candidate| candidate.record());
        self.renew(number, None, candidate.as_ref())
    }
}
