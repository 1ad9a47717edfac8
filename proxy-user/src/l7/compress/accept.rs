// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accept-Encoding (RFC 9110 §12.5.3).

use hyper::header::{ACCEPT_ENCODING, HeaderMap};

/// Thousandths, as fine as a weight can be.
const WHOLE: u16 = 1000;

/// The weight that a client gives to a coding: its own, else that of `*`, else none.
pub(super) fn quality(headers: &HeaderMap, coding: &str) -> Option<u16> {
    own_quality(headers, coding).or_else(|| own_quality(headers, "*"))
}

/// The weight of a coding that is named.
pub(super) fn own_quality(headers: &HeaderMap, coding: &str) -> Option<u16> {
    for value in headers.get_all(ACCEPT_ENCODING) {
        for item in value.as_bytes().split(|&byte| byte == b',') {
            let mut parts = item.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let is_alias = coding == "gzip" && name.eq_ignore_ascii_case(b"x-gzip");
            if name.eq_ignore_ascii_case(coding.as_bytes()) || is_alias {
                return Some(weight(parts));
            }
        }
    }
    None
}

/// The weight among the parameters; one that cannot be read is a refusal, which is safe.
fn weight<'a>(parameters: impl Iterator<Item = &'a [u8]>) -> u16 {
    for parameter in parameters {
        if let Some((b"q" | b"Q", value)) = split_once(parameter) {
            return thousandths(value).unwrap_or(0);
        }
    }
    WHOLE
}

fn split_once(parameter: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = parameter.iter().position(|&byte| byte == b'=')?;
    Some((parameter[..at].trim_ascii(), parameter[at + 1..].trim_ascii()))
}

/// `0.5` is 500.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, rest) = match text {
        [whole] => (whole, &b""[..]),
        [whole, b'.', rest @ ..] if rest.len() <= 3 => (whole, rest),
        _ => return None,
    };
    let mut value = u16::from(whole.checked_sub(b'0').filter(|digit| *digit <= 1)?) * WHOLE;
    for (digit, worth) in rest.iter().zip([100, 10, 1]) {
        value += u16::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?) * worth;
    }
    (value <= WHOLE).then_some(value)
}
