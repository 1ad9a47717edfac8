// SPDX-License-Identifier: MIT OR Apache-2.0
//! Heads: requests to bytes, bytes to answers. What a task answers is not trusted: framing that two readers could read
//! in two ways is an error, and so is everything that is not HTTP/1.

use std::mem::MaybeUninit;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode};

use super::Broken;
use super::decode::Decoder;
use crate::l7::headers::has_token;
use crate::l7::limits;

/// How a request body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none and nothing says so.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without the framing of this hop but with Content-Length where it counts.
    pub headers: HeaderMap,
    /// How its body ends.
    pub body: Decoder,
    /// Whether the connection may serve another request.
    pub keeps: bool,
}

/// Writes a request head. `upgrade` is the protocol that the client asks for.
pub fn encode(out: &mut BytesMut, parts: &Parts, framing: Framing, upgrade: Option<&[u8]>) {
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let method = parts.method.as_str();
    out.reserve(method.len() + target.len() + 64);
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if let Some(protocol) = upgrade {
        out.put_slice(b"connection: upgrade\r\n");
        field(out, b"upgrade", protocol);
    } else if parts.headers.contains_key(header::TE) {
        out.put_slice(b"connection: te\r\n");
    }
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.put_slice(b"content-length: ");
            number(out, length);
            out.put_slice(b"\r\n");
        }
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.put_slice(b"\r\n");
}

/// The line in front of a chunk.
pub fn encode_chunk_size(out: &mut BytesMut, size: usize) {
    let mut digits = [0; 16];
    let (mut left, mut at) = (size, digits.len());
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// The last chunk and the trailers.
pub fn encode_last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !is_of_head(name) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

/// Fields that mean something only in a head; after a body they could change what has been decided.
pub fn is_of_head(name: &HeaderName) -> bool {
    [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::HOST,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::SET_COOKIE,
        header::COOKIE,
    ]
    .contains(name)
}

/// Writes a field.
pub fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn number(out: &mut BytesMut, value: u64) {
    let mut digits = [0; 20];
    let (mut left, mut at) = (value, digits.len());
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.put_slice(&digits[at..]);
}

/// Takes a head off the front of `buf`, if it is there whole.
pub fn parse(buf: &mut BytesMut, method: &Method, recycled: &mut HeaderMap) -> Result<Option<Head>, Broken> {
    /// Where a field's name and value begin and end; a head is shorter than 64 KiB.
    type Range = [u16; 4];
    let mut ranges: [Range; limits::HEADERS_MAX] = [[0; 4]; limits::HEADERS_MAX];
    let mut fields = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let end = match parser.parse_response_with_uninit_headers(&mut response, buf, &mut fields) {
        Ok(httparse::Status::Complete(end)) if end <= limits::HEAD_BYTES_MAX => end,
        Ok(httparse::Status::Complete(_)) => return Err(Broken::Invalid("the head is too large")),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::Invalid("too many fields")),
        Err(_) => return Err(Broken::Invalid("the head is malformed")),
    };
    let is_11 = response.version == Some(1);
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Broken::Invalid("no status"))?;
    let base = buf.as_ptr() as usize;
    let count = response.headers.len();
    for (range, field) in ranges.iter_mut().zip(response.headers.iter()) {
        let (name, value) = (
            field.name.as_ptr() as usize - base,
            field.value.as_ptr() as usize - base,
        );
        *range = [name, name + field.name.len(), value, value + field.value.len()].map(|at| at as u16);
    }
    let bytes = buf.split_to(end).freeze();
    let mut headers = std::mem::take(recycled);
    headers.clear();
    // And what a service's rules may add.
    headers.reserve(count + 2);
    for range in &ranges[..count] {
        let [name, name_end, value, value_end] = range.map(usize::from);
        let name = HeaderName::from_bytes(&bytes[name..name_end]);
        let name = name.map_err(|_| Broken::Invalid("not a field name"))?;
        headers.append(name, field_value(&bytes, value, value_end)?);
    }
    finish(status, headers, is_11, method, buf.is_empty()).map(Some)
}

fn field_value(bytes: &Bytes, from: usize, to: usize) -> Result<HeaderValue, Broken> {
    // An empty slice has no place of its own.
    if from == to {
        return Ok(HeaderValue::from_static(""));
    }
    HeaderValue::from_maybe_shared(bytes.slice(from..to)).map_err(|_| Broken::Invalid("not a field value"))
}

/// RFC 9112 §6.3, strictly.
fn finish(
    status: StatusCode,
    mut headers: HeaderMap,
    is_11: bool,
    method: &Method,
    nothing_follows: bool,
) -> Result<Head, Broken> {
    let mut keeps = is_11
        && !(headers.contains_key(header::CONNECTION) && has_token(&headers, header::CONNECTION, "close"));
    let length = content_length(&mut headers)?;
    let is_chunked = transfer_encoding(&headers)?;
    if is_chunked && !is_11 {
        return Err(Broken::Invalid("chunks in HTTP/1.0"));
    }
    if is_chunked {
        headers.remove(header::TRANSFER_ENCODING);
        // The length does not count beside chunks, and the connection is not to be trusted further.
        keeps &= headers.remove(header::CONTENT_LENGTH).is_none();
    }
    let has_no_body = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let body = match (has_no_body, is_chunked, length) {
        (true, ..) => {
            // What follows a head that has no body answers nothing that was asked, unless it is another head.
            keeps &= nothing_follows || status.is_informational();
            Decoder::EMPTY
        }
        (false, true, _) => Decoder::chunked(),
        (false, false, Some(length)) => Decoder::length(length),
        (false, false, None) => {
            keeps = false;
            Decoder::until_end()
        }
    };
    Ok(Head {
        status,
        headers,
        body,
        keeps,
    })
}

