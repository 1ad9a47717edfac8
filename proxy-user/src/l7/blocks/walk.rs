// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where frames of HTTP/2 begin and end in bytes that come in pieces of any size.

use std::ops::Range;

const HEAD: usize = 9;

/// The nine bytes in front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What kind of frame it is.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The stream it is about.
    pub stream: u32,
    /// Bytes of its payload.
    pub length: usize,
}

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A frame begins.
    Head(Head),
    /// So much of the payload of the frame that began last.
    Payload(Range<usize>),
}

/// A place in a stream of frames.
#[derive(Default)]
pub struct Walk {
    /// Bytes of the payload that have not come.
    left: usize,
    head: [u8; HEAD],
    have: usize,
}

impl Walk {
    /// The first frame begins behind so many bytes.
    pub fn behind(length: usize) -> Self {
        Walk {
            left: length,
            ..Walk::default()
        }
    }

    /// Bytes that are still to come of the frame that began last.
    pub fn left(&self) -> usize {
        self.left
    }

    /// What is next in `bytes` from `at` on, which moves behind it; nothing when there are no more.
    pub fn next(&mut self, bytes: &[u8], at: &mut usize) -> Option<Found> {
        let from = *at;
        let there = bytes.len() - from;
        if there == 0 {
            return None;
        }
        if self.left > 0 {
            let length = self.left.min(there);
            self.left -= length;
            *at += length;
            return Some(Found::Payload(from..*at));
        }
        let length = (HEAD - self.have).min(there);
        self.head[self.have..][..length].copy_from_slice(&bytes[from..][..length]);
        self.have += length;
        *at += length;
        if self.have < HEAD {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Found::Head(Head {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            length: self.left,
        }))
    }
}
