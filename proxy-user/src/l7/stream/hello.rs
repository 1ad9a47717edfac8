// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), read from whatever has arrived so far.

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More is needed to know.
    Partial,
    /// A ClientHello with this name, in lower case.
    Name(String),
    /// A ClientHello without a name.
    Nameless,
    /// Not a ClientHello.
    Other,
}

/// Why reading stopped.
enum Stop {
    /// The bytes end before the structure does.
    Short,
    /// The structure is not one.
    Wrong,
}

const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: usize = 0;
const NAME_HOST: u8 = 0;
/// Longest plaintext of a record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Longest name of a host.
const NAME_BYTES_MAX: usize = 255;

/// Reads the beginning of a connection.
pub fn read(bytes: &[u8]) -> Hello {
    match hello(bytes) {
        Ok(Some(name)) => Hello::Name(name),
        Ok(None) => Hello::Nameless,
        Err(Stop::Short) => Hello::Partial,
        Err(Stop::Wrong) => Hello::Other,
    }
}

fn hello(bytes: &[u8]) -> Result<Option<String>, Stop> {
    let (message, is_cut) = handshake(bytes)?;
    let mut message = Reader(&message);
    match client_hello(&mut message) {
        // Where the extensions begin, what has arrived may end.
        Ok(None) if is_cut => Err(Stop::Short),
        // The records say where they end; inside a whole message nothing may be missing.
        Err(Stop::Short) if !is_cut => Err(Stop::Wrong),
        other => other,
    }
}

/// The first handshake message, put together from its records, and whether it is cut off.
fn handshake(bytes: &[u8]) -> Result<(Vec<u8>, bool), Stop> {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    loop {
        if records.0.is_empty() && !message.is_empty() {
            return Ok((message, true));
        }
        if records.u8()? != RECORD_HANDSHAKE || records.u8()? != 3 {
            return Err(Stop::Wrong);
        }
        records.u8()?;
        let length = records.u16()?;
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(Stop::Wrong);
        }
        let present = length.min(records.0.len());
        message.extend_from_slice(records.take(present)?);
        if message
            .first()
            .is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO)
        {
            return Err(Stop::Wrong);
        }
        if let [_, a, b, c, ..] = message[..] {
            let whole = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            if message.len() >= whole {
                message.truncate(whole);
                return Ok((message, false));
            }
        }
        if present < length {
            return Ok((message, true));
        }
    }
}

fn client_hello(message: &mut Reader<'_>) -> Result<Option<String>, Stop> {
    // Type and length of the message, version, random.
    message.take(4 + 2 + 32)?;
    let session = message.u8()?;
    message.take(session.into())?;
    let suites = message.u16()?;
    message.take(suites)?;
    let compressions = message.u8()?;
    message.take(compressions.into())?;
    if message.0.is_empty() {
        // Before TLS 1.2 there may be no extensions.
        return Ok(None);
    }
    let length = message.u16()?;
    let mut extensions = Reader(message.take(length)?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let mut content = Reader(extensions.take(length).map_err(|_| Stop::Wrong)?);
        if kind == EXTENSION_SERVER_NAME {
            return server_name(&mut content).map_err(|_| Stop::Wrong);
        }
    }
    Ok(None)
}

fn server_name(content: &mut Reader<'_>) -> Result<Option<String>, Stop> {
    let length = content.u16()?;
    let mut names = Reader(content.take(length)?);
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let length = names.u16()?;
        let name = names.take(length)?;
        if kind != NAME_HOST {
            continue;
        }
        let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(is_host) {
            return Err(Stop::Wrong);
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        return Ok(Some(name.trim_end_matches('.').to_owned()));
    }
    Ok(None)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Stop::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<usize, Stop> {
        let bytes = self.take(2)?;
        Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    }
}

#[cfg(test)]
pub(in crate::l7) mod tests {
    use super::*;

    /// A ClientHello with a name or without, in records of at most `record` bytes.
    pub(in crate::l7) fn client_hello(name: Option<&str>, record: usize) -> Vec<u8> {
        fn prefixed(width: usize, content: &[u8]) -> Vec<u8> {
            let length = (content.len() as u32).to_be_bytes();
            [&length[4 - width..], content].concat()
        }
        let mut extensions = [&[0, 43][..], &prefixed(2, &[2, 3, 4])].concat();
        if let Some(name) = name {
            let entry = [&[0][..], &prefixed(2, name.as_bytes())].concat();
            extensions.extend([&[0, 0][..], &prefixed(2, &prefixed(2, &entry))].concat());
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &prefixed(1, &[9; 32]),
            &prefixed(2, &[0x13, 0x01]),
            &prefixed(1, &[0]),
            &prefixed(2, &extensions),
        ]
        .concat();
        let message = [&[1][..], &prefixed(3, &body)].concat();
        let records = message
            .chunks(record)
            .map(|part| [&[22, 3, 1][..], &prefixed(2, part)].concat());
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        for record in [1, 7, 40, 16_384] {
            let bytes = client_hello(Some("WWW.acme.com"), record);
            for end in 0..bytes.len() {
                assert!(
                    matches!(read(&bytes[..end]), Hello::Partial | Hello::Name(_)),
                    "{record} {end}"
                );
            }
            assert_eq!(read(&bytes), Hello::Name("www.acme.com".into()), "{record}");
            assert_eq!(
                read(&[&bytes[..], b"more"].concat()),
                Hello::Name("www.acme.com".into())
            );
            assert_eq!(read(&client_hello(None, record)), Hello::Nameless);
        }
    }

    #[test]
    fn what_is_no_client_hello_is_known_by_its_first_bytes() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x",
            &[22, 2],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0xff, 0xff],
            &[22, 3, 1, 0, 1, 2],
            &[22, 3, 1, 0, 4, 1, 0, 0, 0],
            &[0x80, 0x2e],
        ] {
            assert_eq!(read(bytes), Hello::Other, "{bytes:?}");
        }
        for name in ["", "a b", "a\0b", "a/b"] {
            assert_eq!(read(&client_hello(Some(name), 16_384)), Hello::Other, "{name:?}");
        }
        assert_eq!(read(&[]), Hello::Partial);
    }
}
