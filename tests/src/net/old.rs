//! An interface that an older version guards: its real programs, with maps and pins as its `firewall apply` laid them out. What is
//! loaded lies in `tests/fixtures`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, ProgramArray};
use aya::programs::links::FdLink;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, Program, SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use serde::Deserialize;
use serde_json::Value;

use super::command::workspace;
use super::host::{Host, NAMESPACES};
use super::lab::PINS;

/// The maps of a flow table, which the interfaces of a network namespace share.
const OF_NAMESPACE: [&str; 4] = ["FLOWS", "FLOW_SETTINGS", "FLOW_PORTS", "FRAGMENTS"];
/// Those that were pinned under their own names, but for these.
const OF_INTERFACE: [&str; 12] = [
    "CONTROL",
    "IMAGE_0",
    "IMAGE_1",
    "IMAGE_2",
    "IMAGE_3",
    "IMAGE_4",
    "BANS",
    "BAN_SETTINGS",
    "BAN_FILTERS",
    "LIMITS",
    "LIMIT_SETTINGS",
    "KNOCKS",
];
/// Where each program goes on.
const NEXT: [(&str, u32, &str); 9] = [
    ("INGRESS_NEXT", 0, "ingress_refused"),
    ("INGRESS_NEXT", 1, "ingress_fragment"),
    ("INGRESS_NEXT", 2, "ingress_terms"),
    ("INGRESS_NEXT", 3, "ingress_cookie"),
    ("INGRESS_NEXT", 4, "ingress_strike"),
    ("EGRESS_NEXT", 0, "egress_opens"),
    ("EGRESS_NEXT", 1, "egress_fragment"),
    // Since version 4.
    ("INGRESS_NEXT", 5, "ingress_shadow"),
    ("EGRESS_NEXT", 2, "egress_shadow"),
];
const INGRESS: &str = "firewall_ingress";
const EGRESS: &str = "firewall_egress";
const CLOCK: &str = "firewall_clock";

/// Bytes of an image of the smallest size class, and the flag of its map (`BPF_F_MMAPABLE`).
const IMAGE_BYTES: usize = 256 << 10;
const IMAGE_FLAGS: u32 = 1 << 10;
/// Bytes of an element of the map with a description.
const CHUNK: usize = 4096;
/// The word that version 4 has for the image in slot 0 and none before it.
const FIRST_IN_FORCE: u64 = 0xff00;
/// `BPF_F_NO_PREALLOC`.
const REASON_FLAGS: u32 = 1;

/// A version that can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// ABI version 3.
    V3,
    /// ABI version 4.
    V4,
}

/// The programs of an older version and their maps.
#[derive(Debug)]
pub struct Old {
    version: Version,
    ebpf: Ebpf,
    /// Room for reasons of bans.
    reasons: u32,
    description: Value,
    /// What is kept of the generation, since version 4.
    source: Option<Value>,
}

/// `state.json`.
#[derive(Debug, Deserialize)]
struct State {
    entries: BTreeMap<String, u32>,
    settings: BTreeMap<String, String>,
    description: Value,
    source: Option<Value>,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V3, Self::V4];

    /// Its number.
    pub const fn number(self) -> u64 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }

    /// The rule file that is in force.
    pub fn rules(self) -> PathBuf {
        self.fixture("rules.toml")
    }

    /// Where it pinned what belongs to an interface.
    pub fn state(self, interface: &str) -> PathBuf {
        let name = format!("v{}", self.number());
        Path::new(PINS).join(interface).join(name)
    }

    fn fixture(self, name: &str) -> PathBuf {
        let fixtures = workspace().join("tests/fixtures");
        fixtures.join(format!("v{}", self.number())).join(name)
    }

    fn unpacked(self, name: &str) -> Result<Vec<u8>> {
        let packed = fs::File::open(self.fixture(name)).with_context(|| name.to_owned())?;
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed)
            .with_context(|| format!("unpacking {name}"))?;
        let mut bytes = Vec::new();
        let read = decoder.read_to_end(&mut bytes);
        read.with_context(|| format!("unpacking {name}"))?;
        Ok(bytes)
    }
}

