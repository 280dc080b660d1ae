//! An array map in this process's memory, to be read, or changed, while the programs use it.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::FromBytes;

/// What may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It is read.
    Read,
    /// Its atomic words are changed too.
    Write,
}

/// All values of a map with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    values: usize,
    of: PhantomData<[T]>,
}

#[expect(
    unsafe_code,
    reason = "a system call for each value would take a second for a large table"
)]
impl<T: FromBytes> Mapped<T> {
    /// Maps `values` values of `map`, each as large as a `T`.
    pub(super) fn new(map: &MapData, values: u32, access: Access) -> Result<Self> {
        let values = values as usize;
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the kernel chooses where, so that nothing else is there.
        let start = unsafe {
            mmap(
                null_mut(),
                values * size_of::<T>(),
                protection,
                MapFlags::SHARED,
                map.fd(),
                0,
            )
        };
        let start = start.context("mapping a table of the kernel")?.cast();
        let start = NonNull::new(start).context("a table was mapped at zero")?;
        Ok(Self {
            start,
            values,
            of: PhantomData,
        })
    }
}

#[expect(unsafe_code, reason = "see above")]
impl<T: FromBytes> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many values were mapped, at a page's start, and stay until the drop; any bytes are a `T`. What others change
        // while it is mapped are its atomic words.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.values) }
    }
}

#[expect(unsafe_code, reason = "see above")]
impl<T: FromBytes> Mapped<T> {
    /// The values of a map that nobody else has yet, to be filled.
    pub(super) fn alone(&mut self) -> &mut [T] {
        // SAFETY: as above, and they were mapped to be written by whoever asks for this.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.values) }
    }
}

#[expect(unsafe_code, reason = "see above")]
impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = self.values * size_of::<T>();
        // SAFETY: it was mapped with this length, and no reference outlives it. It cannot fail but by a wrong argument.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
    }
}
