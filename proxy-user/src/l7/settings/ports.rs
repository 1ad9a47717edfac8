// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of ports in DEFAULT_PORTS and BIND_PORTS.

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
}