impl Old {
    /// Loads them, to be put on an interface. The flow table is that of `sibling`, if another interface has one.
    ///
    /// # Errors
    ///
    /// A file is missing, or what the kernel says.
    pub fn load(version: Version, sibling: Option<&Path>) -> Result<Self> {
        let state = fs::read(version.fixture("state.json")).context("state.json")?;
        let state: State = serde_json::from_slice(&state).context("state.json")?;
        let mut loader = EbpfLoader::new();
        for (map, entries) in &state.entries {
            loader.map_max_entries(map, *entries);
        }
        for name in sibling.iter().flat_map(|_| OF_NAMESPACE) {
            let path = sibling.map(|folder| folder.join(name)).unwrap_or_default();
            ensure!(path.exists(), "no {}", path.display());
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(&version.unpacked("firewall-ebpf.zst")?)?;
        load_programs(&mut ebpf)?;
        for (map, index, program) in NEXT {
            let Some(program) = ebpf.program(program) else {
                ensure!(version == Version::V3, "no program {program}");
                continue;
            };
            let program = program.fd()?.try_clone()?;
            let map = ebpf.map_mut(map).context(map)?;
            ProgramArray::try_from(map)?.set(index, &program, 0)?;
        }
        if sibling.is_none() {
            set::<128>(&mut ebpf, "FLOW_SETTINGS", &state.settings)?;
        }
        set::<72>(&mut ebpf, "BAN_SETTINGS", &state.settings)?;
        set::<56>(&mut ebpf, "LIMIT_SETTINGS", &state.settings)?;
        install(version, &mut ebpf)?;
        Ok(Self {
            version,
            source: state.source,
            reasons: state.entries["BAN_REASONS"],
            description: state.description,
            ebpf,
        })
    }

    /// Puts them to work on `interface` of `host`, in `native` or `generic` mode, pins everything, and records `file` as the rule file. What
    /// they have counted, and who is banned, is as it was when this was called before.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn guard(&mut self, host: &Host, interface: &str, mode: &str, file: &Path) -> Result<()> {
        let folder = self.version.state(interface);
        fs::create_dir_all(&folder)?;
        for name in OF_NAMESPACE.iter().chain(&OF_INTERFACE) {
            self.pin_map(name, &folder.join(name))?;
        }
        let reasons: HashMap<MapData, [u64; 3], [u8; 128]> =
            HashMap::create(self.reasons, REASON_FLAGS)?;
        reasons.pin(folder.join("BAN_REASONS"))?;
        for name in ["COUNTERS", "INGRESS_NEXT", "EGRESS_NEXT"] {
            self.pin_map(name, &folder.join(format!("{name}_0")))?;
        }
        self.describe(host, file, &folder)?;
        classifier(&mut self.ebpf, EGRESS)?.pin(folder.join("program-egress"))?;
        xdp(&mut self.ebpf)?.pin(folder.join("program"))?;
        classifier(&mut self.ebpf, CLOCK)?.pin(folder.join("clock"))?;
        let mode = match mode {
            "native" => XdpMode::Driver,
            "generic" => XdpMode::Skb,
            _ => bail!("no mode {mode}"),
        };
        host.enter(|| {
            let program = classifier(&mut self.ebpf, EGRESS)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(interface, TcAttachType::Egress, options)?;
            FdLink::try_from(program.take_link(id)?)?.pin(folder.join("link-egress"))?;
            let program = xdp(&mut self.ebpf)?;
            let id = program.attach(interface, mode)?;
            FdLink::try_from(program.take_link(id)?)?.pin(folder.join("link"))?;
            Ok(())
        })
    }

