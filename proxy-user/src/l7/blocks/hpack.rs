// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much of HPACK (RFC 7541) as it takes to know which fields of a block are pseudo fields: names are followed
//! through both tables, and of values only how long they are and how they begin.

use std::collections::VecDeque;

/// What the peer may keep in the table: nobody tells it anything else than the default (RFC 9113 §6.5.2).
const TABLE_BYTES_MAX: usize = 4096;
/// What an entry counts beside its name and value (§4.1).
const ENTRY_BYTES: usize = 32;

/// Names of the static table (appendix A), whose indexes begin with 1.
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// How many codes of Huffman's have so many bits (appendix B). They are canonical: those of one length follow each
/// other, and the next length goes on behind them.
const CODES: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4,
];

/// Codes of the two characters that matter at the beginning of a text.
const COLON: (u8, u8) = (0b101_1100, 7);
const ONE: (u8, u8) = (0b0_0001, 5);

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    Pseudo,
    /// A pseudo field whose value begins with 1, as the status of an answer before the answer does.
    Early,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    name: usize,
    value: usize,
}

/// What is in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A pseudo field.
    pub pseudo: bool,
    /// One that begins with 1.
    pub early: bool,
}

/// The dynamic table of one direction, the newest first.
pub struct Table {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max: TABLE_BYTES_MAX,
        }
    }
}

impl Table {
    /// Reads a whole block; nothing when it cannot be read, and then the table is not what the peer thinks any more.
    pub fn read(&mut self, block: &[u8]) -> Option<Seen> {
        let mut rest = block;
        let mut seen = Seen::default();
        while let Some(&first) = rest.first() {
            let kind = match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    self.entry(index)?.kind
                }
                0x40.. => {
                    let (mut entry, value) = self.literal(&mut rest, 6)?;
                    (entry.name, entry.value) = (entry.name, value.length()?);
                    self.insert(entry);
                    entry.kind
                }
                0x20.. => {
                    let size = integer(&mut rest, 5)?;
                    self.bytes_max = (size <= TABLE_BYTES_MAX).then_some(size)?;
                    self.evict(0);
                    continue;
                }
                _ => self.literal(&mut rest, 4)?.0.kind,
            };
            seen.pseudo |= kind != Kind::Regular;
            seen.early |= kind == Kind::Early;
        }
        Some(seen)
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let at = index.checked_sub(1)?;
        match STATIC.get(at) {
            None => self.entries.get(at - STATIC.len()).copied(),
            Some(name) => Some(Entry {
                kind: if name.starts_with(':') {
                    Kind::Pseudo
                } else {
                    Kind::Regular
                },
                name: name.len(),
                value: 0,
            }),
        }
    }

    /// A field that has its value with it, and perhaps its name. How long the value is, is not in the entry yet.
    fn literal<'a>(&self, rest: &mut &'a [u8], bits: u32) -> Option<(Entry, Text<'a>)> {
        let mut entry = match integer(rest, bits)? {
            0 => {
                let name = Text::read(rest)?;
                Entry {
                    kind: if name.begins(b':', COLON) {
                        Kind::Pseudo
                    } else {
                        Kind::Regular
                    },
                    name: name.length()?,
                    value: 0,
                }
            }
            index => self.entry(index)?,
        };
        let value = Text::read(rest)?;
        if entry.kind != Kind::Regular {
            entry.kind = if value.begins(b'1', ONE) {
                Kind::Early
            } else {
                Kind::Pseudo
            };
        }
        Some((entry, value))
    }

    fn insert(&mut self, entry: Entry) {
        let bytes = entry.name + entry.value + ENTRY_BYTES;
        self.evict(bytes);
        // What is larger than the table leaves it empty (§4.4).
        if bytes <= self.bytes_max {
            self.bytes += bytes;
            self.entries.push_front(entry);
        }
    }

    /// Makes room for so many bytes.
    fn evict(&mut self, bytes: usize) {
        while self.bytes + bytes > self.bytes_max
            && let Some(entry) = self.entries.pop_back()
        {
            self.bytes -= entry.name + entry.value + ENTRY_BYTES;
        }
    }
}

/// An integer with a prefix of so many bits (§5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Option<usize> {
    let mut next = || {
        let (&first, behind) = rest.split_first()?;
        *rest = behind;
        Some(usize::from(first))
    };
    let max = (1 << bits) - 1;
    let mut value = next()? & max;
    if value < max {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A text as it stands in a block (§5.2).
struct Text<'a> {
    bytes: &'a [u8],
    is_coded: bool,
}

