// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the proxy needs to know of a certificate: names, dates, key, and who issued it.
//!
//! A reader of DER for these fields alone. It borrows, does not recurse, and takes nothing on trust: whatever does not
//! have the expected shape is no certificate.

/// Fields of a certificate, borrowed from its DER.
#[derive(Debug)]
pub struct X509<'a> {
    /// Distinguished name of the issuer, as DER.
    pub issuer: &'a [u8],
    /// Distinguished name of the holder, as DER.
    pub subject: &'a [u8],
    /// SubjectPublicKeyInfo, as DER.
    pub public_key: &'a [u8],
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// DNS names in lower case: common names, then alternative names.
    pub names: Vec<String>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Reads a certificate; none when it is not one.
pub fn read(der: &[u8]) -> Option<X509<'_>> {
    let mut certificate = Der(Der(der).expect(SEQUENCE)?.content);
    let mut body = Der(certificate.expect(SEQUENCE)?.content);
    body.optional(VERSION)?;
    body.next()?; // serial number
    body.expect(SEQUENCE)?; // algorithm of the signature
    let issuer = body.expect(SEQUENCE)?.whole;
    let mut validity = Der(body.expect(SEQUENCE)?.content);
    let not_before = time(validity.next()?)?;
    let not_after = time(validity.next()?)?;
    let subject = body.expect(SEQUENCE)?;
    let public_key = body.expect(SEQUENCE)?.whole;
    let mut names = common_names(subject.content)?;
    while !body.0.is_empty() {
        let field = body.next()?;
        if field.tag == EXTENSIONS {
            alternative_names(field.content, &mut names)?;
        }
    }
    Some(X509 {
        issuer,
        subject: subject.whole,
        public_key,
        not_before,
        not_after,
        names,
    })
}

/// Whether it is a certificate and nothing else.
pub fn is_whole(der: &[u8]) -> bool {
    let outer = Der(der).expect(SEQUENCE);
    outer.is_some_and(|outer| outer.whole.len() == der.len()) && read(der).is_some()
}

fn common_names(subject: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut parts = Der(subject);
    while !parts.0.is_empty() {
        let mut set = Der(parts.expect(SET)?.content);
        while !set.0.is_empty() {
            let mut pair = Der(set.expect(SEQUENCE)?.content);
            let is_name = pair.expect(OID)?.content == COMMON_NAME;
            let value = pair.next()?;
            if is_name {
                push(&mut names, value.content);
            }
        }
    }
    Some(names)
}

fn alternative_names(extensions: &[u8], names: &mut Vec<String>) -> Option<()> {
    let mut list = Der(Der(extensions).expect(SEQUENCE)?.content);
    while !list.0.is_empty() {
        let mut extension = Der(list.expect(SEQUENCE)?.content);
        if extension.expect(OID)?.content != ALTERNATIVE_NAME {
            continue;
        }
        let mut value = extension.next()?;
        // `critical` may stand before the value.
        if value.tag != OCTETS {
            value = extension.next()?;
        }
        let mut general = Der(Der(value.content).expect(SEQUENCE)?.content);
        while !general.0.is_empty() {
            let name = general.next()?;
            if name.tag == DNS_NAME {
                push(names, name.content);
            }
        }
    }
    Some(())
}

/// Common names may be any text; what is no host name cannot be asked for and does no harm.
fn push(names: &mut Vec<String>, text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        let name = text.to_ascii_lowercase();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(value: Value<'_>) -> Option<i64> {
    let text = std::str::from_utf8(value.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match (value.tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            // RFC 5280 §4.1.2.5.1
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let number = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (number(0)?, number(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 of a date in the Gregorian calendar, counted in years that begin in March.
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + number(4)? * 3600 + number(6)? * 60 + number(8)?)
}

struct Der<'a>(&'a [u8]);

#[derive(Clone, Copy)]
struct Value<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<Value<'a>> {
        let input = self.0;
        let (&tag, &first) = (input.first()?, input.get(1)?);
        let (length, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            // Long form; four bytes of length are more than any certificate has.
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let bytes = input.get(2..2 + count)?;
                let length = bytes
                    .iter()
                    .fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
                (length, 2 + count)
            }
            _ => return None,
        };
        let whole = input.get(..header.checked_add(length)?)?;
        self.0 = &input[whole.len()..];
        Some(Value {
            tag,
            content: &whole[header..],
            whole,
        })
    }

    fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
    }

    /// Steps over a value if it has this tag.
    fn optional(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) {
            self.next()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["A.acme.com".into(), "*.b.org".into()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "cn.acme.com");
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 3, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_dates_are_read() {
        let der = certificate();
        let read = read(&der).unwrap();
        assert!(read.names.contains(&"cn.acme.com".into()), "{:?}", read.names);
        assert!(read.names.ends_with(&["a.acme.com".into(), "*.b.org".into()]));
        assert_eq!(read.issuer, read.subject);
        // date -u -d 2024-02-29 +%s; the second is written as GeneralizedTime.
        assert_eq!((read.not_before, read.not_after), (1_709_164_800, 2_561_241_600));
    }

    #[test]
    fn no_input_makes_it_panic() {
        let der = certificate();
        for end in 0..der.len() {
            assert!(read(&der[..end]).is_none(), "{end}");
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut broken = der.clone();
                broken[at] ^= 1 << bit;
                let _ = read(&broken);
            }
        }
        for length in [
            &[0x30, 0x80][..],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(read(length).is_none());
        }
    }
}
