// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers of class 1xx before the answer, written around hyper, which has no way to send them.
//!
//! They go out when everything that hyper had to write is written, so they never stand inside or behind an answer.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use hyper::StatusCode;
use hyper::header::HeaderMap;

use crate::l7::headers::strip_hop_by_hop;
use crate::l7::limits;
use crate::l7::upstream::h1::head;

/// What waits to be written. In a mutex only because hyper wants the socket to be `Send`; one thread uses it.
#[derive(Default)]
pub struct Early {
    waits: AtomicBool,
    bytes: Mutex<BytesMut>,
}

impl Early {
    /// Adds one. It is left out when so many wait already that the client does not read.
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() >= limits::HEAD_BYTES_MAX {
            return;
        }
        let reason = status.canonical_reason().unwrap_or_default();
        // Writing to memory cannot fail.
        let _ = write!(bytes, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
        let mut headers = headers.clone();
        strip_hop_by_hop(&mut headers);
        for (name, value) in headers.iter().filter(|(name, _)| !head::is_of_head(name)) {
            head::field(&mut bytes, name.as_str().as_bytes(), value.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        self.waits.store(true, Relaxed);
    }

    /// Whether there is something to be written.
    pub fn waits(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// Nothing is left to be written, unless a part of it has been.
    pub fn clear(&self) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.waits.store(false, Relaxed);
    }

    /// What is to be written, for [`Early::put_back`].
    pub fn take(&self) -> BytesMut {
        self.waits.store(false, Relaxed);
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What could not be written yet.
    pub fn put_back(&self, rest: BytesMut) {
        self.waits.store(!rest.is_empty(), Relaxed);
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = rest;
    }
}
