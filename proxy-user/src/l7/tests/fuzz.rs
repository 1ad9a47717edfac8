// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mutations of the seeds in `tests/fuzz/seeds/TARGET`, in an order that is always the same, for a bounded time.
//!
//! `cargo xtask fuzz --seconds N TARGET` runs one for longer. What fails is printed as an escaped string; put it among
//! the seeds when it is fixed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::*;
use crate::l7::conn::PREFACE;
use crate::l7::params::{Params, read_service};
use crate::l7::proxy_protocol::{self, Header};
use crate::l7::resolver::Resolver;
use crate::l7::source::Source;
use crate::l7::stream::hello::{self, Hello};
use crate::l7::table::Table;
use crate::l7::tls::Store;
use crate::l7::tls::siblings::without_key;

/// Bytes of one input: more than any seed, and less than a head may have.
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// What parsers stumble over.
const TOKENS: [&[u8]; 20] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b"%00",
    b"\xff",
    b"-1",
    b"99999999999999999999",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Host: b\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// xorshift: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let end = at + self.below((input.len() - at).min(32) + 1);
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = self.below(256) as u8,
                2 => drop(input.drain(at..end)),
                3 => {
                    let copy = input[at..end].to_vec();
                    input.splice(at..at, copy);
                }
                4 => input.truncate(at),
                5 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                _ => drop(input.splice(at..at, TOKENS[self.below(TOKENS.len())].iter().copied())),
            }
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/seeds")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has seeds");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// How often a run says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs every seed, and then mutations for as long as PORTICO_FUZZ_SECONDS says, or a second.
fn fuzz(target: &str, mut check: impl FnMut(&[u8])) {
    let seconds = std::env::var("PORTICO_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let began = Instant::now();
    let deadline = began + Duration::from_secs(seconds.unwrap_or(1));
    let mut told = began;
    let seeds = seeds(target);
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let mut queue = seeds.clone();
    let mut inputs = 0u64;
    while Instant::now() < deadline || !queue.is_empty() {
        let input = queue.pop().unwrap_or_else(|| numbers.mutate(&seeds));
        inputs += 1;
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            println!("{target}: {inputs} inputs in {} s", began.elapsed().as_secs());
        }
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            panic!("{target}, input {inputs}: b\"{}\"", input.escape_ascii());
        }
    }
    println!("{target}: {inputs} inputs");
}

/// A name server that answers twice: with what stands in the shared bytes, as an answer to the question, and then
/// rightly, so that what is not taken costs no timeout.
fn doubtful_name_server() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    const HEADER: usize = 12;
    let socket = std::net::UdpSocket::bind((LOCAL, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let said: Arc<Mutex<Vec<u8>>> = Arc::default();
    let shared = said.clone();
    std::thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buf) {
            let query = &buf[..length];
            let right = upstreams::dns::answer(query, &BTreeMap::new());
            let input = shared.lock().unwrap().clone();
            let (head, records) = input.split_at(input.len().min(HEADER - 2));
            let _ = socket.send_to(&[&query[..2], head, &right[HEADER..], records].concat(), from);
            let _ = socket.send_to(&right, from);
        }
    });
    (address, said)
}

#[test]
fn dns() {
    let (address, said) = doubtful_name_server();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let resolver = runtime.block_on(async { Resolver::new(&[address]) });
    let mut names = 0;
    fuzz("dns", |input| {
        input.clone_into(&mut said.lock().unwrap());
        names += 1;
        let began = Instant::now();
        // Whatever it says, there is an end, and no more than it can have said.
        let found = runtime.block_on(resolver.lookup(&format!("n{names}.test.")));
        assert!(found.len() <= input.len() / 4, "{found:?}");
        assert!(began.elapsed() < 2 * crate::l7::limits::DNS_TIME_MAX);
    });
    // A right answer is found among them.
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/dns/one"))
        .unwrap()
        .clone_into(&mut said.lock().unwrap());
    let found = runtime.block_on(resolver.lookup("last.test."));
    assert_eq!(found, [LOCAL]);
}

#[test]
fn proxy_header() {
    fuzz("proxy_header", |input| {
        let whole = proxy_protocol::read(input);
        if let Header::Whole { length, peers } = whole {
            assert!(length <= input.len());
            // What is behind a header does not change it, and no part of it is one.
            assert_eq!(proxy_protocol::read(&input[..length]), whole);
            assert_eq!(proxy_protocol::read(&input[..length - 1]), Header::Partial);
            if let Some(peers) = peers {
                let again = proxy_protocol::write(proxy_protocol::Version::V2, &peers);
                assert!(matches!(
                    proxy_protocol::read(&again),
                    Header::Whole { peers: Some(_), .. }
                ));
            }
        }
        if whole == Header::Invalid {
            let longer = [input, b"\r\n"].concat();
            assert_eq!(proxy_protocol::read(&longer), Header::Invalid);
        }
    });
}

#[test]
fn client_hello() {
    fuzz("hello", |input| {
        let read = hello::read(input);
        // More bytes never change a name, and never make a ClientHello of something else.
        match (&read, hello::read(&[input, b"more"].concat())) {
            (Hello::Name(one), Hello::Name(two)) => assert_eq!(*one, two),
            (Hello::Other, longer) => assert_eq!(longer, Hello::Other),
            _ => {}
        }
        if let Hello::Name(name) = read {
            assert!(
                name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'),
                "{name:?}"
            );
        }
    });
}

