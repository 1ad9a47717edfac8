// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Internet checksum (RFC 1071), whole and by difference (RFC 1624), for programs that have no skb to ask.

/// Checksum of a sum of up to 2^16 words of 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The checksum after one word of what it covers has changed: RFC 1624 equation 3. All in one byte order, whichever.
#[inline(always)]
pub fn replace16(check: u16, old: u16, new: u16) -> u16 {
    fold(u32::from(!check) + u32::from(!old) + u32::from(new))
}

/// The same for two words, an address.
#[inline(always)]
pub fn replace32(check: u16, old: u32, new: u32) -> u16 {
    let check = replace16(check, old as u16, new as u16);
    replace16(check, (old >> 16) as u16, (new >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(words: &[u16]) -> u16 {
        fold(words.iter().map(|w| u32::from(*w)).sum())
    }

    #[test]
    fn a_difference_gives_what_the_whole_sum_gives() {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as u16
        };
        for _ in 0..10_000 {
            // Never all zeros: such a sum has two forms of zero, and no IPv4 header is like that.
            let mut words = [0x4500, next(), next(), next(), next()];
            let check = whole(&words);
            let (old, new) = (words[2], next());
            words[2] = new;
            assert_eq!(replace16(check, old, new), whole(&words));
            let check = whole(&words);
            let old = u32::from(words[3]) | u32::from(words[4]) << 16;
            let new = u32::from(next()) | u32::from(next()) << 16;
            (words[3], words[4]) = (new as u16, (new >> 16) as u16);
            assert_eq!(replace32(check, old, new), whole(&words));
        }
    }
}
