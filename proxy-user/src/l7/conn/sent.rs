// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads along with what is written to a client of HTTP/2: hyper resets a stream that breaks a rule by itself, and
//! nobody else would hear of it.

use std::io::IoSlice;

use crate::l7::refusal::Refusal;

const RST_STREAM: u8 = 3;
const HEAD: usize = 9;
/// Head and error code.
const RESET: usize = HEAD + 4;

/// Where in a frame the next byte is.
#[derive(Default)]
pub struct Sent {
    /// Bytes of a frame that are not interesting.
    skip: usize,
    bytes: [u8; RESET],
    have: usize,
}

impl Sent {
    /// The first `written` bytes of these have been written.
    pub fn wrote(&mut self, bufs: &[IoSlice<'_>], mut written: usize, mut tell: impl FnMut(Refusal)) {
        for buf in bufs {
            let length = written.min(buf.len());
            written -= length;
            self.read(&buf[..length], &mut tell);
        }
    }

    fn read(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Refusal)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let length = self.skip.min(bytes.len());
                self.skip -= length;
                bytes = &bytes[length..];
                continue;
            }
            let is_reset = self.have >= HEAD;
            let wanted = if is_reset { RESET } else { HEAD };
            let length = (wanted - self.have).min(bytes.len());
            self.bytes[self.have..self.have + length].copy_from_slice(&bytes[..length]);
            self.have += length;
            bytes = &bytes[length..];
            match self.have {
                HEAD if self.bytes[3] != RST_STREAM => {
                    let [a, b, c, ..] = self.bytes;
                    self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    self.have = 0;
                }
                RESET => {
                    self.have = 0;
                    let [.., a, b, c, d] = self.bytes;
                    if let Some(refusal) = blame(u32::from_be_bytes([a, b, c, d]).into()) {
                        tell(refusal);
                    }
                }
                _ => {}
            }
        }
    }
}

/// What the client did; nothing if the reset is ours or the service's.
fn blame(reason: h2::Reason) -> Option<Refusal> {
    match reason {
        h2::Reason::PROTOCOL_ERROR
        | h2::Reason::FLOW_CONTROL_ERROR
        | h2::Reason::STREAM_CLOSED
        | h2::Reason::FRAME_SIZE_ERROR => Some(Refusal::StreamInvalid),
        h2::Reason::REFUSED_STREAM => Some(Refusal::StreamRefused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn resets_are_found_however_the_writes_are_cut() {
        let reset = |code: u8| frame(RST_STREAM, &[0, 0, 0, code]);
        let bytes = [
            frame(4, &[0; 12]),
            reset(1),
            // A reset inside of DATA is data.
            frame(0, &reset(1)),
            reset(8),
            frame(4, &[]),
            reset(7),
        ]
        .concat();
        for cut in 1..bytes.len() {
            let (mut sent, mut found) = (Sent::default(), Vec::new());
            for part in bytes.chunks(cut) {
                let (a, b) = part.split_at(part.len() / 2);
                let bufs = [IoSlice::new(a), IoSlice::new(b), IoSlice::new(b"not written")];
                sent.wrote(&bufs, part.len(), |refusal| found.push(refusal));
            }
            assert_eq!(found, [Refusal::StreamInvalid, Refusal::StreamRefused], "{cut}");
        }
    }
}
