// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one hash of the data plane: of clients for tables, of keys for flow buckets, of backends for Maglev.

/// Mixes 64 bits so that every input bit changes every output bit with probability about one half (the finalizer of
/// SplitMix64, Steele et al. 2014).
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Mixes two numbers; the order counts.
#[inline(always)]
pub const fn mix2(a: u64, b: u64) -> u64 {
    mix(mix(a).wrapping_add(b).wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// 0 .. `size`, from the high half of a hash, without a division (Lemire 2016).
#[inline(always)]
pub const fn reduce(hash: u64, size: u32) -> u32 {
    (((hash >> 32) * size as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answers_of_splitmix64() {
        // The first outputs of the generator seeded with 0 (state grows by the golden gamma).
        let gamma = 0x9e37_79b9_7f4a_7c15_u64;
        assert_eq!(mix(gamma), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(gamma.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn reduce_is_even() {
        let mut found = [0u32; 7];
        for i in 0..70_000u64 {
            found[reduce(mix(i), 7) as usize] += 1;
        }
        assert!(found.iter().all(|n| (9_600..10_400).contains(n)), "{found:?}");
    }
}
