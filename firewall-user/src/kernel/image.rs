//! A policy image on its way into the map of its size class.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd as _;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::mapped::{Access, Mapped};
use anyhow::{Context as _, Result, bail, ensure};
use aya::Pod;
use aya::maps::{Array, ArrayOfMaps, HashMap, IterableMap as _, Map, MapData, MapError};
use firewall_common::abi::{
    IMAGE_MAP_FLAGS, MAP_IMAGES,
    control::Place,
    image::{Line, SIZE_CLASSES},
};
use zerocopy::FromBytes;

/// How soon to look again whether an image is in its place.
const POLL: Duration = Duration::from_micros(50);

/// An image that is in the kernel.
#[derive(Debug)]
pub struct Tables(Mapped<Line>);

impl Tables {
    /// The one in `map`, of this size class.
    pub(super) fn of(map: &MapData, class: u32) -> Result<Self> {
        let lines = lines(class as usize) as u32;
        Mapped::new(map, lines, Access::Read).map(Self)
    }
}

impl Deref for Tables {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.0
    }
}

/// An image on its way into the kernel.
#[derive(Debug)]
pub enum Image {
    /// In this process's memory, as the compiler makes it.
    Lines(Vec<Line>),
    /// In the place that it is to be in.
    Draft(Draft),
}

impl Image {
    /// The size class of the map that it will be in.
    pub(super) fn class(&self) -> u32 {
        self.place()
            .map_or_else(|| class_of(self), |place| place.class())
    }

    /// Where it is already.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Lines(_) => None,
            Self::Draft(draft) => Some(draft.place),
        }
    }
}

impl Deref for Image {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            Self::Lines(lines) => lines,
            Self::Draft(draft) => draft,
        }
    }
}

impl From<Vec<Line>> for Image {
    fn from(lines: Vec<Line>) -> Self {
        Self::Lines(lines)
    }
}

/// An image in a free place, where it can still be changed: no program reads it before it is to decide. It is being put there by a thread,
/// because for that the kernel waits until every program that is running has ended.
#[derive(Debug)]
pub struct Draft {
    mapped: Mapped<Line>,
    /// The kernel's number of its map.
    id: u32,
    place: Place,
    /// Lines of the image. What is behind them is zero.
    lines: usize,
    /// What it is in.
    images: Images,
    installing: Option<JoinHandle<Result<()>>>,
}

impl Draft {
    /// An image without lines in `place` of `images`, the array of maps of its class. Nothing where the kernel has no thread to give.
    ///
    /// # Errors
    ///
    /// What the kernel says, most likely that there is no memory.
    pub(super) fn begin(images: MapData, place: Place) -> Result<Option<Self>> {
        let inner = create(place.class())?;
        let mapped = mapped(&inner, place.class())?;
        let id = inner.info()?.id();
        let (shared, images) = (again(&images)?, Images::of(images)?);
        let installing = thread::Builder::new().spawn(move || {
            let mut images = Map::ArrayOfMaps(shared);
            Ok(share(&mut images, place, inner)?)
        });
        Ok(installing.ok().map(|installing| Self {
            mapped,
            id,
            place,
            lines: 0,
            images,
            installing: Some(installing),
        }))
    }

    /// Puts `image` into this, unless it is of another size class and is better left where it is.
    pub fn hold(mut self, image: Image) -> Image {
        let is_of_class = image.class() == self.place.class();
        match is_of_class && self.extend_by(&image) {
            true => Image::Draft(self),
            false => image,
        }
    }

    /// Puts lines behind the others. Says whether there was room for them in this size class.
    pub fn extend_by(&mut self, lines: &[Line]) -> bool {
        let behind = &mut self.mapped.alone()[self.lines..];
        let Some(room) = behind.get_mut(..lines.len()) else {
            return false;
        };
        room.copy_from_slice(lines);
        self.lines += lines.len();
        true
    }

    fn is_there(&self) -> Result<bool> {
        Ok(self.images.id(self.place.slot())? == Some(self.id))
    }

    /// Removes it from its place, if it is there.
    fn leave(&self) -> Result<()> {
        match self.is_there()? {
            true => self.images.remove(self.place.slot()),
            false => Ok(()),
        }
    }

    /// Waits until it is in its place, and is changed no more. The kernel puts it there, and then waits for programs.
    fn settle(mut self) -> Result<Installed> {
        let is_over = |installing: &JoinHandle<_>| installing.is_finished();
        while !self.is_there()? && !self.installing.as_ref().is_none_or(is_over) {
            thread::sleep(POLL);
        }
        let is_there = self.is_there()?;
        let mut installed = Installed(self.installing.take());
        if !is_there {
            installed.wait()?;
            bail!("it is not in its place");
        }
        Ok(installed)
    }
}

/// An image that is in its place. For one that was a draft the kernel may still be waiting for programs that were running: where that
/// matters it has to be waited for, and where not, it ends with this.
#[derive(Debug)]
pub struct Installed(Option<JoinHandle<Result<()>>>);

impl Installed {
    /// Waits until the kernel has.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn wait(&mut self) -> Result<()> {
        match self.0.take().map(JoinHandle::join) {
            Some(Ok(installed)) => installed,
            Some(Err(_)) => bail!("a thread of this command has failed"),
            None => Ok(()),
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // It is in its place.
        let _ = self.wait();
    }
}

impl Drop for Draft {
    /// What nobody wants leaves its place.
    fn drop(&mut self) {
        if let Some(installing) = self.installing.take() {
            // Whatever became of it, nothing of it is to be left there.
            let _ = installing.join();
            if let Err(error) = self.leave() {
                eprintln!("note: tables that nobody needs are still in memory: {error:#}");
            }
        }
    }
}

