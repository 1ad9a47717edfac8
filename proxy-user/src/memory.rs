// SPDX-License-Identifier: MIT OR Apache-2.0
//! Free memory goes back to the system.
//!
//! The `portico` binary allocates with mimalloc, which keeps each size on pages of its own: what 10 000 connections hold
//! for long does not lie between the buffers that they held for a request, so those leave whole pages
//! (docs/performance.md). A page that was free for a second goes back the next time that somebody asks for it here or
//! frees another one.

/// Once, before there are threads. A huge page is free only when all of its 2 MiB are, so there are none.
pub fn start() {
    // SAFETY: takes no pointer. A kernel that cannot do it leaves everything as it is.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Gives back the pages that have been free for a while. Cheap: looks at the calling thread's pages, not at what is on
/// them.
pub fn tidy() {
    // SAFETY: takes no pointer and concerns free memory of the calling thread.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

/// Gives back all free pages of the calling thread at once, and those that no thread has.
pub fn give_back() {
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
