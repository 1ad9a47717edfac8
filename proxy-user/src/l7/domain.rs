// SPDX-License-Identifier: MIT OR Apache-2.0
//! Matching a Host against the domains of a service.

/// How a domain without asterisk is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainAlgo {
    /// `hdr_beg(host)`: the Host begins with it. The original's default.
    Begins,
    /// `hdr(host)`: equal, so a port in the Host does not match.
    Equals,
    /// `hdr_dom(host)`: equal to one or more whole labels anywhere.
    Labels,
    /// `hdr_end(host)`: the Host ends with it.
    Ends,
}

impl DomainAlgo {
    /// Reads the original's name of an algorithm.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().trim_end_matches("-i").trim_end() {
            "hdr_beg(host)" => Ok(DomainAlgo::Begins),
            "hdr(host)" => Ok(DomainAlgo::Equals),
            "hdr_dom(host)" => Ok(DomainAlgo::Labels),
            "hdr_end(host)" => Ok(DomainAlgo::Ends),
            "" => Err("is empty".into()),
            other => Err(format!(
                "`{other}` is not one of hdr_beg(host), hdr(host), hdr_dom(host), hdr_end(host); {}",
                match other.contains("ssl_sni") {
                    true => "names of TLS are for reqMode=tcp and reqMode=sni",
                    false => "a serviceDomain such as *.acme.com is a wildcard",
                }
            )),
        }
    }

    /// The original's name.
    pub fn name(self) -> &'static str {
        match self {
            DomainAlgo::Begins => "hdr_beg(host)",
            DomainAlgo::Equals => "hdr(host)",
            DomainAlgo::Labels => "hdr_dom(host)",
            DomainAlgo::Ends => "hdr_end(host)",
        }
    }
}

/// One domain of a service.
#[derive(Clone)]
pub struct DomainPattern {
    text: Box<[u8]>,
    kind: Filing,
}

/// What a pattern is, for an index.
#[derive(Clone, Copy, Debug)]
pub enum Filing {
    /// Compared by this.
    Plain(DomainAlgo),
    /// `*.acme.com` or `*acme.com`: suffix of the Host without its port.
    Wildcard,
}

impl std::fmt::Debug for DomainPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.text);
        match self.kind {
            Filing::Plain(algo) => write!(f, "{} {text:?}", algo.name()),
            Filing::Wildcard => write!(f, "{:?}", format!("*{text}")),
        }
    }
}

impl DomainPattern {
    /// A domain as the parameter gives it. An asterisk concerns this domain only, not its siblings.
    pub fn new(domain: &str, algo: DomainAlgo) -> Self {
        let lower = domain.to_ascii_lowercase();
        match lower.strip_prefix('*') {
            Some(rest) => DomainPattern {
                text: rest.trim_start_matches('*').as_bytes().into(),
                kind: Filing::Wildcard,
            },
            None => DomainPattern {
                text: lower.as_bytes().into(),
                kind: Filing::Plain(algo),
            },
        }
    }

    /// How it is compared, and its text in lower case.
    pub fn filing(&self) -> (Filing, &[u8]) {
        (self.kind, &self.text)
    }

    /// Whether `host`, as the client sent it, matches. Case does not matter.
    pub fn matches(&self, host: &str) -> bool {
        let (host, want) = (host.as_bytes(), &*self.text);
        match self.kind {
            Filing::Wildcard => ends_with(without_port(host), want),
            Filing::Plain(DomainAlgo::Begins) => host
                .get(..want.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(want)),
            Filing::Plain(DomainAlgo::Equals) => host.eq_ignore_ascii_case(want),
            Filing::Plain(DomainAlgo::Ends) => ends_with(host, want),
            Filing::Plain(DomainAlgo::Labels) => labels_match(host, want, <[u8]>::eq_ignore_ascii_case),
        }
    }
}

/// A Host without its port; the brackets of an IPv6 literal stay.
pub fn without_port(host: &[u8]) -> &[u8] {
    let end_of_name = host.iter().rposition(|&byte| byte == b']').map_or(0, |at| at + 1);
    match host[end_of_name..].iter().position(|&byte| byte == b':') {
        Some(colon) => &host[..end_of_name + colon],
        None => host,
    }
}

fn ends_with(host: &[u8], want: &[u8]) -> bool {
    host.len()
        .checked_sub(want.len())
        .is_some_and(|from| host[from..].eq_ignore_ascii_case(want))
}

/// What may stand before and after a label.
pub fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'.' | b':' | b'/' | b'?')
}

/// HAProxy's `dom` match: the pattern between dots, colons, slashes or the ends.
pub fn labels_match(host: &[u8], want: &[u8], same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    if want.is_empty() || want.len() > host.len() {
        return false;
    }
    (0..=host.len() - want.len()).any(|from| {
        let to = from + want.len();
        same(&host[from..to], want)
            && (from == 0 || is_delimiter(host[from - 1]))
            && (to == host.len() || is_delimiter(host[to]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 5] = [
        "acme.com",
        "acme.com:8080",
        "www.acme.com",
        "xacme.com",
        "acme.com.evil.org",
    ];

    fn check(domain: &str, algo: DomainAlgo, want: [bool; 5]) {
        let pattern = DomainPattern::new(domain, algo);
        for (host, want) in HOSTS.iter().zip(want) {
            assert_eq!(pattern.matches(host), want, "{domain} {algo:?} {host}");
            assert_eq!(
                pattern.matches(&host.to_uppercase()),
                want,
                "{domain} {algo:?} {host} upper case"
            );
        }
    }

    #[test]
    fn algorithms_agree_with_the_originals_table() {
        check("acme.com", DomainAlgo::Begins, [true, true, false, false, true]);
        check("acme.com", DomainAlgo::Equals, [true, false, false, false, false]);
        check("Acme.com", DomainAlgo::Labels, [true, true, true, false, true]);
        check("acme.com", DomainAlgo::Ends, [true, false, true, true, false]);
    }

    #[test]
    fn a_wildcard_is_a_suffix_of_the_name_without_its_port() {
        check("*acme.com", DomainAlgo::Begins, [true, true, true, true, false]);
        check(
            "*.acme.com",
            DomainAlgo::Begins,
            [false, false, true, false, false],
        );
        assert!(DomainPattern::new("*.acme.com", DomainAlgo::Begins).matches("www.acme.com:8080"));
    }

    #[test]
    fn a_port_is_cut_off_and_brackets_stay() {
        for (host, want) in [
            ("a:1", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(host.as_bytes()), want.as_bytes());
        }
    }

    #[test]
    fn unknown_algorithms_are_refused() {
        assert_eq!(DomainAlgo::parse("hdr_end(host) -i"), Ok(DomainAlgo::Ends));
        for (text, native) in [
            ("req.ssl_sni", "reqMode=tcp"),
            ("hdr_sub(host)", "*.acme.com"),
            ("hdr_reg(host) -i", "*.acme.com"),
        ] {
            let error = DomainAlgo::parse(text).unwrap_err();
            assert!(
                error.contains(native) && error.contains("hdr_dom(host)"),
                "{error}"
            );
        }
    }
}
