//! Runs a program on all frames of a case, timed by the driver program.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};

use crate::{
    abi::{CLOCKS, FRAME_BYTES, FRAMES, INTERVAL, Run},
    frame::Frames,
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

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds; each runs the program once and the empty program before and after.
    pub(crate) rounds: usize,
    /// Packets a run.
    pub(crate) packets: u32,
    /// Time that one run of a slow program may take.
    pub(crate) run_limit: Duration,
}

impl Effort {
    /// For a first look, and for CI.
    pub(crate) const QUICK: Self = Self {
        rounds: 5,
        packets: FRAMES as u32,
        run_limit: Duration::from_millis(20),
    };
    /// For numbers to publish.
    pub(crate) const FULL: Self = Self {
        rounds: 21,
        packets: 4 * FRAMES as u32,
        run_limit: Duration::from_millis(60),
    };

    /// Packets for a program that takes `nanoseconds` a packet.
    pub(crate) fn packets_at(self, nanoseconds: f64) -> u32 {
        let limit = self.run_limit.as_nanos() as f64 / nanoseconds.max(1.0);
        self.packets.min(limit as u32).max(2 * INTERVAL as u32)
    }
}

/// The measuring programs, loaded.
#[derive(Debug)]
pub(crate) struct Harness {
    ebpf: Ebpf,
    effort: Effort,
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
        for name in ["empty", "driver", "baseline", "sender"] {
            load(&mut ebpf, name)?;
        }
        let mut harness = Self { ebpf, effort };
        let empty = harness.program("empty")?.fd()?.try_clone()?;
        harness.go_on("BARE", &empty)?;
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
        let map = self
            .ebpf
            .map_mut("SOURCE")
            .context("no frames in the object")?;
        let mut source: Array<&mut MapData, [[u8; FRAME_BYTES]; FRAMES]> = Array::try_from(map)?;
        // By reference: 8 MiB do not fit on the stack.
        let frames: &[[u8; FRAME_BYTES]; FRAMES] = frames;
        Ok(source.set(0, frames, 0)?)
    }

    /// Measures this program from now on.
    ///
    /// # Errors
    ///
    /// What the kernel says: the program has to be `xdp.frags`, as the driver is.
    pub(crate) fn measure(&mut self, program: &ProgramFd) -> Result<()> {
        self.go_on("MEASURED", program)
    }

    fn go_on(&mut self, array: &str, program: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut(array).context("no such program array")?;
        let mut array: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        Ok(array.set(0, program, 0)?)
    }

    /// Runs the program once on each frame: fills its caches, and lets the caller look at its counters.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn once(&mut self) -> Result<()> {
        self.run("driver", FRAMES as u32).map(drop)
    }

    /// Nanoseconds that the program takes above the empty one.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn nanoseconds(&mut self) -> Result<Spread> {
        // Also warms up.
        let first = self.run("driver", FRAMES as u32)?;
        let packets = self.effort.packets_at(first);
        let mut rounds = Vec::with_capacity(self.effort.rounds);
        let mut before = self.run("baseline", self.effort.packets)?;
        for _ in 0..self.effort.rounds {
            let measured = self.run("driver", packets)?;
            let after = self.run("baseline", self.effort.packets)?;
            rounds.push(measured - f64::midpoint(before, after));
            before = after;
        }
        Ok(Spread::of(rounds))
    }

    /// Nanoseconds a packet of `program`, copying the frame included.
    fn run(&mut self, program: &str, packets: u32) -> Result<f64> {
        self.start(0)?;
        let options = TestRunOptions {
            data_in: Some(&[0; FRAME_BYTES]),
            repeat: packets + 1,
            ..TestRunOptions::default()
        };
        self.program(program)?
            .test_run(options)
            .context("test run")?;
        self.finish(packets)
    }

    /// Nanoseconds a packet to send live frames to `interface` and to process there what arrives.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn live(&mut self, interface: u32, packets: u32) -> Result<f64> {
        self.start(interface)?;
        let options = TestRunOptions {
            data_in: Some(&[0; FRAME_BYTES]),
            repeat: packets + 1,
            attrs: TestRunAttrs::new().xdp_live_frames(0),
            ..TestRunOptions::default()
        };
        self.program("sender")?
            .test_run(options)
            .context("sending live frames")?;
        self.finish(packets)
    }

    fn start(&mut self, interface: u32) -> Result<()> {
        let run = Run {
            sent: 0,
            interface: u64::from(interface),
            clocks_ns: [0; CLOCKS],
        };
        let map = self.ebpf.map_mut("RUN").context("no run in the object")?;
        let mut map: Array<&mut MapData, Run> = Array::try_from(map)?;
        Ok(map.set(0, run, 0)?)
    }

    /// The median interval's nanoseconds a packet.
    fn finish(&self, packets: u32) -> Result<f64> {
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
        Ok(Spread::of(intervals.collect()).median)
    }

    fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(name)
            .context("no such program")?
            .try_into()?)
    }
}

/// Loads one program of the measuring object.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a Xdp> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .context("no such program")?
        .try_into()?;
    program
        .load()
        .with_context(|| format!("loading the program {name}"))?;
    Ok(program)
}