/// The length, if all fields agree; they become one.
fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, Broken> {
    let mut found = None;
    let mut count = 0;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        count += 1;
        let digits = value.as_bytes();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let length: Option<u64> = value
            .to_str()
            .ok()
            .filter(|_| is_number)
            .and_then(|text| text.parse().ok());
        match (length, found) {
            (None, _) => return Err(Broken::Invalid("not a length")),
            (Some(length), Some(other)) if length != other => {
                return Err(Broken::Invalid("two lengths"));
            }
            (length, _) => found = length,
        }
    }
    if let Some(length) = found.filter(|_| count > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(found)
}

fn transfer_encoding(headers: &HeaderMap) -> Result<bool, Broken> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Broken::Invalid("an unknown transfer coding")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, method: &Method) -> Result<Option<Head>, Broken> {
        parse(&mut BytesMut::from(text), method, &mut HeaderMap::new())
    }

    fn framing(fields: &str) -> Result<(Decoder, bool), &'static str> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        match read(&text, &Method::GET) {
            Ok(head) => head.map(|head| (head.body, head.keeps)).ok_or("partial"),
            Err(Broken::Invalid(why)) => Err(why),
            Err(_) => Err("another error"),
        }
    }

    #[test]
    fn framing_has_one_reading_or_none() {
        assert_eq!(framing("Content-Length: 5\r\n"), Ok((Decoder::length(5), true)));
        assert_eq!(
            framing("Content-Length: 5\r\nContent-Length: 5\r\n"),
            Ok((Decoder::length(5), true))
        );
        assert_eq!(
            framing("Transfer-Encoding: Chunked\r\n"),
            Ok((Decoder::chunked(), true))
        );
        assert_eq!(
            framing("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
            Ok((Decoder::chunked(), false))
        );
        assert_eq!(framing(""), Ok((Decoder::until_end(), false)));
        assert_eq!(
            framing("Content-Length: 5\r\nConnection: x, Close\r\n"),
            Ok((Decoder::length(5), false))
        );
        for bad in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "X: a\r\n b\r\n",
            "X : a\r\n",
            "X: a\rb\r\n",
            "X: a\0\r\n",
            "no colon\r\n",
        ] {
            assert!(framing(bad).is_err(), "{bad:?}: {:?}", framing(bad));
        }
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_they_say() {
        for (status, method) in [
            ("204 No Content", Method::GET),
            ("304 Not Modified", Method::GET),
            ("200 OK", Method::HEAD),
        ] {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            let head = read(&text, &method).unwrap().unwrap();
            assert_eq!((head.body, head.keeps), (Decoder::EMPTY, true), "{status}");
            let followed = format!("{text}HTTP/1.1 200 OK\r\n\r\n");
            assert!(!read(&followed, &method).unwrap().unwrap().keeps, "{status}");
        }
    }

    #[test]
    fn what_is_not_http_1_is_refused_and_half_a_head_is_waited_for() {
        for bad in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(read(bad, &Method::GET).is_err(), "{bad:?}");
        }
        assert!(
            read("HTTP/1.1 200 OK\r\nX: a\r\n", &Method::GET)
                .unwrap()
                .is_none()
        );
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "a: b\r\n".repeat(limits::HEADERS_MAX + 1)
        );
        assert!(read(&many, &Method::GET).is_err());
    }

    #[test]
    fn a_request_head_is_written_with_the_proxys_own_framing() {
        let request = hyper::Request::builder()
            .method(Method::POST)
            .uri("/a?b=c")
            .header("host", "acme.com")
            .header("content-length", "7")
            .header("te", "trailers");
        let parts = request.body(()).unwrap().into_parts().0;
        let mut out = BytesMut::new();
        encode(&mut out, &parts, Framing::Length(1234567890), None);
        assert_eq!(
            &out[..],
            b"POST /a?b=c HTTP/1.1\r\nhost: acme.com\r\nte: trailers\r\nconnection: te\r\ncontent-length: 1234567890\r\n\r\n"
        );
        out.clear();
        encode(&mut out, &parts, Framing::Chunked, Some(b"websocket"));
        assert!(
            out.ends_with(b"connection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n\r\n")
        );
        for (size, text) in [(0, "0\r\n"), (1, "1\r\n"), (255, "ff\r\n"), (65_536, "10000\r\n")] {
            out.clear();
            encode_chunk_size(&mut out, size);
            assert_eq!(&out[..], text.as_bytes());
        }
    }
}
