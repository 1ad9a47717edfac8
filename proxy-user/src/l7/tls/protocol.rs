// SPDX-License-Identifier: MIT OR Apache-2.0
//! SSL_BIND_OPTIONS and SSL_BIND_CIPHERS: what HAProxy's and OpenSSL's words mean here.
//!
//! Everything before TLS 1.2, static key exchange and CBC do not exist, so words that take them away are satisfied,
//! and words that only add them are left out with a line in the log. Words that nobody knows are an error.

use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::{CipherSuite, SupportedCipherSuite};

/// What clients may negotiate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// TLS 1.2 is served.
    pub tls12: bool,
    /// TLS 1.3 is served.
    pub tls13: bool,
    /// Sessions may be resumed.
    pub tickets: bool,
    /// The client's order of ciphers counts instead of ours.
    pub client_order: bool,
    /// Nobody gets a default certificate.
    pub strict_sni: bool,
    /// Suites of TLS 1.2 in their order; empty for all.
    pub ciphers: Vec<CipherSuite>,
}

impl Default for Protocol {
    fn default() -> Self {
        Protocol {
            tls12: true,
            tls13: true,
            tickets: true,
            client_order: false,
            strict_sni: false,
            ciphers: Vec::new(),
        }
    }
}

impl Protocol {
    /// Suites in the order in which the server prefers them.
    pub fn suites(&self) -> Vec<SupportedCipherSuite> {
        let mut suites = vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let known = || TLS12.iter().map(|(_, suite)| *suite);
        match self.ciphers.as_slice() {
            [] => suites.extend(known()),
            list => suites.extend(
                list.iter()
                    .filter_map(|id| known().find(|suite| suite.suite() == *id)),
            ),
        }
        suites
    }
}

/// Reads SSL_BIND_OPTIONS.
pub fn options(text: &str) -> Result<Protocol, String> {
    const OLD: [&str; 4] = ["SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1"];
    let mut protocol = Protocol::default();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            // There is nothing older than TLS 1.2.
            "no-sslv3" | "no-tlsv10" | "no-tlsv11" => {}
            "no-tlsv12" | "force-tlsv13" => protocol.tls12 = false,
            "no-tlsv13" | "force-tlsv12" => protocol.tls13 = false,
            "no-tls-tickets" => protocol.tickets = false,
            "prefer-client-ciphers" => protocol.client_order = true,
            "strict-sni" => protocol.strict_sni = true,
            "ssl-min-ver" | "ssl-max-ver" => match (word, words.next().unwrap_or_default()) {
                ("ssl-min-ver", "TLSv1.2") | ("ssl-max-ver", "TLSv1.3") => {}
                ("ssl-min-ver", version) if OLD.contains(&version) => {}
                ("ssl-min-ver", "TLSv1.3") => protocol.tls12 = false,
                ("ssl-max-ver", "TLSv1.2") => protocol.tls13 = false,
                (word, version) => {
                    return Err(format!(
                        "`{word} {version}`: use TLSv1.2 or TLSv1.3, the versions that there are"
                    ));
                }
            },
            "force-sslv3" | "force-tlsv10" | "force-tlsv11" => {
                return Err(format!(
                    "`{word}`: there is nothing older than TLS 1.2; use ssl-min-ver TLSv1.2"
                ));
            }
            other => {
                return Err(format!(
                    "`{other}` is not known; use ssl-min-ver, ssl-max-ver, no-tls-tickets, prefer-client-ciphers or \
                     strict-sni, and ENABLE_H2 for ALPN"
                ));
            }
        }
    }
    match protocol.tls12 || protocol.tls13 {
        true => Ok(protocol),
        false => Err("leaves no version of TLS".into()),
    }
}

/// OpenSSL's names of what rustls has, in rustls' order.
const TLS12: [(&str, SupportedCipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Reads SSL_BIND_CIPHERS: the suites that there are, in its order, and the names of those that are left out.
pub fn ciphers(text: &str) -> Result<(Vec<CipherSuite>, Vec<String>), String> {
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        // Taking away what does not exist, and the strength order of OpenSSL, change nothing.
        if word.starts_with('!') && !TLS12.iter().any(|(name, _)| *name == &word[1..])
            || word.starts_with('@')
        {
            continue;
        }
        match TLS12.iter().find(|(name, _)| *name == word) {
            Some((_, suite)) if !kept.contains(&suite.suite()) => kept.push(suite.suite()),
            Some(_) => {}
            None if is_openssl_name(word) => left_out.push(word.to_owned()),
            None => {
                let names: Vec<&str> = TLS12.iter().map(|(name, _)| *name).collect();
                return Err(format!(
                    "`{word}` is no cipher that can be served; there are {}",
                    names.join(":")
                ));
            }
        }
    }
    match kept.is_empty() {
        true => {
            let names: Vec<&str> = TLS12.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "none of these ciphers can be served; there are {}",
                names.join(":")
            ))
        }
        false => Ok((kept, left_out)),
    }
}

/// The names in use are those of OpenSSL's list: parts of upper case with dashes, of which one is a cipher.
fn is_openssl_name(word: &str) -> bool {
    let is_shaped = word
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_');
    let has = |part: &str| word.split(['-', '_']).any(|piece| piece.starts_with(part));
    is_shaped
        && ["AES", "DES", "RC4", "CAMELLIA", "CHACHA20", "SEED", "ARIA"]
            .iter()
            .any(|part| has(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxys_options_are_mapped_or_named() {
        let default = Protocol::default();
        for text in [
            "",
            "no-sslv3",
            "ssl-min-ver TLSv1.2 no-tlsv10 no-tlsv11",
            "ssl-min-ver TLSv1.0",
        ] {
            assert_eq!(options(text).unwrap(), default, "{text}");
        }
        assert!(!options("ssl-min-ver TLSv1.3").unwrap().tls12);
        assert!(!options("force-tlsv12").unwrap().tls13);
        let all = options("no-tls-tickets strict-sni prefer-client-ciphers").unwrap();
        assert!(!all.tickets && all.strict_sni && all.client_order);
        for (text, part) in [
            ("allow-0rtt", "allow-0rtt"),
            ("force-tlsv10", "TLSv1.2"),
            ("ssl-max-ver TLSv1.1", "TLSv1.1"),
            ("ssl-min-ver", "ssl-min-ver"),
            ("no-tlsv12 no-tlsv13", "no version"),
        ] {
            assert!(options(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn ciphers_keep_their_order_and_old_ones_are_left_out() {
        let (kept, left_out) = ciphers(
            "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA:ECDHE-ECDSA-AES128-GCM-SHA256:!DSS:AES128-SHA",
        )
        .unwrap();
        let want = [
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ];
        assert_eq!(kept, want);
        assert_eq!(left_out, ["DHE-RSA-AES256-SHA", "AES128-SHA"]);
        let protocol = Protocol {
            ciphers: kept,
            ..Protocol::default()
        };
        let suites: Vec<_> = protocol
            .suites()
            .iter()
            .skip(3)
            .map(|suite| suite.suite())
            .collect();
        assert_eq!(suites, want);
        for text in [
            "HIGH",
            "kEECDH+AESGCM",
            "!ECDHE-RSA-AES128-GCM-SHA256",
            "DHE-RSA-AES256-SHA",
            "",
        ] {
            assert!(
                ciphers(text).is_err_and(|error| error.contains("ECDHE-RSA-AES128-GCM-SHA256")),
                "{text}"
            );
        }
    }
}
