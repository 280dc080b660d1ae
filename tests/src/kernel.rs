//! Frames through the loaded program, by BPF_PROG_TEST_RUN, with the same frames decided on the host beside it.

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunOptions};
use firewall_common::abi::MAP_FRAGMENTS;
use firewall_common::abi::control::Place;
use firewall_common::abi::fragment::FragmentKey;
use firewall_common::abi::image::{Line, SIZE_CLASSES};
use firewall_common::tables::Limited;
use firewall_user::kernel::flows::Wanted;
use firewall_user::kernel::image::class_of;
use firewall_user::kernel::instance::Instance;
use firewall_user::kernel::state::Sizes;

use crate::policy::{Effect, FirstFragments, Sums, decide_after};

/// Shortest frame that the kernel takes for a test run.
pub const SHORTEST: usize = 14;

/// A loaded program that is attached to nothing, and what the host says it must have counted since it was loaded.
#[derive(Debug)]
pub struct Kernel {
    instance: Instance,
    slots: u32,
    next_slot: u32,
    expected: Sums,
    fragments: FirstFragments,
}

impl Kernel {
    /// Loads the program with room for `counters` counters.
    ///
    /// # Errors
    ///
    /// What the kernel says; without the right to load programs, that.
    pub fn load(counters: u32) -> Result<Self> {
        Self::of(Instance::load(counters))
    }

    /// The same with an empty flow table, which the host does not have: [`Self::agrees`] is not for what belongs to flows.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_flows(counters: u32, wanted: &Wanted) -> Result<Self> {
        Self::of(Instance::load_with_flows(
            counters,
            wanted,
            Sizes::default(),
        ))
    }

    fn of(loaded: Result<Instance>) -> Result<Self> {
        let instance = loaded.context("parity needs root and a kernel with BPF")?;
        let slots = instance.counters()?.len() as u32;
        Ok(Self {
            instance,
            slots,
            next_slot: 0,
            expected: Sums::default(),
            fragments: FirstFragments::default(),
        })
    }

    /// The instance itself.
    pub fn instance(&mut self) -> &mut Instance {
        &mut self.instance
    }

    /// Makes `image` decide, from a slot that the last one does not use. Returns its size class.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn policy(&mut self, image: &[Line]) -> Result<u32> {
        self.next_slot = (self.next_slot + 1) % firewall_common::abi::SLOTS;
        let place = Place::new(class_of(image), self.next_slot);
        self.instance.install(place, image.to_vec())?;
        self.instance.activate(place)?;
        Ok(place.class())
    }

    /// Runs one frame. Returns whether the program passes it.
    ///
    /// # Errors
    ///
    /// What the kernel says, or an action that is neither of the two.
    pub fn passes(&mut self, frame: &[u8]) -> Result<bool> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        self.run(options)
    }

    /// Runs one frame of which only `linear` bytes lie in the first buffer.
    ///
    /// # Errors
    ///
    /// As [`Self::passes`].
    pub fn passes_split(&mut self, frame: &[u8], linear: usize) -> Result<bool> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&(linear as u32).to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        self.run(options)
    }

    /// Runs one frame through the program for what leaves. Returns whether it may.
    ///
    /// # Errors
    ///
    /// As [`Self::passes`].
    pub fn lets_out(&mut self, frame: &[u8]) -> Result<bool> {
        lets_out(&mut self.instance, frame)
    }

    fn run(&mut self, options: TestRunOptions<'_>) -> Result<bool> {
        lets_in(&mut self.instance, options)
    }

    /// Runs `frames` under the active `image` and on the host: each action must be the same, and after all of them every
    /// counter. Returns how many there were; frames that are too short for the kernel are left out.
    ///
    /// # Errors
    ///
    /// The first frame that differs, and how.
    pub fn agrees<'a>(
        &mut self,
        image: &[Line],
        frames: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<usize> {
        let frames: Vec<&[u8]> = frames
            .into_iter()
            .filter(|frame| frame.len() >= SHORTEST)
            .collect();
        self.forget_fragments()?;
        let before = self.sums()?;
        ensure!(
            before == self.expected,
            "the counters changed outside of a test"
        );
        for frame in &frames {
            let host = decide_after(image, &self.fragments, frame);
            let passes = self.passes(frame)?;
            ensure!(
                passes == host.decision.accepts(),
                "the kernel passes: {passes}, the host: {host:?}, {}",
                shown(frame)
            );
            self.expected.add(&host, self.slots);
        }
        if self.sums()? != self.expected {
            for frame in &frames {
                let host = decide_after(image, &self.fragments, frame);
                self.same_counts(&host, frame)?;
            }
            bail!("the counters differ, but not for any frame alone");
        }
        Ok(frames.len())
    }

    /// Forgets what was decided of first fragments, here and in the kernel, where that has its time, and how many packets of what
    /// is limited were let in.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forget_fragments(&mut self) -> Result<()> {
        self.fragments = FirstFragments::default();
        let map = self
            .instance
            .ebpf()
            .map_mut(MAP_FRAGMENTS)
            .context("no map of fragments")?;
        let mut map = HashMap::<_, [u8; size_of::<FragmentKey>()], u64>::try_from(map)?;
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
        for key in keys {
            map.remove(&key)?;
        }
        let limits = self.instance.ebpf().map_mut("ADMITTED");
        let mut limits = PerCpuArray::<_, u64>::try_from(limits.context("no limits")?)?;
        for budget in 0..Limited::COUNT as u32 {
            let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            limits.set(budget, PerCpuValues::try_from(vec![0; processors])?, 0)?;
        }
        Ok(())
    }

    fn same_counts(&mut self, host: &Effect, frame: &[u8]) -> Result<()> {
        let mut expected = self.sums()?;
        expected.add(host, self.slots);
        self.passes(frame)?;
        let sums = self.sums()?;
        let differ = sums
            .0
            .iter()
            .filter(|(slot, sum)| expected.0.get(slot) != Some(sum));
        let differ: Vec<_> = differ.collect();
        ensure!(
            sums == expected,
            "the host counts {host:?}; in the kernel differ {differ:?}; {}",
            shown(frame)
        );
        Ok(())
    }

    /// All counters that are not zero.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn sums(&self) -> Result<Sums> {
        Ok(Sums::of(&self.instance.counters()?))
    }
}