impl<'a> Text<'a> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let is_coded = *rest.first()? >= 0x80;
        let length = integer(rest, 7)?;
        let (bytes, behind) = rest.split_at_checked(length)?;
        *rest = behind;
        Some(Text { bytes, is_coded })
    }

    /// Whether it begins with this character, whose code is this, of so many bits.
    fn begins(&self, plain: u8, (code, bits): (u8, u8)) -> bool {
        match self.bytes.first() {
            None => false,
            Some(&first) if self.is_coded => first >> (8 - bits) == code,
            Some(&first) => first == plain,
        }
    }

    /// Characters when it is decoded.
    fn length(&self) -> Option<usize> {
        if !self.is_coded {
            return Some(self.bytes.len());
        }
        let (mut count, mut bits, mut code, mut first) = (0, 0, 0, 0);
        for byte in self.bytes {
            for shift in (0..8).rev() {
                bits += 1;
                code = code << 1 | u32::from(byte >> shift & 1);
                first <<= 1;
                // Longer ones than there are mean that it is none.
                let codes = *CODES.get(bits)?;
                if code - first < codes {
                    count += 1;
                    (bits, code, first) = (0, 0, 0);
                } else {
                    first += codes;
                }
            }
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect()
    }

    #[test]
    fn the_codes_are_all_there_are() {
        assert_eq!(CODES.iter().sum::<u32>(), 257);
        let behind = (CODES.iter()).fold(0u64, |first, codes| (first << 1) + u64::from(*codes));
        assert_eq!(behind, 1 << 30, "no bits mean nothing");
    }

    #[test]
    fn coded_texts_have_the_length_of_their_characters() {
        // Appendix C.4 and C.6.
        for (hex, text) in [
            ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
            ("a8eb 1064 9cbf", "no-cache"),
            ("25a8 49e9 5ba9 7d7f", "custom-key"),
            (
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (
                "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 \
                 b106 3d50 07",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ] {
            let bytes = bytes(hex);
            let coded = Text {
                bytes: &bytes,
                is_coded: true,
            };
            assert_eq!(coded.length(), Some(text.len()), "{text}");
        }
    }

    #[test]
    fn the_tables_of_the_appendix_come_about() {
        // C.4.1 to C.4.3: sizes of the table after each block.
        let mut table = Table::default();
        for (hex, size) in [
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", 57),
            ("8286 84be 5886 a8eb 1064 9cbf", 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", 164),
        ] {
            let seen = table.read(&bytes(hex)).unwrap();
            assert_eq!((seen.pseudo, table.bytes), (true, size), "{hex}");
        }
        // C.6 has a table of 256 bytes, from which entries fall.
        let mut table = Table {
            bytes_max: 256,
            ..Table::default()
        };
        for (hex, size) in [
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad \
                 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                222,
            ),
            ("4883 640e ffc1 c0bf", 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 \
                 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                215,
            ),
        ] {
            assert!(table.read(&bytes(hex)).unwrap().pseudo);
            assert_eq!(table.bytes, size, "{hex}");
        }
    }

    #[test]
    fn pseudo_fields_are_known_however_they_are_written() {
        let mut table = Table::default();
        let mut read = |hex: &str| table.read(&bytes(hex)).map(|seen| (seen.pseudo, seen.early));
        // Indexed, by name, as text, coded.
        assert_eq!(read("88"), Some((true, false)));
        assert_eq!(read("0801 32"), Some((true, false)));
        assert_eq!(read("0803 31 30 33"), Some((true, true)), "status 103");
        assert_eq!(read("0882 08 00"), Some((true, true)), "the same, coded");
        assert_eq!(read("00 02 3a78 00"), Some((true, false)));
        assert_eq!(
            read("00 85 b9 49 53 39 e4 00"),
            Some((true, false)),
            "`:method` begins so"
        );
        assert_eq!(read("00 01 78 01 3a"), Some((false, false)), "a value is no name");
        assert_eq!(read("00 01 78 01 31"), Some((false, false)));
        // Kept in the table, and named from there.
        assert_eq!(read("48 03 31 30 30"), Some((true, true)));
        assert_eq!(read("be"), Some((true, true)));
        assert_eq!(read("40 01 78 01 79"), Some((false, false)));
        assert_eq!(read("be"), Some((false, false)));
        assert_eq!(read("bf"), Some((true, true)));
        assert_eq!(
            read("0f 30 01 32"),
            Some((true, false)),
            "its name, with another value"
        );
        // A table that is made empty has nothing.
        assert_eq!(read("20 be"), None);
    }

    #[test]
    fn no_input_makes_it_panic() {
        for seed in 0..20_000u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let block: Vec<u8> = (0..24)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 24) as u8
                })
                .collect();
            let mut table = Table::default();
            for part in block.chunks(8) {
                let _ = table.read(part);
            }
            assert!(table.bytes <= TABLE_BYTES_MAX);
        }
    }
}
