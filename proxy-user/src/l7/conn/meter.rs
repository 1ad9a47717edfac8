// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts the frames of HTTP/2 that a client sends, so that what costs the proxy more than the client has an end.
//!
//! hyper bounds streams, header lists and CONTINUATION frames and what it keeps of each; it answers any number of
//! PING and SETTINGS frames and takes any number of resets that come at their own pace. Here every frame that carries
//! no request has to be paid for: by frames that do, or by what we write, beyond an allowance. Only the nine bytes in
//! front of each frame are looked at here; hyper checks the frames themselves, except for what [`Blocks`] knows.

use std::io::IoSlice;

use tokio::time::Instant;

use super::ConnState;
use super::sent::Sent;
use super::watched::PREFACE;
use crate::l7::blocks::{Blocks, Head, Malformed, Sender};
use crate::l7::limits;
use crate::l7::refusal::Refusal;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Reads along with hyper.
pub struct Meter {
    blocks: Blocks,
    account: Account,
    sent: Sent,
}

/// What the client may still send.
struct Account {
    /// Frames that may still come without a request.
    credit: u32,
    resets: u32,
    refilled: Instant,
    /// A frame has come; the first must be SETTINGS (RFC 9113 §3.4).
    began: bool,
    /// Bytes of the head that is open.
    head_bytes: usize,
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Refusal::FrameInvalid
    }
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            blocks: Blocks::new(Sender::Client, PREFACE.len()),
            account: Account {
                credit: limits::H2_FRAMES_FREE,
                resets: limits::H2_RESETS_BURST,
                refilled: Instant::now(),
                began: false,
                head_bytes: 0,
            },
            sent: Sent::default(),
        }
    }
}

impl Meter {
    /// What the client sent, on its way to hyper. An error is to end the connection.
    pub fn read(&mut self, bytes: &mut [u8], state: &ConnState) -> Result<(), Refusal> {
        let account = &mut self.account;
        self.blocks.read(bytes, |head| account.frame(head, state))
    }

    /// Something was written; `tell` hears for which mistakes of the client streams were reset.
    pub fn wrote(&mut self, bufs: &[IoSlice<'_>], written: usize, tell: impl FnMut(Refusal)) {
        self.account.earn();
        self.sent.wrote(bufs, written, tell);
    }
}

impl Account {
    fn earn(&mut self) {
        self.credit = (self.credit + limits::H2_FRAMES_PER_USEFUL).min(limits::H2_FRAMES_FREE);
    }

    fn frame(&mut self, head: &Head, state: &ConnState) -> Result<(), Refusal> {
        let Head {
            kind, flags, length, ..
        } = *head;
        if !std::mem::replace(&mut self.began, true) && kind != SETTINGS {
            return Err(Refusal::FrameInvalid);
        }
        match kind {
            HEADERS => self.head_bytes = length,
            CONTINUATION => self.head_bytes += length,
            _ => {}
        }
        let ends_head = flags & END_HEADERS != 0;
        match kind {
            HEADERS | CONTINUATION if ends_head => {
                state.head_is_open(false);
                // hyper answers 431 by itself.
                if self.head_bytes > limits::HEAD_BYTES_MAX {
                    state.counters.refused(Refusal::HeadTooLarge);
                }
            }
            HEADERS => state.head_is_open(true),
            _ => {}
        }
        let is_useful = match kind {
            HEADERS => true,
            DATA => length > 0 || flags & END_STREAM != 0,
            _ => false,
        };
        if is_useful {
            self.earn();
        } else {
            self.credit = self.credit.checked_sub(1).ok_or(Refusal::FrameFlood)?;
        }
        if kind == RST_STREAM {
            state.reset_passed();
            self.reset(Instant::now()).ok_or(Refusal::ResetFlood)?;
        }
        Ok(())
    }

    fn reset(&mut self, now: Instant) -> Option<()> {
        let millis = (now - self.refilled).as_millis();
        let gained = millis * u128::from(limits::H2_RESETS_PER_SECOND) / 1000;
        if gained > 0 {
            self.refilled = now;
            let full = u128::from(limits::H2_RESETS_BURST);
            self.resets = (u128::from(self.resets) + gained).min(full) as u32;
        }
        self.resets = self.resets.checked_sub(1)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        let head = bytes.len();
        bytes.resize(head + payload, 0x82);
        bytes
    }

    #[test]
    fn frames_without_a_request_run_out_of_credit_however_they_are_cut() {
        const PING: u8 = 6;
        for cut in [1, 7, 9, 4096] {
            let (state, mut meter) = (ConnState::new(true, true, Arc::default()), Meter::default());
            meter
                .read(&mut [PREFACE, &frame(SETTINGS, 0, 0)].concat(), &state)
                .unwrap();
            let mut pings = frame(PING, 0, 8).repeat(limits::H2_FRAMES_FREE as usize - 1);
            for part in pings.chunks_mut(cut) {
                meter.read(part, &state).unwrap();
            }
            assert_eq!(
                meter.read(&mut frame(PING, 0, 8), &state),
                Err(Refusal::FrameFlood)
            );
        }
    }

    #[test]
    fn requests_and_what_we_write_pay_for_frames() {
        let (state, mut meter) = (ConnState::new(true, true, Arc::default()), Meter::default());
        meter
            .read(&mut [PREFACE, &frame(SETTINGS, 0, 0)].concat(), &state)
            .unwrap();
        for _ in 0..10 * limits::H2_FRAMES_FREE {
            meter.read(&mut frame(8, 0, 4), &state).unwrap();
            meter.read(&mut frame(8, 0, 4), &state).unwrap();
            meter.wrote(&[], 0, |_| {});
        }
        let mut empty = frame(DATA, 0, 0).repeat(limits::H2_FRAMES_FREE as usize + 1);
        assert_eq!(meter.read(&mut empty, &state), Err(Refusal::FrameFlood));
    }

    #[test]
    fn resets_have_a_rate() {
        let (state, mut meter) = (ConnState::new(true, true, Arc::default()), Meter::default());
        meter
            .read(&mut [PREFACE, &frame(SETTINGS, 0, 0)].concat(), &state)
            .unwrap();
        let pair = [
            frame(HEADERS, END_HEADERS | END_STREAM, 3),
            frame(RST_STREAM, 0, 4),
        ]
        .concat();
        let outcome = meter.read(&mut pair.repeat(2 * limits::H2_RESETS_BURST as usize), &state);
        assert_eq!(outcome, Err(Refusal::ResetFlood));
        let later = meter.account.refilled + std::time::Duration::from_secs(1);
        assert!(meter.account.reset(later).is_some());
        assert_eq!(meter.account.resets, limits::H2_RESETS_PER_SECOND - 1);
    }

    #[test]
    fn a_head_that_does_not_end_is_seen() {
        let (state, mut meter) = (ConnState::new(true, true, Arc::default()), Meter::default());
        meter
            .read(&mut [PREFACE, &frame(SETTINGS, 0, 0)].concat(), &state)
            .unwrap();
        meter.read(&mut frame(HEADERS, 0, 3), &state).unwrap();
        assert!(state.head_ms.load(super::super::Relaxed) > 0);
        meter.read(&mut frame(CONTINUATION, 0, 3), &state).unwrap();
        assert!(state.head_ms.load(super::super::Relaxed) > 0);
        meter
            .read(&mut frame(CONTINUATION, END_HEADERS, 3), &state)
            .unwrap();
        assert_eq!(state.head_ms.load(super::super::Relaxed), 0);
    }
}