/// A frame in a message: its length, and its headers in hexadecimal.
fn shown(frame: &[u8]) -> String {
    let headers: String = frame
        .iter()
        .take(160)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("frame of {} bytes: {headers}", frame.len())
}

/// `image` filled up to its size class, so that what the kernel reads behind the tables, the host reads too.
pub fn filled(image: &[Line]) -> Vec<Line> {
    let mut image = image.to_vec();
    let lines = SIZE_CLASSES[class_of(&image) as usize] / size_of::<Line>();
    image.resize(lines, Line::default());
    image
}

/// Runs one frame through the XDP program of `instance`. Returns whether it may come in.
///
/// # Errors
///
/// What the kernel says, or another action than these two.
pub fn lets_in(instance: &mut Instance, options: TestRunOptions<'_>) -> Result<bool> {
    match instance.program().test_run(options)?.return_value {
        1 => Ok(false),
        2 => Ok(true),
        action => bail!("XDP action {action}"),
    }
}

/// Runs one frame through the tcx program of `instance`. Returns whether it may leave.
///
/// # Errors
///
/// As [`lets_in`].
pub fn lets_out(instance: &mut Instance, frame: &[u8]) -> Result<bool> {
    // TCX_NEXT and TCX_DROP of linux/bpf.h.
    match instance.egress().test_run(of(frame))?.return_value as i32 {
        -1 => Ok(true),
        2 => Ok(false),
        action => bail!("tcx action {action}"),
    }
}

/// A test run of one frame in one piece.
pub fn of(frame: &[u8]) -> TestRunOptions<'_> {
    TestRunOptions {
        data_in: Some(frame),
        ..TestRunOptions::new()
    }
}
