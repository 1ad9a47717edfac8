// SPDX-License-Identifier: MIT OR Apache-2.0
//! Array maps in this process's memory: what the programs write is seen at once, and numbers are changed with them
//! atomically.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use aya::maps::MapData;

use super::pins::Pins;

/// One array map.
pub(super) struct Shared<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T> Shared<T> {
    /// Maps a pinned array that was made for it (`BPF_F_MMAPABLE`).
    pub(super) fn map(pins: &Pins, name: &str) -> io::Result<Self> {
        let data = MapData::from_pin(pins.maps().join(name)).map_err(io::Error::other)?;
        let entries = data.info().map_err(io::Error::other)?.max_entries() as usize;
        let bytes = entries * size_of::<T>();
        // SAFETY: a new mapping of a descriptor that is valid for the call.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(
                error.kind(),
                format!("map {name} in memory: {error}"),
            ));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, len: entries })
    }

    /// Every value.
    pub(super) fn values(&self) -> impl Iterator<Item = NonNull<T>> + '_ {
        // SAFETY: below the mapping's length.
        (0..self.len).map(|i| unsafe { self.start.add(i) })
    }
}

impl Shared<AtomicU64> {
    /// One value.
    pub(super) fn get(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: inside the mapping, aligned, and changed by everybody atomically.
        (index < self.len).then(|| unsafe { self.start.add(index).as_ref() })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: what map() mapped; nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}

// SAFETY: a mapping belongs to the process, not to a thread; what is in it is changed atomically or under the
// locks that are in it.
unsafe impl<T> Send for Shared<T> {}
