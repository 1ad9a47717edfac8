// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trailers of services: what is malformed costs its own request, and nobody takes it for a whole answer.

use super::frames::*;
use super::*;
use crate::l7::conn::PREFACE;

const CANCEL: u32 = 8;

/// A service that answers the n-th request with the n-th trailers; how many connections it got, and which streams were
/// reset.
fn service(trailers: Vec<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let address = origin(move |_, wire| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut stream = wire.stream.into_inner();
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).unwrap();
        let mut connection = Connection { stream };
        connection.send(&frame(SETTINGS, 0, 0, &[]));
        let mut answers = trailers.iter();
        while let Some(frame) = connection.next() {
            if frame.kind == HEADERS {
                let trailers = answers.next().unwrap();
                let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
                let early = block(&[(":status", "103")]);
                connection.send(
                    &[
                        self::frame(HEADERS, END_HEADERS, frame.stream, &early),
                        self::frame(HEADERS, END_HEADERS, frame.stream, &head),
                        self::frame(DATA, 0, frame.stream, b"body"),
                        self::frame(HEADERS, WHOLE, frame.stream, trailers),
                    ]
                    .concat(),
                );
            }
        }
    });
    (address, connections)
}

#[test]
fn a_pseudo_field_in_them_is_an_error_of_the_answer() {
    let good = block(&[("grpc-status", "0")]);
    let bad = [block(&[(":status", "200")]), good.clone()].concat();
    let (service, connections) = service(vec![good.clone(), bad, vec![0x88], good]);
    let site = Site::with(|settings| settings.workers = 1);
    let query = format!(
        "serviceName=s&servicePath=/&outboundHostname=127.0.0.1&port={}&upstreamProtocol=h2c",
        service.port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    let mut connection = Connection::open(&site);
    for (stream, is_good) in [(1, true), (3, false), (5, false), (7, true)] {
        connection.send(&get(stream));
        assert_eq!(connection.outcome(), Outcome::Status(stream, 200));
        assert_eq!(connection.wait_for(DATA).unwrap().payload, b"body", "{stream}");
        let end = loop {
            let frame = connection.next().unwrap();
            if matches!(frame.kind, HEADERS | RST_STREAM | DATA) {
                break frame;
            }
        };
        assert_eq!((end.kind == HEADERS, end.stream), (is_good, stream));
        if !is_good {
            assert_eq!(end.kind, RST_STREAM);
            assert_ne!(end.payload, CANCEL.to_be_bytes(), "nobody asked for it");
        }
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1, "others go on beside it");
}
