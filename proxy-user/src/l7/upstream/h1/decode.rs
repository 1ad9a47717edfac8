// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the body of an answer ends, and what it is without its framing. Pure: bytes in, pieces out.

use bytes::{Buf, Bytes, BytesMut};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::Broken;
use super::head::is_of_head;
use crate::l7::limits;

/// The rest of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoder(State);

#[derive(Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilEnd,
    /// A line with the size of the next chunk.
    ChunkSize,
    /// So many bytes of the chunk are left.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
    Done,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the body.
    Data(Bytes),
    /// The fields after the last chunk; there are some.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More bytes are needed.
    More,
}

impl Decoder {
    /// No body.
    pub const EMPTY: Decoder = Decoder(State::Done);

    /// So many bytes.
    pub fn length(length: u64) -> Self {
        Decoder(if length == 0 {
            State::Done
        } else {
            State::Length(length)
        })
    }

    /// In chunks.
    pub fn chunked() -> Self {
        Decoder(State::ChunkSize)
    }

    /// As long as the connection.
    pub fn until_end() -> Self {
        Decoder(State::UntilEnd)
    }

    /// Whether it is known that nothing follows.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// The length, where it is known.
    pub fn exact(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// So many bytes of a body whose length is known went past, without having been in a buffer.
    pub fn passed(&mut self, bytes: usize) {
        if let State::Length(left) = &mut self.0 {
            *left = left.saturating_sub(bytes as u64);
            if *left == 0 {
                self.0 = State::Done;
            }
        }
    }

    /// About how many bytes the next read should have room for.
    pub fn expects(&self) -> usize {
        match self.0 {
            State::Length(left) | State::Chunk(left) => usize::try_from(left).unwrap_or(usize::MAX),
            State::UntilEnd => usize::MAX,
            _ => 0,
        }
    }

    /// The connection has ended; whether the body may end there.
    pub fn ended(&mut self) -> Result<(), Broken> {
        match self.0 {
            State::UntilEnd | State::Done => {
                self.0 = State::Done;
                Ok(())
            }
            _ => Err(Broken::Truncated),
        }
    }

    /// Takes the next piece off the front of `buf`.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match &mut self.0 {
                State::Done => return Ok(Step::End),
                _ if buf.is_empty() => return Ok(Step::More),
                State::UntilEnd => return Ok(Step::Data(buf.split().freeze())),
                State::Length(left) => {
                    let data = take(buf, left);
                    if *left == 0 {
                        self.0 = State::Done;
                    }
                    return Ok(Step::Data(data));
                }
                State::ChunkSize => match line(buf)? {
                    None => return Ok(Step::More),
                    Some(text) => {
                        self.0 = match chunk_size(&text)? {
                            0 => State::Trailers,
                            size => State::Chunk(size),
                        };
                    }
                },
                State::Chunk(left) => {
                    let data = take(buf, left);
                    if *left == 0 {
                        self.0 = State::ChunkEnd;
                    }
                    return Ok(Step::Data(data));
                }
                State::ChunkEnd => {
                    if buf.len() < 2 {
                        return Ok(Step::More);
                    }
                    if !buf.starts_with(b"\r\n") {
                        return Err(Broken::Invalid("a chunk does not end where it says"));
                    }
                    buf.advance(2);
                    self.0 = State::ChunkSize;
                }
                State::Trailers => match trailers(buf)? {
                    None => return Ok(Step::More),
                    Some(fields) => {
                        self.0 = State::Done;
                        if !fields.is_empty() {
                            return Ok(Step::Trailers(fields));
                        }
                    }
                },
            }
        }
    }

    /// Whether only the end of the framing is left and `buf` has it. Trailers are left where they are.
    pub fn ends_with(&mut self, buf: &mut BytesMut) -> bool {
        const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
        let framing: &[u8] = match self.0 {
            State::ChunkEnd => LAST_CHUNK,
            State::ChunkSize => &LAST_CHUNK[2..],
            _ => return self.is_done(),
        };
        if buf.starts_with(framing) {
            buf.advance(framing.len());
            self.0 = State::Done;
        }
        self.is_done()
    }
}

fn take(buf: &mut BytesMut, left: &mut u64) -> Bytes {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    *left -= len as u64;
    buf.split_to(len).freeze()
}

/// A line without its end, if it is there whole.
fn line(buf: &mut BytesMut) -> Result<Option<BytesMut>, Broken> {
    let end = buf
        .iter()
        .take(limits::CHUNK_LINE_BYTES_MAX)
        .position(|&byte| byte == b'\n');
    match end {
        None if buf.len() >= limits::CHUNK_LINE_BYTES_MAX => {
            Err(Broken::Invalid("a chunk's line is too long"))
        }
        None => Ok(None),
        Some(end) => {
            let mut text = buf.split_to(end + 1);
            if !text.ends_with(b"\r\n") {
                return Err(Broken::Invalid("a line ends without CR"));
            }
            text.truncate(end - 1);
            Ok(Some(text))
        }
    }
}