impl Deref for Draft {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.mapped[..self.lines]
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut [Line] {
        &mut self.mapped.alone()[..self.lines]
    }
}

/// The images of one size class, by slot.
pub struct Images(Array<MapData, u32>);

impl Images {
    /// Those in `map`, the array of maps of the class.
    ///
    /// # Errors
    ///
    /// It is no such array.
    pub fn of(map: MapData) -> Result<Self> {
        // The system call is that of an array of u32: each is the kernel's number of a map.
        Ok(Self(Array::try_from(Map::Array(map))?))
    }

    /// The kernel's number of the image in `slot`, if there is one.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn id(&self, slot: u32) -> Result<Option<u32>> {
        match self.0.get(&slot, 0) {
            Ok(id) => Ok(Some(id)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("asking for the policy's tables"),
        }
    }

    /// Has nothing be in `slot` any more.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn remove(&self, slot: u32) -> Result<()> {
        // aya has no removal for arrays of maps; the system call is that of a hash map of u32 to u32.
        let mut images: HashMap<MapData, u32, u32> =
            HashMap::try_from(Map::HashMap(again(self.0.map())?))?;
        match images.remove(&slot) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("freeing the policy before"),
        }
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Images").field(self.0.map()).finish()
    }
}

/// The smallest size class that holds `image`. The compiler has made sure that there is one.
pub fn class_of(image: &[Line]) -> u32 {
    let bytes = size_of_val(image);
    let class = SIZE_CLASSES.iter().position(|&size| bytes <= size);
    class.expect("the compiler refuses larger images") as u32
}

/// Name of the array of maps that `place` is in.
pub fn map_name(place: Place) -> &'static str {
    MAP_IMAGES[place.class() as usize]
}

/// Sees to it that `image` is in the slot of `place` in `images`, the array of maps of its class.
///
/// # Errors
///
/// What the kernel says, most likely that there is no memory.
pub fn install(images: &mut Map, place: Place, image: Image) -> Result<Installed> {
    let lines = match image {
        Image::Draft(draft) => {
            ensure!(draft.place == place, "the draft is in another place");
            return draft.settle();
        }
        Image::Lines(lines) => lines,
    };
    let map = create(place.class())?;
    mapped(&map, place.class())?.alone()[..lines.len()].copy_from_slice(&lines);
    share(images, place, map)?;
    Ok(Installed(None))
}

/// Puts an image that is in the map `inner` already into the slot of `place` in `images` too.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn share(images: &mut Map, place: Place, inner: MapData) -> Result<(), MapError> {
    match place.class() {
        0 => put::<{ lines(0) }>(images, place.slot(), inner),
        1 => put::<{ lines(1) }>(images, place.slot(), inner),
        2 => put::<{ lines(2) }>(images, place.slot(), inner),
        3 => put::<{ lines(3) }>(images, place.slot(), inner),
        _ => put::<{ lines(4) }>(images, place.slot(), inner),
    }
}

fn put<const LINES: usize>(images: &mut Map, slot: u32, inner: MapData) -> Result<(), MapError> {
    let inner: Array<MapData, Value<LINES>> = Array::try_from(Map::Array(inner))?;
    let mut images: ArrayOfMaps<&mut MapData, Array<MapData, Value<LINES>>> =
        ArrayOfMaps::try_from(images)?;
    images.set(slot, &inner, 0)
}

/// Waits until every program that is running has ended, by putting the image in `place` there once more: whenever an array of maps
/// is changed the kernel waits for that (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c). To the programs it is the same image.
///
/// # Errors
///
/// What the kernel says, or that there is no image.
pub(super) fn wait_for_programs(images: &mut Map, place: Place) -> Result<(), MapError> {
    match place.class() {
        0 => set_again::<{ lines(0) }>(images, place.slot()),
        1 => set_again::<{ lines(1) }>(images, place.slot()),
        2 => set_again::<{ lines(2) }>(images, place.slot()),
        3 => set_again::<{ lines(3) }>(images, place.slot()),
        _ => set_again::<{ lines(4) }>(images, place.slot()),
    }
}

const fn lines(class: usize) -> usize {
    SIZE_CLASSES[class] / size_of::<Line>()
}

/// A map of this size class, which is zero: to be so takes no time.
fn create(class: u32) -> Result<MapData> {
    match class {
        0 => create_of::<{ lines(0) }>(),
        1 => create_of::<{ lines(1) }>(),
        2 => create_of::<{ lines(2) }>(),
        3 => create_of::<{ lines(3) }>(),
        _ => create_of::<{ lines(4) }>(),
    }
}

fn create_of<const LINES: usize>() -> Result<MapData> {
    let map: Array<MapData, Value<LINES>> = Array::create(1, IMAGE_MAP_FLAGS)?;
    again(map.map())
}

/// The same map by another descriptor.
fn again(map: &MapData) -> Result<MapData> {
    Ok(MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)?)
}

/// All of a map of this size class, to be filled.
fn mapped(map: &MapData, class: u32) -> Result<Mapped<Line>> {
    Mapped::new(map, lines(class as usize) as u32, Access::Write)
}

fn set_again<const LINES: usize>(images: &mut Map, slot: u32) -> Result<(), MapError> {
    let mut images: ArrayOfMaps<&mut MapData, Array<MapData, Value<LINES>>> =
        ArrayOfMaps::try_from(images)?;
    let image = images.get(&slot, 0)?;
    images.set(slot, &image, 0)
}

/// A whole image, as the kernel knows the value.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Value<const LINES: usize>([Line; LINES]);

#[expect(
    unsafe_code,
    reason = "aya asks for this marker on what it copies into maps"
)]
// SAFETY: lines are plain integers without padding, so that any bytes are a valid value.
unsafe impl<const LINES: usize> Pod for Value<LINES> {}
