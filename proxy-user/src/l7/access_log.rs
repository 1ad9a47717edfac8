// SPDX-License-Identifier: MIT OR Apache-2.0
//! The access log: one line for each request, collected while it runs and written by another thread.
//!
//! A worker formats its lines into a buffer of its own and hands it over when it is full or some milliseconds old.
//! The queue between has a length: when standard output does not keep up, lines are dropped and counted, and no
//! request waits.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, StatusCode, Version};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::Side;
use super::limits;
use super::refusal::Refusal;
use super::worker::Worker;

mod date;
pub mod format;
mod stream;

pub use format::Format;
pub use stream::StreamLine;

/// What is logged, and how.
#[derive(Debug)]
pub struct AccessLog {
    /// The shape of a line.
    pub format: Format,
    /// Of a connection that was passed on whole; none is not logged.
    pub stream_format: Option<Format>,
    /// DEBUG_ERRORS_ONLY: only what went wrong.
    pub errors_only: bool,
    /// CAPTURE_REQUEST_HEADER: fields and how much of them.
    pub captures: Vec<(HeaderName, usize)>,
}

/// One line, collected while the request runs.
pub struct Record {
    worker: Rc<Worker>,
    /// Who asked.
    pub client: SocketAddr,
    /// The port that the client connected to.
    port: u16,
    began: Instant,
    at: SystemTime,
    method: String,
    target: String,
    version: Version,
    host: String,
    user_agent: String,
    referer: String,
    traceparent: String,
    request_id: String,
    captured: Vec<String>,
    /// Name of the backend and its server, once there is one.
    pub backend: Option<(String, String)>,
    /// Why the proxy answered itself.
    pub refusal: Option<Refusal>,
    /// Who ended it before its end.
    pub cut_by: Option<Side>,
    status: u16,
    head_ms: Option<u128>,
    /// Bytes of the response body.
    pub bytes: u64,
}

impl Record {
    /// What is known when a request arrives.
    pub fn new(
        log: &AccessLog,
        worker: &Rc<Worker>,
        client: SocketAddr,
        port: u16,
        request: &Request<Incoming>,
    ) -> Self {
        let headers = request.headers();
        let captures = log.captures.iter();
        Record {
            worker: worker.clone(),
            client,
            port,
            began: Instant::now(),
            at: SystemTime::now(),
            method: request.method().to_string(),
            target: request
                .uri()
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
            version: request.version(),
            host: text(headers, &header::HOST),
            user_agent: text(headers, &header::USER_AGENT),
            referer: text(headers, &header::REFERER),
            traceparent: text(headers, &HeaderName::from_static("traceparent")),
            request_id: String::new(),
            captured: captures
                .map(|(name, length)| text(headers, name).chars().take(*length).collect())
                .collect(),
            backend: None,
            refusal: None,
            cut_by: None,
            status: 0,
            head_ms: None,
            bytes: 0,
        }
    }

    /// The answer's head is there.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.head_ms = Some(self.began.elapsed().as_millis());
    }

    /// The id that the service sees.
    pub fn identified(&mut self, id: &str) {
        id.clone_into(&mut self.request_id);
    }

    /// Whether something went wrong, as HAProxy's `dontlog-normal` understands it.
    fn is_error(&self) -> bool {
        self.status >= 500
            || self.status == 0
            || self.cut_by.is_some()
            || self.refusal.is_some_and(|refusal| {
                !matches!(refusal.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            })
    }

    /// Hands the line over.
    pub fn write(&self) {
        let settings = &self.worker.shared.settings;
        if let (Some(log), Some(sink)) = (&settings.access_log, &self.worker.log)
            && (!log.errors_only || self.is_error())
        {
            sink.push(|out| log.format.line(self, out));
        }
    }
}

/// The first value of a field; what is not text is left out.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    value.unwrap_or_default()
}

/// A worker's end of the log.
pub struct Sink {
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    sender: SyncSender<Vec<u8>>,
    dropped: Box<dyn Fn(u64)>,
    dirty: Notify,
}

impl Sink {
    /// An end that hands its buffers to `sender`, and says how many lines found no room.
    pub fn new(sender: SyncSender<Vec<u8>>, dropped: impl Fn(u64) + 'static) -> Self {
        Sink {
            buffer: RefCell::default(),
            lines: Cell::new(0),
            sender,
            dropped: Box::new(dropped),
            dirty: Notify::new(),
        }
    }

    /// Adds a line.
    pub fn push(&self, line: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = self.buffer.borrow_mut();
        let was_empty = buffer.is_empty();
        line(&mut buffer);
        self.lines.set(self.lines.get() + 1);
        let is_full = buffer.len() >= limits::LOG_BUFFER_BYTES;
        drop(buffer);
        if is_full {
            self.flush();
        } else if was_empty {
            self.dirty.notify_one();
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let buffer = self.buffer.take();
        let lines = self.lines.take();
        if !buffer.is_empty() && self.sender.try_send(buffer).is_err() {
            (self.dropped)(lines);
        }
    }

    /// Hands lines over soon after they were written, for as long as it is polled.
    pub async fn run(&self) {
        loop {
            self.dirty.notified().await;
            tokio::time::sleep(limits::LOG_DELAY).await;
            self.flush();
        }
    }
}

/// Writes to standard output until every worker has ended.
pub fn write(buffers: Receiver<Vec<u8>>) {
    let mut out = std::io::stdout().lock();
    for buffer in buffers {
        // Nobody listens any more: there is no better place to say so.
        if out.write_all(&buffer).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// Reads CAPTURE_REQUEST_HEADER: `Name:length,Name:length`.
pub fn parse_captures(text: &str) -> Result<Vec<(HeaderName, usize)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            let (name, length) = item
                .split_once(':')
                .ok_or_else(|| format!("`{item}` has no length"))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| format!("`{name}` is not a field name"))?;
            let length = length
                .trim()
                .parse::<usize>()
                .map_err(|_| format!("`{item}`: `{length}` is not a length"))?;
            Ok((name, length.min(limits::LOG_CAPTURE_MAX)))
        })
        .collect()
}

/// The settings of a log that is on.
pub type Shared = Option<Arc<AccessLog>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_find_no_room_are_counted_and_nobody_waits() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let dropped = Rc::new(Cell::new(0));
        let counted = dropped.clone();
        let sink = Sink::new(sender, move |lines| counted.set(counted.get() + lines));
        for _ in 0..3 {
            sink.push(|out| out.extend_from_slice(b"a\n"));
            sink.push(|out| out.extend_from_slice(b"b\n"));
            sink.flush();
        }
        assert_eq!(dropped.get(), 4);
        drop(sink);
        assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [b"a\nb\n"]);
    }

    #[test]
    fn captures_are_names_with_lengths() {
        let read = parse_captures("User-Agent:5, X-A:99999").unwrap();
        assert_eq!(read[0], (header::USER_AGENT, 5));
        assert_eq!(read[1].1, limits::LOG_CAPTURE_MAX);
        for wrong in ["User-Agent", "a b:1", "X:y"] {
            assert!(parse_captures(wrong).is_err(), "{wrong}");
        }
    }
}
