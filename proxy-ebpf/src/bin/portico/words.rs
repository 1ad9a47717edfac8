// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Bytes of a frame, by words: headers lie at any address, and the compiler takes the target for one that must read
//! such bytes one by one. Where the programs run they need not be (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS), and the
//! verifier asks for alignment of packets only elsewhere.

use core::arch::asm;

/// Bytes that can be moved by words.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

macro_rules! word {
    ($load:ident, $store:ident, $word:ty, $read:literal, $write:literal) => {
        /// Reads them.
        ///
        /// # Safety
        /// As many bytes are there.
        #[inline(always)]
        pub unsafe fn $load(at: *const u8) -> $word {
            let value: u64;
            // SAFETY: as the caller promises.
            unsafe {
                asm!($read, v = out(reg) value, p = in(reg) at, options(readonly, nostack));
            }
            value as $word
        }

        /// Writes them.
        ///
        /// # Safety
        /// As many bytes are there.
        #[inline(always)]
        pub unsafe fn $store(at: *mut u8, value: $word) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!($write, v = in(reg) u64::from(value), p = in(reg) at, options(nostack));
            }
        }
    };
}

word!(
    load8,
    store8,
    u64,
    "{v} = *(u64 *)({p} + 0)",
    "*(u64 *)({p} + 0) = {v}"
);
word!(
    load4,
    store4,
    u32,
    "{v} = *(u32 *)({p} + 0)",
    "*(u32 *)({p} + 0) = {v}"
);
word!(
    load2,
    store2,
    u16,
    "{v} = *(u16 *)({p} + 0)",
    "*(u16 *)({p} + 0) = {v}"
);
word!(
    load1,
    store1,
    u8,
    "{v} = *(u8 *)({p} + 0)",
    "*(u8 *)({p} + 0) = {v}"
);

/// Copies `N` bytes out.
///
/// # Safety
/// They are there.
#[inline(always)]
pub unsafe fn read<const N: usize>(from: *const u8) -> [u8; N] {
    let mut bytes = Aligned([0; N]);
    let to = bytes.0.as_mut_ptr();
    let mut at = 0;
    // SAFETY: below N, as the caller promises; the target is aligned and as long.
    unsafe {
        while at + 8 <= N {
            to.add(at).cast::<u64>().write(load8(from.add(at)));
            at += 8;
        }
        if at + 4 <= N {
            to.add(at).cast::<u32>().write(load4(from.add(at)));
            at += 4;
        }
        if at + 2 <= N {
            to.add(at).cast::<u16>().write(load2(from.add(at)));
            at += 2;
        }
        if at < N {
            to.add(at).write(load1(from.add(at)));
        }
    }
    bytes.0
}

/// Copies `N` bytes in.
///
/// # Safety
/// There is room for them.
#[inline(always)]
pub unsafe fn write<const N: usize>(to: *mut u8, bytes: &[u8; N]) {
    let bytes = Aligned(*bytes);
    let from = bytes.0.as_ptr();
    let mut at = 0;
    // SAFETY: as for `read`.
    unsafe {
        while at + 8 <= N {
            store8(to.add(at), from.add(at).cast::<u64>().read());
            at += 8;
        }
        if at + 4 <= N {
            store4(to.add(at), from.add(at).cast::<u32>().read());
            at += 4;
        }
        if at + 2 <= N {
            store2(to.add(at), from.add(at).cast::<u16>().read());
            at += 2;
        }
        if at < N {
            store1(to.add(at), from.add(at).read());
        }
    }
}
