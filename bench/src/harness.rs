//! Runs a program on all frames of a case, timed by the driver program.

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, ProgramArray},
    programs::{Program, ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};

use crate::{
    abi::{
        CLOCKS, FRAME_BYTES, FRAMES, INTERVAL, LAP_IN_DESTINATION_PORT, LAP_IN_SOURCE_PORT, Run,
    },
    effort::Effort,
    frame::Frames,
    hook::{Hook, Laps},
    statistics::Spread,
};

/// The object with the measuring programs, built by this crate's build script.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/firewall-bench-ebpf"));

#[expect(
    unsafe_code,
    reason = "aya asks for this marker on what it copies into maps"
)]
// SAFETY: integers without padding, so that any bytes are a valid value.
unsafe impl Pod for Run {}

/// Most laps in one run: there is room for the times of two more.
const LAPS_A_RUN: u32 = 8;
const _: () = assert!((LAPS_A_RUN as usize + 1) * FRAMES <= CLOCKS * INTERVAL as usize);

/// The measuring programs, loaded.
#[derive(Debug)]
pub(crate) struct Harness {
    ebpf: Ebpf,
    effort: Effort,
    /// Where the program that is measured sits.
    hook: Hook,
    laps: Laps,
    /// Lap that the next run begins with.
    lap: u32,
    /// Packets that the program got since it is measured.
    driven: u64,
}

