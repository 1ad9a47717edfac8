// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressed answers: who wants one, which answers may be, and the stream itself.
//!
//! An answer is compressed as it passes. Nothing waits in the encoder: when the service pauses, what it has sent so
//! far is flushed, so events and progress arrive as soon as without compression.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::response;
use hyper::{Method, Request, StatusCode, Version};

use super::headers::has_token;

mod accept;
mod encoder;

use accept::{own_quality, quality};
pub use encoder::{Encoder, Encoders};

/// A format, by HAProxy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algo {
    /// `gzip`.
    Gzip,
    /// `deflate`: with zlib's frame, as RFC 9110 §8.4.1.2 has it.
    Deflate,
    /// `raw-deflate`: the same token, without the frame.
    RawDeflate,
}

impl Algo {
    fn coding(self) -> &'static str {
        match self {
            Algo::Gzip => "gzip",
            Algo::Deflate | Algo::RawDeflate => "deflate",
        }
    }
}

/// What a service compresses: COMPRESSION_ALGO and COMPRESSION_TYPE, or the parameters of these names.
#[derive(Clone, Debug, Default)]
pub struct Compression {
    /// In the order of preference; none (`identity`) compresses nothing.
    algos: Vec<Algo>,
    /// Beginnings of Content-Type; none admits all but `multipart/`.
    types: Vec<Box<str>>,
}

/// What the client of one request gets if the answer can be compressed.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    algo: Option<Algo>,
    is_head: bool,
}

impl Compression {
    /// Reads names of formats and content types, separated by blanks.
    pub fn parse(algos: &str, types: &str) -> Result<Self, String> {
        let mut known = Vec::new();
        for name in algos.split_whitespace() {
            match name {
                "identity" => {}
                "gzip" => known.push(Algo::Gzip),
                "deflate" => known.push(Algo::Deflate),
                "raw-deflate" => known.push(Algo::RawDeflate),
                other => {
                    return Err(format!(
                        "`{other}` is not one of identity, gzip, deflate, raw-deflate"
                    ));
                }
            }
        }
        Ok(Compression {
            algos: known,
            types: types.split_whitespace().map(Into::into).collect(),
        })
    }

    /// What this request asks for; none where nothing is compressed for anybody.
    pub fn wish<B>(&self, request: &Request<B>) -> Option<Wish> {
        if self.algos.is_empty() || request.version() < Version::HTTP_11 {
            return None;
        }
        // Only a client that says so prefers what is not compressed.
        let identity = own_quality(request.headers(), "identity").unwrap_or(0);
        let mut best: Option<(u16, Algo)> = None;
        for &algo in &self.algos {
            let quality = quality(request.headers(), algo.coding()).unwrap_or(0);
            if quality > 0 && quality >= identity && best.is_none_or(|(most, _)| quality > most) {
                best = Some((quality, algo));
            }
        }
        Some(Wish {
            algo: best.map(|(_, algo)| algo),
            is_head: *request.method() == Method::HEAD,
        })
    }

    /// Prepares the head of an answer and returns the encoder of its body, if it is to be compressed.
    pub fn begin(&self, wish: Wish, answer: &mut response::Parts, encoders: &Encoders) -> Option<Encoder> {
        if !self.may_compress(answer) {
            return None;
        }
        // The same for those who get it plain, or a cache would give one's answer to the other.
        if !has_token(&answer.headers, header::VARY, "accept-encoding") {
            let value = HeaderValue::from_static("Accept-Encoding");
            answer.headers.append(header::VARY, value);
        }
        let algo = wish.algo.filter(|_| !wish.is_head)?;
        let encoder = encoders.make(algo)?;
        let headers = &mut answer.headers;
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(algo.coding()));
        for name in ["content-length", "accept-ranges", "content-md5", "content-digest"] {
            headers.remove(name);
        }
        weaken_etag(headers);
        Some(encoder)
    }

    fn may_compress(&self, answer: &response::Parts) -> bool {
        let headers = &answer.headers;
        let is_complete = matches!(
            answer.status,
            StatusCode::OK
                | StatusCode::CREATED
                | StatusCode::ACCEPTED
                | StatusCode::NON_AUTHORITATIVE_INFORMATION
        );
        is_complete
            && !headers.contains_key(header::CONTENT_ENCODING)
            && !headers.contains_key(header::CONTENT_RANGE)
            && !has_token(headers, header::CACHE_CONTROL, "no-transform")
            && headers
                .get(header::CONTENT_LENGTH)
                .is_none_or(|length| length != "0")
            && self.is_type(headers.get(header::CONTENT_TYPE))
    }

    fn is_type(&self, content_type: Option<&HeaderValue>) -> bool {
        let begins = |with: &str| {
            let text = content_type.map_or(&b""[..], HeaderValue::as_bytes);
            text.get(..with.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(with.as_bytes()))
        };
        // Frames of gRPC have a compression of their own.
        if begins("multipart/") || begins("application/grpc") {
            return false;
        }
        self.types.is_empty() || self.types.iter().any(|with| begins(with))
    }
}

/// The bytes are others than those that the service named (RFC 9110 §8.8.3).
fn weaken_etag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG) else {
        return;
    };
    if tag.as_bytes().starts_with(b"\"") {
        let weak = [b"W/", tag.as_bytes()].concat();
        if let Ok(weak) = HeaderValue::from_bytes(&weak) {
            headers.insert(header::ETAG, weak);
        }
    }
}

#[cfg(test)]
mod tests;