#[test]
fn query() {
    let mut table = Table::new(Arc::default(), settings(Path::new("/nonexistent")));
    fuzz("query", |input| {
        let text = String::from_utf8_lossy(input);
        let params = Params::parse(text.trim_end());
        let (spec, problems) = read_service(&params, table.defaults());
        let name = spec.service_name.clone();
        let before = table.snapshot().services.iter().count();
        match problems.into_iter().next() {
            None if table.put(Source::Call, params, spec).is_ok() => drop(table.remove(&name)),
            _ => assert_eq!(table.snapshot().services.iter().count(), before),
        }
    });
}

#[test]
fn labels() {
    let defaults = settings(Path::new("/nonexistent")).defaults;
    fuzz("labels", |input| {
        let Ok(serde_json::Value::Array(services)) = serde_json::from_slice(input) else {
            return;
        };
        for (name, params) in crate::l7::labels::read::translate(services.iter()) {
            let (spec, _) = read_service(&params, &defaults);
            assert_eq!(spec.service_name, name);
        }
    });
}

/// An origin that notes what no service should ever see.
fn suspicious_origin() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let found = Arc::new(Mutex::new(Vec::new()));
    let notes = found.clone();
    let address = origin(move |_, mut wire| {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if !matches!(wire.stream.read_until(b'\n', &mut head), Ok(length) if length > 0) {
                    return;
                }
            }
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let lines: Vec<&str> = text.trim_end().split("\r\n").collect();
            let count = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
            let (hosts, lengths, codings) = (
                count("host:"),
                count("content-length:"),
                count("transfer-encoding:"),
            );
            let is_request = lines[0].ends_with(" http/1.1") && lines[0].split(' ').count() == 3;
            let is_field = |line: &&str| {
                line.split_once(':')
                    .is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '))
            };
            let is_plain = !head.contains(&0) && lines.iter().all(|line| !line.contains(['\r', '\n']));
            if hosts != 1
                || lengths + codings > 1
                || !is_request
                || !is_plain
                || !lines[1..].iter().all(is_field)
            {
                notes.lock().unwrap().push(head.escape_ascii().to_string());
                return;
            }
            // A body that breaks off ends the connection here.
            if lengths == 1 {
                let length = field(&text, "content-length")
                    .unwrap()
                    .parse()
                    .unwrap_or(usize::MAX)
                    .min(1 << 20);
                let mut body = vec![0; length];
                if wire.stream.read_exact(&mut body).is_err() {
                    return;
                }
            } else if codings == 1 {
                loop {
                    let mut line = String::new();
                    let Ok(_) = wire.stream.read_line(&mut line) else {
                        return;
                    };
                    let Some(size) = line
                        .strip_suffix("\r\n")
                        .and_then(|hex| usize::from_str_radix(hex, 16).ok())
                    else {
                        if !line.is_empty() {
                            notes.lock().unwrap().push(format!("chunk {line:?}"));
                        }
                        return;
                    };
                    let mut chunk = vec![0; size + if size == 0 { 0 } else { 2 }];
                    if wire.stream.read_exact(&mut chunk).is_err() {
                        return;
                    }
                    if size == 0 {
                        // Trailers; whoever sent them may be gone.
                        let mut line = String::new();
                        while line.trim_end() != "" || line.is_empty() {
                            line.clear();
                            if !matches!(wire.stream.read_line(&mut line), Ok(length) if length > 0) {
                                return;
                            }
                        }
                        break;
                    }
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if wire.stream.get_mut().write_all(answer).is_err() {
                return;
            }
        }
    });
    (address, found)
}

#[test]
fn request_head() {
    let site = Site::with(|settings| settings.timeouts.http_request = Duration::from_secs(1));
    let (origin, found) = suspicious_origin();
    site.route_all(origin);
    fuzz("head", |input| {
        let mut wire = site.connect();
        let _ = wire.stream.get_mut().write_all(input);
        let _ = wire.stream.get_ref().shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // A reset is an answer too; silence for longer than the deadline is not.
        let outcome = wire.stream.read_to_end(&mut answer);
        assert!(
            !outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "no end"
        );
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1."),
            "{}",
            answer.escape_ascii()
        );
        assert_eq!(*found.lock().unwrap(), [""; 0]);
    });
    assert_eq!(site.get("/").status, 200);
}

#[test]
fn certificates() {
    let folder = tempfile::tempdir().unwrap();
    let settings = TlsSettings {
        dir: folder.path().to_owned(),
        secrets: folder.path().join("secrets"),
        ..TlsSettings::default()
    };
    let store = Store::open(settings);
    fuzz("pem", |input| {
        if store.check("a", input).is_ok() {
            // What is taken can be shown, without its key.
            let public = without_key(input);
            assert!(!public.contains("PRIVATE"), "a key is shown");
            assert!(
                store.check("a", public.as_bytes()).is_err(),
                "there is no key left"
            );
        }
    });
}

#[test]
fn frames() {
    let second = Duration::from_secs(1);
    let site = Site::with(|settings| {
        settings.timeouts.http_request = second;
        settings.timeouts.http_keep_alive = second;
        settings.timeouts.client = second;
    });
    let (origin, found) = suspicious_origin();
    site.route_all(origin);
    fuzz("h2", |input| {
        let mut wire = site.connect();
        let begin = [PREFACE, b"\0\0\0\x04\0\0\0\0\0", input].concat();
        let _ = wire.stream.get_mut().write_all(&begin);
        let _ = wire.stream.get_ref().shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let outcome = wire.stream.read_to_end(&mut answer);
        let is_late = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!outcome.is_err_and(is_late), "no end");
        let mut rest = answer.as_slice();
        // The last one may be cut by a reset.
        while let Some((head, more)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            assert!(length <= 16_384 && head[3] <= 9, "{}", answer.escape_ascii());
            rest = more.get(length..).unwrap_or_default();
        }
        assert_eq!(*found.lock().unwrap(), [""; 0]);
    });
    assert_eq!(site.get("/").status, 200);
}