impl Harness {
    /// Loads the measuring programs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn load(effort: Effort) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .load(OBJECT)
            .context("loading the measuring programs")?;
        load(&mut ebpf, "sender")?;
        let mut harness = Self {
            ebpf,
            effort,
            hook: Hook::Ingress,
            laps: Laps::ALIKE,
            lap: 0,
            driven: 0,
        };
        for hook in Hook::ALL {
            let (baseline, array, empty) = hook.baseline();
            if !matches!(hook, Hook::Syn(_)) {
                let empty = load(&mut harness.ebpf, empty)?;
                harness.go_on(array, &empty)?;
            }
            load(&mut harness.ebpf, baseline)?;
            load(&mut harness.ebpf, hook.driver().0)?;
        }
        Ok(harness)
    }

    /// The empty program, which drops.
    ///
    /// # Errors
    ///
    /// Never: it is loaded.
    pub(crate) fn empty(&mut self) -> Result<&mut Xdp> {
        Ok(self
            .ebpf
            .program_mut("empty")
            .context("no such program")?
            .try_into()?)
    }

    /// How long to measure.
    pub(crate) const fn effort(&self) -> Effort {
        self.effort
    }

    /// Sends these frames from now on.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn send(&mut self, frames: &Frames) -> Result<()> {
        self.send_in_laps(frames, Laps::ALIKE)
    }

    /// Sends these frames from now on, each lap others.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn send_in_laps(&mut self, frames: &Frames, laps: Laps) -> Result<()> {
        self.laps = laps;
        self.lap = 0;
        let map = self
            .ebpf
            .map_mut("SOURCE")
            .context("no frames in the object")?;
        let mut source: Array<&mut MapData, [[u8; FRAME_BYTES]; FRAMES]> = Array::try_from(map)?;
        // By reference: 8 MiB do not fit on the stack.
        let frames: &[[u8; FRAME_BYTES]; FRAMES] = frames;
        Ok(source.set(0, frames, 0)?)
    }

    /// Measures this XDP program from now on.
    ///
    /// # Errors
    ///
    /// What the kernel says: the program has to be `xdp.frags`, as the driver is.
    pub(crate) fn measure(&mut self, program: &ProgramFd) -> Result<()> {
        self.measure_at(Hook::Ingress, program)
    }

    /// Measures this program, which sits at `hook`, from now on.
    ///
    /// # Errors
    ///
    /// As [`Self::measure`].
    pub(crate) fn measure_at(&mut self, hook: Hook, program: &ProgramFd) -> Result<()> {
        self.hook = hook;
        self.driven = 0;
        self.go_on(hook.driver().1, program)
    }

    /// Packets that the program got since [`Self::measure`].
    pub(crate) const fn driven(&self) -> u64 {
        self.driven
    }

    fn go_on(&mut self, array: &str, program: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut(array).context("no such program array")?;
        let mut array: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        Ok(array.set(0, program, 0)?)
    }

    /// Runs the program once on each frame of each lap: fills its caches, and lets the caller look at its counters.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn once(&mut self) -> Result<()> {
        self.lap = 0;
        let laps = self.laps.count.min(LAPS_A_RUN);
        for _ in 0..self.laps.count / laps {
            self.drive(laps * FRAMES as u32)?;
        }
        Ok(())
    }

    /// Nanoseconds that the program takes above the empty one.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn nanoseconds(&mut self) -> Result<Spread> {
        self.nanoseconds_in_runs(u32::MAX, || Ok(()))
    }

    /// The same in runs of `most` packets at most, before each of which the caller puts things in order. Two runs one
    /// after the other never have the same packets, if there are laps.
    ///
    /// # Errors
    ///
    /// What the kernel or the caller says.
    pub(crate) fn nanoseconds_in_runs(
        &mut self,
        most: u32,
        mut before_each: impl FnMut() -> Result<()>,
    ) -> Result<Spread> {
        before_each()?;
        // Also warms up.
        let first = self.drive(most.min(FRAMES as u32))?;
        let packets = self.effort.packets_at(first).min(most);
        let (baseline, ..) = self.hook.baseline();
        let mut rounds = Vec::with_capacity(self.effort.rounds);
        // As many packets: what the frames cost the caches is to be the same.
        let bare = self.effort.packets.min(most);
        let mut before = self.run(baseline, bare)?;
        for _ in 0..self.effort.rounds {
            before_each()?;
            let measured = self.drive(packets)?;
            let after = self.run(baseline, bare)?;
            rounds.push(measured - f64::midpoint(before, after));
            before = after;
        }
        Ok(Spread::of(rounds))
    }

    /// Nanoseconds a packet of the program that is measured, copying the frame included.
    fn drive(&mut self, packets: u32) -> Result<f64> {
        let taken = self.run(self.hook.driver().0, packets)?;
        self.driven += u64::from(packets) + 1;
        self.lap = (self.lap + packets.div_ceil(FRAMES as u32)) % self.laps.count;
        Ok(taken)
    }

    /// Nanoseconds a packet of `program`, copying the frame included.
    fn run(&mut self, program: &str, packets: u32) -> Result<f64> {
        self.start(0)?;
        let options = TestRunOptions {
            data_in: Some(&[0; FRAME_BYTES][..self.hook.frame_bytes()]),
            repeat: packets + 1,
            ..TestRunOptions::default()
        };
        match self.ebpf.program(program).context("no such program")? {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => bail!("{program} is a program of another kind"),
        }
        .context("test run")?;
        Ok(self.finish(packets)?.median)
    }

    /// Nanoseconds a packet to send live frames to `interface` and to process there what arrives.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn live(&mut self, interface: u32, packets: u32) -> Result<f64> {
        Ok(self.live_spread(interface, packets)?.median)
    }

    /// The same as its intervals spread. Where one takes nearly as long as a clock tick, other processes disturb most of them.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn live_spread(&mut self, interface: u32, packets: u32) -> Result<Spread> {
        self.start(interface)?;
        let options = TestRunOptions {
            data_in: Some(&[0; FRAME_BYTES]),
            repeat: packets + 1,
            attrs: TestRunAttrs::new().xdp_live_frames(0),
            ..TestRunOptions::default()
        };
        let sender: &Xdp = self
            .ebpf
            .program("sender")
            .context("no such program")?
            .try_into()?;
        sender.test_run(options).context("sending live frames")?;
        self.finish(packets)
    }

    fn start(&mut self, interface: u32) -> Result<()> {
        let run = Run {
            sent: 0,
            interface: u64::from(interface),
            lap: u64::from(self.lap),
            lap_mask: u64::from(self.laps.count - 1),
            lap_shift: match self.laps.hook {
                Hook::Ingress | Hook::Syn(_) => LAP_IN_DESTINATION_PORT,
                Hook::Egress => LAP_IN_SOURCE_PORT,
            },
            drain: 0,
            clocks_ns: [0; CLOCKS],
        };
        let map = self.ebpf.map_mut("RUN").context("no run in the object")?;
        let mut map: Array<&mut MapData, Run> = Array::try_from(map)?;
        Ok(map.set(0, run, 0)?)
    }

    /// The intervals' nanoseconds a packet.
    fn finish(&self, packets: u32) -> Result<Spread> {
        let map = self.ebpf.map("RUN").context("no run in the object")?;
        let run: Run = Array::try_from(map)?.get(&0, 0)?;
        ensure!(
            run.sent > u64::from(packets),
            "the run ended after {} of {packets} packets",
            run.sent
        );
        let clocks = &run.clocks_ns[..=(u64::from(packets) / INTERVAL) as usize];
        let intervals = clocks
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64 / INTERVAL as f64);
        Ok(Spread::of(intervals.collect()))
    }
}

/// Loads one program of the measuring object.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program = ebpf.program_mut(name).context("no such program")?;
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => bail!("{name} is a program of another kind"),
    }
    .with_context(|| format!("loading the program {name}"))?;
    Ok(program.fd()?.try_clone()?)
}
