// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client: asks the same question again and again, says how each request ended, and tries none twice.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde::Serialize;

/// How long a request may take, from the connection to the last byte.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is some hundred bytes; one that is longer is not ours.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// What go-demo answers.
const GREETING: &[u8] = b"hello, world!\n";
const REQUEST: &str = "GET /demo/hello HTTP/1.1\r\nHost: go-demo\r\n";

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Nobody accepted the connection.
    Refused,
    /// The connection ended before the answer did.
    Reset,
    /// No whole answer in [`PATIENCE`].
    Timeout,
    /// No way to the address.
    Unreachable,
    /// A status of 500 and above.
    Status5xx,
    /// An answer that is not go-demo's.
    WrongAnswer,
}

impl Failure {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Refused => "refused",
            Failure::Reset => "reset",
            Failure::Timeout => "timeout",
            Failure::Unreachable => "unreachable",
            Failure::Status5xx => "5xx",
            Failure::WrongAnswer => "wrong body",
        }
    }

    fn of(error: &io::Error) -> Failure {
        match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                Failure::Unreachable
            }
            _ => Failure::Reset,
        }
    }
}

/// A client of one address.
pub struct Client {
    target: SocketAddr,
    /// Whether its connection is used again.
    keep: bool,
    connection: Option<TcpStream>,
}

impl Client {
    /// Connects with its first request.
    pub fn new(target: SocketAddr, keep: bool) -> Client {
        Client {
            target,
            keep,
            connection: None,
        }
    }

    /// One request.
    pub fn ask(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        // A server may end an idle connection: whoever looks before it asks has lost nothing.
        let kept = self.connection.take().filter(is_open);
        let connected = kept.map_or_else(|| TcpStream::connect_timeout(&self.target, PATIENCE), Ok);
        let mut connection = connected.map_err(|error| Failure::of(&error))?;
        let answer = exchange(&mut connection, self.keep, end).map_err(|error| Failure::of(&error))?;
        let (good, again) = read(&answer)?;
        if !good {
            return Err(Failure::WrongAnswer);
        }
        self.connection = (self.keep && again).then_some(connection);
        Ok(())
    }
}

/// Whether the other side has neither ended it nor said something that nobody asked for.
fn is_open(connection: &TcpStream) -> bool {
    let silent = connection.set_nonblocking(true).is_ok()
        && matches!(connection.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    silent && connection.set_nonblocking(false).is_ok()
}

fn exchange(connection: &mut TcpStream, keep: bool, end: Instant) -> io::Result<Vec<u8>> {
    connection.set_nodelay(true)?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let close = if keep { "" } else { "Connection: close\r\n" };
    connection.write_all(format!("{REQUEST}{close}\r\n").as_bytes())?;
    let (mut answer, mut part) = (Vec::new(), [0; 2048]);
    while whole(&answer).is_none() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > ANSWER_BYTES_MAX {
            return Err(ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(left))?;
        match connection.read(&mut part) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Head and body, once all of it is there. go-demo and the proxy say how long a body is.
fn whole(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let length: usize = header(head, "content-length")?.parse().ok()?;
    let body = answer.get(end + 4..end + 4 + length)?;
    Some((head, body))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

/// Whether the answer is the right one, and whether the connection may be used again.
fn read(answer: &[u8]) -> Result<(bool, bool), Failure> {
    let Some((head, body)) = whole(answer) else {
        return Err(Failure::WrongAnswer);
    };
    let status: Option<u16> = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    if status.is_some_and(|status| status >= 500) {
        return Err(Failure::Status5xx);
    }
    let again = !header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((status == Some(200) && body == GREETING, again))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nhello, world!\n";

    /// A server that gives each connection one of these answers, and then ends it.
    fn server(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn every_way_to_fail_has_its_name() {
        let answers = vec![
            GOOD,
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbye",
            "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nhello",
            "",
        ];
        let mut client = Client::new(server(answers), false);
        assert_eq!(client.ask(), Ok(()));
        assert_eq!(client.ask(), Err(Failure::Status5xx));
        assert_eq!(client.ask(), Err(Failure::WrongAnswer));
        assert_eq!(client.ask(), Err(Failure::Reset));
        assert_eq!(client.ask(), Err(Failure::Reset));
        // The listener is gone with its last answer, at once or after a moment.
        let refused = (0..100).any(|_| client.ask() == Err(Failure::Refused));
        assert!(refused, "nobody listens any more");
    }

    #[test]
    fn a_connection_that_was_ended_while_idle_is_no_failure() {
        let mut client = Client::new(server(vec![GOOD, GOOD]), true);
        assert_eq!(client.ask(), Ok(()));
        let ended = (0..1_000_000).any(|_| !client.connection.as_ref().is_some_and(is_open));
        assert!(ended, "the server ends each connection after its answer");
        assert_eq!(client.ask(), Ok(()));
    }

    #[test]
    fn a_server_that_wants_to_end_the_connection_is_heard() {
        let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 14\r\n\r\nhello, world!\n";
        assert_eq!(read(close.as_bytes()), Ok((true, false)));
        assert_eq!(read(GOOD.as_bytes()), Ok((true, true)));
    }
}
