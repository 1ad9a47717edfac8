// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests' allocator: the system's, which counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local!(static BYTES: Cell<usize> = const { Cell::new(0) });

/// Bytes that this thread has ever asked for.
pub(crate) fn allocated() -> usize {
    BYTES.get()
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has none any more.
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
