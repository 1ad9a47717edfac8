// SPDX-License-Identifier: MIT OR Apache-2.0
//! `abi!`: the only way to declare a struct that crosses the kernel boundary.

/// Declares a `repr(C)` struct without padding: `abi! { /// doc pub struct Name: 12 { /// doc field: u32, … } }`.
///
/// The number is the size in bytes, checked by the compiler against the layout and against the sum of the
/// fields. With the feature `user` the type is `aya::Pod`.
macro_rules! abi {
    ($(#[$meta:meta])* pub struct $name:ident : $size:literal { $($(#[$fmeta:meta])* $field:ident : $ty:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),+ }

        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size, "size differs from the declared one");
            assert!($size == 0 $(+ core::mem::size_of::<$ty>())+, "struct has padding");
        };

        // SAFETY: repr(C), Copy, made of integers only and, as asserted above, without padding bytes.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}