/// The size; an extension is read over, if it is text.
fn chunk_size(text: &[u8]) -> Result<u64, Broken> {
    const WRONG: Broken = Broken::Invalid("not the size of a chunk");
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // 15 digits are more than a petabyte and cannot overflow.
    if digits == 0 || digits > 15 {
        return Err(WRONG);
    }
    let size = text[..digits].iter().fold(0, |size, &digit| {
        size << 4 | u64::from((digit as char).to_digit(16).unwrap_or_default())
    });
    let rest = text[digits..].trim_ascii_start();
    let is_extension = rest.starts_with(b";")
        && rest[1..]
            .iter()
            .all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7F);
    match rest.is_empty() && text.len() == digits || is_extension {
        true => Ok(size),
        false => Err(WRONG),
    }
}

/// The fields after the last chunk, if they are there whole. Fields that would change the head are left out.
fn trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, Broken> {
    let mut fields = [httparse::EMPTY_HEADER; limits::HEADERS_MAX];
    let (end, found) = match httparse::parse_headers(buf, &mut fields) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) if buf.len() < limits::HEAD_BYTES_MAX => return Ok(None),
        _ => return Err(Broken::Invalid("the trailers are malformed")),
    };
    let mut headers = HeaderMap::new();
    for field in found {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Broken::Invalid("the trailers are malformed"));
        };
        if !is_of_head(&name) {
            headers.append(name, value);
        }
    }
    buf.advance(end);
    Ok(Some(headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that comes out when the bytes come in pieces of `size`: body, trailers, whether it ended.
    fn run(mut decoder: Decoder, text: &[u8], size: usize) -> Result<(Vec<u8>, usize, bool), Broken> {
        let (mut buf, mut body, mut fields) = (BytesMut::new(), Vec::new(), 0);
        let mut pieces = text.chunks(size);
        loop {
            match decoder.decode(&mut buf)? {
                Step::Data(data) => body.extend_from_slice(&data),
                Step::Trailers(headers) => fields += headers.len(),
                Step::End => return Ok((body, fields, true)),
                Step::More => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => return Ok((body, fields, decoder.ended().is_ok())),
                },
            }
        }
    }

    #[test]
    fn bodies_come_out_the_same_however_they_arrive() {
        let chunked = b"5\r\nhello\r\n1;name=\"v\"\r\n,\r\n007\r\n world!\r\n0\r\nx-a: 1\r\ncontent-length: 5\r\n\r\nrest";
        for size in [1, 2, 3, 7, 1000] {
            let (body, fields, ended) = run(Decoder::chunked(), chunked, size).unwrap();
            assert_eq!(
                (&body[..], fields, ended),
                (&b"hello, world!"[..], 1, true),
                "{size}"
            );
            let (body, _, ended) = run(Decoder::length(5), b"hello, world", size).unwrap();
            assert_eq!((&body[..], ended), (&b"hello"[..], true), "{size}");
            let (body, _, ended) = run(Decoder::until_end(), b"hello", size).unwrap();
            assert_eq!((&body[..], ended), (&b"hello"[..], true), "{size}");
        }
    }

    #[test]
    fn what_breaks_off_has_not_ended() {
        for text in [
            "",
            "5",
            "5\r\n",
            "5\r\nhell",
            "5\r\nhello\r\n",
            "0\r\n",
            "0\r\nx: y\r\n",
        ] {
            assert!(
                !run(Decoder::chunked(), text.as_bytes(), 1).unwrap().2,
                "{text:?}"
            );
        }
        assert!(!run(Decoder::length(5), b"hell", 1).unwrap().2);
    }

    #[test]
    fn chunks_that_two_readers_could_read_in_two_ways_are_refused() {
        for text in [
            "g\r\n",
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n",
            "1 \r\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n\n",
            "1;\x01\r\na\r\n",
            "1;a\rb\r\n",
            "ffffffffffffffff\r\n",
            "0\r\n x\r\n\r\n",
        ] {
            assert!(
                run(Decoder::chunked(), text.as_bytes(), 1000).is_err(),
                "{text:?}"
            );
        }
        let long = format!("1;{}", "a".repeat(limits::CHUNK_LINE_BYTES_MAX));
        assert!(run(Decoder::chunked(), long.as_bytes(), 100).is_err());
    }

    #[test]
    fn an_end_that_is_there_already_is_seen() {
        for text in ["\r\n0\r\n\r\n", "\r\n0\r\n\r\nmore"] {
            let mut decoder = Decoder(State::ChunkEnd);
            assert!(decoder.ends_with(&mut BytesMut::from(text)));
        }
        for text in ["", "\r\n0\r\n", "\r\n0\r\nx: y\r\n\r\n"] {
            let (mut decoder, mut buf) = (Decoder(State::ChunkEnd), BytesMut::from(text));
            assert!(!decoder.ends_with(&mut buf));
            assert_eq!(&buf[..], text.as_bytes(), "nothing is taken");
        }
    }
}
