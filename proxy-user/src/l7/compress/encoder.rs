// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream of one compressed answer.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::Algo;
use crate::l7::limits;

/// The encoders of one worker. *Limits*: [`limits::ENCODERS_PER_WORKER`]; an answer beyond is passed on as it is.
#[derive(Clone, Default)]
pub struct Encoders(Rc<Cell<usize>>);

impl Encoders {
    /// An encoder, unless there are too many.
    pub(super) fn make(&self, algo: Algo) -> Option<Encoder> {
        if self.0.get() >= limits::ENCODERS_PER_WORKER {
            return None;
        }
        self.0.set(self.0.get() + 1);
        // Level 1 as HAProxy's default: the proxy's time is dearer than a tenth of the bytes.
        let (out, level) = (Vec::new(), Level::fast());
        Some(Encoder {
            stream: match algo {
                Algo::Gzip => Stream::Gzip(GzEncoder::new(out, level)),
                Algo::Deflate => Stream::Zlib(ZlibEncoder::new(out, level)),
                Algo::RawDeflate => Stream::Raw(DeflateEncoder::new(out, level)),
            },
            is_dirty: false,
            is_finished: false,
            count: self.0.clone(),
        })
    }
}

/// One stream.
pub struct Encoder {
    stream: Stream,
    /// Something was written and not flushed.
    is_dirty: bool,
    is_finished: bool,
    count: Rc<Cell<usize>>,
}

enum Stream {
    Gzip(GzEncoder<Vec<u8>>),
    Zlib(ZlibEncoder<Vec<u8>>),
    Raw(DeflateEncoder<Vec<u8>>),
}

impl Encoder {
    /// Takes bytes of the answer, and returns what is ready of the compressed ones.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Option<Bytes>> {
        self.is_dirty = true;
        self.writer().write_all(bytes)?;
        Ok(self.take())
    }

    /// What the client needs to see everything that was written so far.
    pub fn flush(&mut self) -> io::Result<Option<Bytes>> {
        if !self.is_dirty || self.is_finished {
            return Ok(None);
        }
        self.is_dirty = false;
        self.writer().flush()?;
        Ok(self.take())
    }

    /// The end of the stream, once.
    pub fn finish(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_finished {
            return Ok(None);
        }
        self.is_finished = true;
        match &mut self.stream {
            Stream::Gzip(stream) => stream.try_finish()?,
            Stream::Zlib(stream) => stream.try_finish()?,
            Stream::Raw(stream) => stream.try_finish()?,
        }
        Ok(self.take())
    }

    /// Whether [`Encoder::finish`] has been called.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.stream {
            Stream::Gzip(stream) => stream,
            Stream::Zlib(stream) => stream,
            Stream::Raw(stream) => stream,
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let out = match &mut self.stream {
            Stream::Gzip(stream) => stream.get_mut(),
            Stream::Zlib(stream) => stream.get_mut(),
            Stream::Raw(stream) => stream.get_mut(),
        };
        (!out.is_empty()).then(|| std::mem::take(out).into())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}
