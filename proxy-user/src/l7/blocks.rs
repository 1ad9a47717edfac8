// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trailers of HTTP/2 that have pseudo fields, which make a message malformed (RFC 9113 §8.1).
//!
//! h2 takes them and forgets the pseudo fields, and nobody behind it can tell. So the header blocks of a direction are
//! read along with it. Trailers that are malformed lose the flag that says that they end their stream, on their way to
//! h2: it then resets the stream, as it should have. Where that flag has passed already, because the block came in
//! several frames or pieces, the error is one of the connection, as §5.4 lets it be.

mod hpack;
mod walk;

use hpack::Table;
pub use walk::Head;
use walk::{Found, Walk};

use super::limits;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// From the flags of a frame to the end of its head.
const FLAGS_TO_END: usize = 5;
/// What stands before a block with a priority.
const PRIORITY_BYTES: usize = 5;

/// Trailers with a pseudo field, too late to be an error of their stream alone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("trailers with a pseudo field")]
pub struct Malformed;

/// Whose blocks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client's.
    Client,
    /// A service's, which may have answers before the answer.
    Service,
}

/// Reads along.
pub struct Blocks {
    sender: Sender,
    walk: Walk,
    table: Table,
    /// Streams that have begun a body, the oldest first.
    bodies: Vec<u32>,
    open: Option<Open>,
    /// The payload of a frame that comes in pieces.
    frame: Vec<u8>,
    /// A block that comes in frames.
    block: Vec<u8>,
    /// A block could not be read, so nothing can be said of others.
    is_lost: bool,
}

/// A block, and the frame of it that came last.
#[derive(Clone, Copy)]
struct Open {
    stream: u32,
    are_trailers: bool,
    ends_stream: bool,
    is_first: bool,
    flags: u8,
}

impl Blocks {
    /// From the beginning of a connection; the first frame comes behind so many bytes.
    pub fn new(sender: Sender, behind: usize) -> Self {
        Blocks {
            sender,
            walk: Walk::behind(behind),
            table: Table::default(),
            bodies: Vec::new(),
            open: None,
            frame: Vec::new(),
            block: Vec::new(),
            is_lost: false,
        }
    }

    /// What is on its way to h2. `tell` hears of every frame that begins.
    pub fn read<E: From<Malformed>>(
        &mut self,
        bytes: &mut [u8],
        mut tell: impl FnMut(&Head) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut at, mut flags_at) = (0, None);
        while let Some(found) = self.walk.next(bytes, &mut at) {
            let is_malformed = match found {
                Found::Head(head) => {
                    tell(&head)?;
                    if head.kind == HEADERS {
                        flags_at = at.checked_sub(FLAGS_TO_END);
                    }
                    self.begin(&head);
                    head.length == 0 && self.open.is_some() && self.frame_ends(&[])
                }
                Found::Payload(_) if self.open.is_none() => false,
                Found::Payload(range) if self.walk.left() > 0 => {
                    self.keep(&bytes[range]);
                    false
                }
                Found::Payload(range) if self.frame.is_empty() => self.frame_ends(&bytes[range]),
                Found::Payload(range) => {
                    let mut frame = std::mem::take(&mut self.frame);
                    frame.extend_from_slice(&bytes[range]);
                    self.frame_ends(&frame)
                }
            };
            if is_malformed {
                bytes[flags_at.ok_or(Malformed)?] &= !END_STREAM;
            }
        }
        Ok(())
    }

    fn begin(&mut self, head: &Head) {
        if self.is_lost {
            return;
        }
        let ends_stream = head.flags & END_STREAM != 0;
        match (head.kind, &mut self.open) {
            (HEADERS, None) => {
                self.open = Some(Open {
                    stream: head.stream,
                    are_trailers: self.bodies.contains(&head.stream),
                    ends_stream,
                    is_first: true,
                    flags: head.flags,
                });
            }
            (CONTINUATION, Some(open)) if open.stream == head.stream => {
                open.is_first = false;
                open.flags = head.flags;
            }
            // Nothing may stand inside of a block, and h2 will say so.
            (_, Some(_)) => self.lose(),
            (DATA, None) if ends_stream => self.forget(head.stream),
            (RST_STREAM, None) => self.forget(head.stream),
            _ => {}
        }
    }

    fn forget(&mut self, stream: u32) {
        if !self.bodies.is_empty() {
            self.bodies.retain(|body| *body != stream);
        }
    }

    fn lose(&mut self) {
        *self = Blocks {
            walk: std::mem::take(&mut self.walk),
            is_lost: true,
            ..Blocks::new(self.sender, 0)
        };
    }

    fn keep(&mut self, piece: &[u8]) {
        self.frame.extend_from_slice(piece);
        if self.frame.len() + self.block.len() > limits::HEAD_BYTES_MAX {
            self.lose();
        }
    }

    /// A frame of the block is whole. Whether it ends trailers that are malformed.
    fn frame_ends(&mut self, payload: &[u8]) -> bool {
        let (Some(open), Some(fragment)) = (self.open, self.open.and_then(|open| fragment(&open, payload)))
        else {
            self.lose();
            return false;
        };
        if open.flags & END_HEADERS == 0 {
            self.block.extend_from_slice(fragment);
            if self.block.len() > limits::HEAD_BYTES_MAX {
                self.lose();
            }
            return false;
        }
        self.open = None;
        let mut block = std::mem::take(&mut self.block);
        let whole = match block.is_empty() {
            true => fragment,
            false => {
                block.extend_from_slice(fragment);
                &block
            }
        };
        let Some(seen) = self.table.read(whole) else {
            self.lose();
            return false;
        };
        if open.are_trailers {
            self.forget(open.stream);
            return seen.pseudo && open.ends_stream;
        }
        let is_early = self.sender == Sender::Service && seen.early;
        if !open.ends_stream && !is_early {
            if self.bodies.len() >= limits::H2_BODIES_MAX {
                self.bodies.remove(0);
            }
            self.bodies.push(open.stream);
        }
        false
    }
}

/// What belongs to the block, without padding and priority.
fn fragment<'a>(open: &Open, payload: &'a [u8]) -> Option<&'a [u8]> {
    if !open.is_first {
        return Some(payload);
    }
    let (mut rest, mut padding) = (payload, 0);
    if open.flags & PADDED != 0 {
        let (&length, behind) = rest.split_first()?;
        (rest, padding) = (behind, usize::from(length));
    }
    if open.flags & PRIORITY != 0 {
        rest = rest.get(PRIORITY_BYTES..)?;
    }
    rest.get(..rest.len().checked_sub(padding)?)
}

#[cfg(test)]
mod tests;
