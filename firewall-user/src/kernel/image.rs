//! A policy image on its way into the map of its size class.

use std::ops::Deref;

use super::mapped::{Access, Mapped};
use anyhow::Result;
use aya::Pod;
use aya::maps::{Array, ArrayOfMaps, IterableMap as _, Map, MapData, MapError};
use firewall_common::abi::{
    IMAGE_MAP_FLAGS, MAP_IMAGES,
    control::Place,
    image::{Line, SIZE_CLASSES},
};
use zerocopy::FromBytes;

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

/// Puts `image` into a new map and that into the slot of `place` in `images`, the array of maps of its class.
///
/// # Errors
///
/// What the kernel says, most likely that there is no memory.
pub fn install(images: &mut Map, place: Place, image: &[Line]) -> Result<()> {
    match place.class() {
        0 => set::<{ lines(0) }>(images, place.slot(), image),
        1 => set::<{ lines(1) }>(images, place.slot(), image),
        2 => set::<{ lines(2) }>(images, place.slot(), image),
        3 => set::<{ lines(3) }>(images, place.slot(), image),
        _ => set::<{ lines(4) }>(images, place.slot(), image),
    }
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

fn set<const LINES: usize>(images: &mut Map, slot: u32, image: &[Line]) -> Result<()> {
    let inner: Array<MapData, Value<LINES>> = Array::create(1, IMAGE_MAP_FLAGS)?;
    {
        // What is behind the image is zero already, and takes no time.
        let mut mapped = Mapped::new(inner.map(), LINES as u32, Access::Write)?;
        mapped.alone()[..image.len()].copy_from_slice(image);
    }
    let mut images: ArrayOfMaps<&mut MapData, Array<MapData, Value<LINES>>> =
        ArrayOfMaps::try_from(images)?;
    Ok(images.set(slot, &inner, 0)?)
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