    /// Id of the program for what arrives.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn program(&mut self) -> Result<u64> {
        Ok(xdp(&mut self.ebpf)?.info()?.id().into())
    }

    fn pin_map(&self, name: &str, path: &Path) -> Result<()> {
        let pinned = self.ebpf.map(name).context(name.to_owned())?.pin(path);
        pinned.with_context(|| path.display().to_string())
    }

    /// JSON in a plain array, behind its length.
    fn describe(&self, host: &Host, file: &Path, folder: &Path) -> Result<()> {
        let mut description = self.description.clone();
        let namespace = Path::new(NAMESPACES).join(host.namespace());
        description["namespace"] = fs::metadata(namespace)?.ino().into();
        description["file"] = file.display().to_string().into();
        let text = serde_json::to_vec(&description)?;
        self.pin_bytes(&text, &folder.join("policy-0-0"))?;
        let Some(mut source) = self.source.clone() else {
            return Ok(());
        };
        source["file"] = description["file"].clone();
        self.pin_bytes(&serde_json::to_vec(&source)?, &folder.join("source-1"))?;
        self.pin_bytes(&fs::read(self.version.rules())?, &folder.join("text-1"))
    }

    fn pin_bytes(&self, text: &[u8], path: &Path) -> Result<()> {
        let flags = match self.version {
            Version::V3 => 0,
            Version::V4 => IMAGE_FLAGS,
        };
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text);
        let chunks: u32 = bytes.len().div_ceil(CHUNK).try_into()?;
        let mut map: Array<MapData, [u8; CHUNK]> = Array::create(chunks, flags)?;
        for (index, chunk) in (0..).zip(bytes.chunks(CHUNK)) {
            let mut whole = [0; CHUNK];
            whole[..chunk.len()].copy_from_slice(chunk);
            map.set(index, whole, 0)?;
        }
        Ok(map.pin(path)?)
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<()> {
    thread::scope(|scope| {
        let load = |program: &mut Program| match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => Ok(()),
        };
        let loading: Vec<_> = ebpf
            .programs_mut()
            .map(|(_, program)| scope.spawn(move || load(program)))
            .collect();
        loading.into_iter().try_for_each(|one| match one.join() {
            Ok(loaded) => Ok(loaded?),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// The image goes into slot 0 of its size class. Version 3's control map, which begins as zero, says that it is in force.
fn install(version: Version, ebpf: &mut Ebpf) -> Result<()> {
    if version == Version::V4 {
        let control = ebpf.map_mut("CONTROL").context("CONTROL")?;
        let mut control: Array<&mut MapData, u64> = Array::try_from(control)?;
        control.set(0, FIRST_IN_FORCE, 0)?;
    }
    let image: Box<[u8; IMAGE_BYTES]> = version
        .unpacked("image.zst")?
        .into_boxed_slice()
        .try_into()
        .ok()
        .context("image.zst has another size")?;
    let mut inner: Array<MapData, [u8; IMAGE_BYTES]> = Array::create(1, IMAGE_FLAGS)?;
    inner.set(0, image, 0)?;
    let images = ebpf.map_mut("IMAGE_0").context("IMAGE_0")?;
    let mut images: ArrayOfMaps<&mut MapData, Array<MapData, [u8; IMAGE_BYTES]>> =
        ArrayOfMaps::try_from(images)?;
    Ok(images.set(0, &inner, 0)?)
}

/// Sets the one record of a map.
fn set<const BYTES: usize>(
    ebpf: &mut Ebpf,
    name: &str,
    settings: &BTreeMap<String, String>,
) -> Result<()> {
    let text = settings.get(name).with_context(|| name.to_owned())?;
    let mut record = [0u8; BYTES];
    ensure!(text.len() == 2 * BYTES, "{name} has another size");
    for (index, byte) in record.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)?;
    }
    let map = ebpf.map_mut(name).with_context(|| name.to_owned())?;
    let mut map: Array<&mut MapData, [u8; BYTES]> = Array::try_from(map)?;
    Ok(map.set(0, record, 0)?)
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut(INGRESS).context(INGRESS)?.try_into()?)
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut SchedClassifier> {
    Ok(ebpf.program_mut(name).context(name)?.try_into()?)
}
