// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP/2 towards clients, frame by frame: what RFC 9113 forbids is refused as it says and counted, and what it lets
//! anybody send without end has an end.

use super::*;

mod early;
mod exchanges;
mod floods;
mod frames;
mod grpc;
mod hpack;
mod readers;
mod rules;
mod trailers;

use frames::Outcome;

/// An origin that answers every request whatever comes, and does not mind bodies that break off.
fn patient_origin() -> SocketAddr {
    origin(|_, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            let length = field(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            if wire.stream.read_exact(&mut body).is_err() {
                return;
            }
            if field(&head, "transfer-encoding").is_some() {
                loop {
                    let mut line = String::new();
                    let size = match wire.stream.read_line(&mut line) {
                        Ok(_) => usize::from_str_radix(line.trim_end(), 16),
                        Err(_) => return,
                    };
                    match size {
                        Ok(0) => break drop(wire.head()),
                        Ok(size) if wire.stream.read_exact(&mut vec![0; size + 2]).is_ok() => {}
                        _ => return,
                    }
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if wire.stream.get_mut().write_all(answer).is_err() {
                return;
            }
        }
    })
}
