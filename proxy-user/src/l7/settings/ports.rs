// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of ports (DEFAULT_PORTS, BIND_PORTS) and of hosts with ports (PORTICO_SIBLINGS).

/// A port for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// 0 takes a free one.
    pub number: u16,
    /// `:ssl`: TLS as soon as there is a certificate, plain HTTP before.
    pub tls: bool,
    /// `accept-proxy`: connections begin with a PROXY header.
    pub accept_proxy: bool,
}

impl Port {
    /// A port without options.
    pub const fn plain(number: u16) -> Self {
        Port {
            number,
            tls: false,
            accept_proxy: false,
        }
    }
}

/// Reads a port list such as `80,443 accept-proxy:ssl`.
///
/// Bind options change what the port speaks, so an unknown one is an error.
pub fn parse_ports(text: &str) -> Result<Vec<Port>, String> {
    let mut ports: Vec<Port> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let plain = item.strip_suffix(":ssl").map(str::trim);
        let mut words = plain.unwrap_or(item).split_whitespace();
        let number = words.next().unwrap_or_default();
        let number = number
            .parse::<u16>()
            .map_err(|_| format!("`{item}`: `{number}` is not a port"))?;
        let mut port = Port {
            tls: plain.is_some(),
            ..Port::plain(number)
        };
        for option in words {
            match option {
                "accept-proxy" => port.accept_proxy = true,
                other => return Err(format!("`{item}`: the bind option `{other}` is not supported")),
            }
        }
        // Port 0 stands for any free port, so two of them are two ports.
        if number == 0 || ports.iter().all(|other| other.number != number) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// Reads a list of names or addresses, each with a port or without.
pub fn parse_hosts(text: &str) -> Result<Vec<(String, Option<u16>)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(parse_host)
        .collect()
}

fn parse_host(item: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || format!("`{item}` is not a host or host:port");
    if item.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((item.into(), None));
    }
    let (host, port) = match item.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
        None => (item, None),
    };
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '@', ' ']);
    match is_host(host) && (!host.contains(':') || host.starts_with('[')) {
        true => Ok((host.into(), port)),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u16, bool, bool)> {
        let ports = parse_ports(text).unwrap();
        ports
            .iter()
            .map(|port| (port.number, port.tls, port.accept_proxy))
            .collect()
    }

    #[test]
    fn port_lists_are_read_as_the_original_reads_them() {
        assert_eq!(read("80,443:ssl"), [(80, false, false), (443, true, false)]);
        assert_eq!(
            read(" 80 , 80,8443 :ssl"),
            [(80, false, false), (8443, true, false)]
        );
        assert_eq!(
            read("80 accept-proxy,443 accept-proxy:ssl"),
            [(80, false, true), (443, true, true)]
        );
        assert_eq!(read(""), []);
        assert!(parse_ports("http").is_err_and(|e| e.contains("http")));
        assert!(parse_ports("70000").is_err());
        assert!(parse_ports("80 defer-accept").is_err_and(|e| e.contains("defer-accept")));
    }

    #[test]
    fn hosts_have_a_port_or_not() {
        let read = |text: &str| parse_hosts(text).unwrap();
        assert_eq!(read("a, b:81"), [("a".into(), None), ("b".into(), Some(81))]);
        assert_eq!(
            read("[::1]:81,::1"),
            [("[::1]".into(), Some(81)), ("::1".into(), None)]
        );
        assert!(read("").is_empty());
        for wrong in ["a:x", "a:70000", "http://a", ":80", "a b", "a:b:1"] {
            assert!(
                parse_hosts(wrong).is_err_and(|text| text.contains(wrong)),
                "{wrong}"
            );
        }
    }
}
