// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of ports (DEFAULT_PORTS, BIND_PORTS) and of hosts with ports (PORTICO_SIBLINGS).

/// Reads a port list such as `80,443:ssl`.
///
/// `:ssl` is accepted and means plain HTTP while there is no certificate, as in the original. Bind options change
/// what the port speaks, so an unknown one is an error.
pub fn parse_ports(text: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let plain = item.strip_suffix(":ssl").unwrap_or(item).trim();
        let mut words = plain.split_whitespace();
        let port = words.next().unwrap_or_default();
        let port = port
            .parse::<u16>()
            .map_err(|_| format!("`{item}`: `{port}` is not a port"))?;
        if let Some(option) = words.next() {
            return Err(format!(
                "`{item}`: the bind option `{option}` is not supported yet"
            ));
        }
        // Port 0 stands for any free port, so two of them are two ports.
        if port == 0 || !ports.contains(&port) {
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

    #[test]
    fn port_lists_are_read_as_the_original_reads_them() {
        assert_eq!(parse_ports("80,443:ssl"), Ok(vec![80, 443]));
        assert_eq!(parse_ports(" 80 , 80,8443:ssl"), Ok(vec![80, 8443]));
        assert_eq!(parse_ports(""), Ok(vec![]));
        assert!(parse_ports("http").is_err_and(|e| e.contains("http")));
        assert!(parse_ports("70000").is_err());
        assert!(parse_ports("80 accept-proxy").is_err_and(|e| e.contains("accept-proxy")));
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
