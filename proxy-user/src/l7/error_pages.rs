// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages for what the proxy answers itself: the original's `/errorfiles/503.http` and its like, or small ones of our own.
//!
//! A file is a whole answer as HAProxy wants it: status line, fields, blank line, body. It is sent with its own status
//! and fields, but with our framing. Files are read at the start.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::headers::strip_hop_by_hop;
use super::limits;
use super::refusal::Refusal;

/// The pages of a folder by the status that they are for.
#[derive(Clone, Debug, Default)]
pub struct ErrorPages(BTreeMap<u16, Page>);

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Usually the one that the file is named after.
    pub status: StatusCode,
    /// Without framing.
    pub headers: HeaderMap,
    /// As it stands.
    pub body: Bytes,
}

impl ErrorPages {
    /// Reads `<status>.http` for every status that the proxy answers with. A file that cannot be used is named in the
    /// log and replaced by the built-in page.
    pub fn read(dir: &Path) -> Self {
        let mut pages = BTreeMap::new();
        for status in Refusal::ALL.iter().map(|refusal| refusal.status().as_u16()) {
            let path = dir.join(format!("{status}.http"));
            if pages.contains_key(&status) || !path.exists() {
                continue;
            }
            let page = match std::fs::read(&path) {
                Ok(text) => parse(&text),
                Err(error) => Err(error.to_string()),
            };
            match page {
                Ok(page) => {
                    pages.insert(status, page);
                }
                Err(error) => tracing::error!(file = %path.display(), error, "error page cannot be used"),
            }
        }
        ErrorPages(pages)
    }

    /// The answer for a refusal.
    pub fn page(&self, refusal: Refusal) -> Page {
        if let Some(page) = self.0.get(&refusal.status().as_u16()) {
            return page.clone();
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Page {
            status: refusal.status(),
            headers,
            body: refusal.page().into(),
        }
    }
}

fn parse(text: &[u8]) -> Result<Page, String> {
    if text.len() > limits::ERROR_PAGE_BYTES_MAX {
        return Err(format!("is longer than {} bytes", limits::ERROR_PAGE_BYTES_MAX));
    }
    let mut lines = Lines(text);
    let first = lines.next().ok_or("is empty")?;
    let mut words = first.split_whitespace();
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/"));
    let status = words.next().and_then(|code| code.parse::<StatusCode>().ok());
    let status = status
        .filter(|status| is_http && status.as_u16() >= 200)
        .ok_or_else(|| format!("`{first}` is not a status line"))?;
    let mut headers = HeaderMap::new();
    for line in lines.by_ref() {
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("`{line}` is not a field"))?;
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a field name"))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("`{name}` has a value that no field can have"))?;
        headers.append(name, value);
    }
    strip_hop_by_hop(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    Ok(Page {
        status,
        headers,
        body: Bytes::copy_from_slice(lines.0),
    })
}

/// Lines that end with LF or CR LF, up to the first that is not text; the rest stays.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|&byte| byte == b'\n')?;
        let line = std::str::from_utf8(&self.0[..end]).ok()?;
        self.0 = &self.0[end + 1..];
        Some(line.strip_suffix('\r').unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_whole_answer_with_our_framing() {
        let text = "HTTP/1.0 503 Service Unavailable\r\nCache-Control: no-cache\r\nConnection: close\r\n\
                    Content-Length: 3\r\nX-A: b: c\r\n\r\n<html>\r\n\r\nä";
        let page = parse(text.as_bytes()).unwrap();
        assert_eq!(page.status, 503);
        assert_eq!(page.headers.len(), 2);
        assert_eq!(page.headers["x-a"], "b: c");
        assert_eq!(page.body, "<html>\r\n\r\nä");
        assert_eq!(parse(b"HTTP/1.1 200 OK\nA: b\n\nx\n").unwrap().body, "x\n");
        assert_eq!(parse(b"HTTP/1.1 200 OK\n\n").unwrap().body, "");
        for wrong in [
            "",
            "<html>\n",
            "HTTP/1.1 nonsense\n",
            "HTTP/1.1 503 x\nbroken\n\n",
            "HTTP/1.1 100 x\n\n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse(&vec![b'x'; limits::ERROR_PAGE_BYTES_MAX + 1]).is_err());
    }
}
