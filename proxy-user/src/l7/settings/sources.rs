// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where services come from besides calls.

use std::path::PathBuf;
use std::time::Duration;

/// A docker-flow-swarm-listener, or several.
#[derive(Clone, Debug)]
pub struct Listener {
    /// LISTENER_ADDRESS.
    pub hosts: Vec<(String, Option<u16>)>,
    /// RELOAD_INTERVAL: between two attempts.
    pub interval: Duration,
    /// REPEAT_RELOAD: never stop asking a single one.
    pub repeat: bool,
    /// RELOAD_ATTEMPTS: how often each of several is asked.
    pub attempts: u32,
}

/// PORTICO_DOCKER: the engine whose labels are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineHost {
    /// Its socket.
    Socket(PathBuf),
    /// Name and port of a socket proxy.
    Tcp(String, u16),
}

impl EngineHost {
    /// Reads `/path`, `unix:///path` or `tcp://host:port`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither unix:///path nor tcp://host:port");
        match text.split_once("://") {
            None if text.starts_with('/') => Ok(EngineHost::Socket(text.into())),
            Some(("unix", path)) if path.starts_with('/') => Ok(EngineHost::Socket(path.into())),
            Some(("tcp", rest)) => match super::parse_hosts(rest)?.as_slice() {
                [(host, Some(port))] => Ok(EngineHost::Tcp(host.clone(), *port)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_a_socket_or_a_host_with_a_port() {
        let socket = EngineHost::Socket("/run/d.sock".into());
        assert_eq!(EngineHost::parse("unix:///run/d.sock"), Ok(socket.clone()));
        assert_eq!(EngineHost::parse("/run/d.sock"), Ok(socket));
        let tcp = EngineHost::Tcp("socket-proxy".into(), 2375);
        assert_eq!(EngineHost::parse("tcp://socket-proxy:2375"), Ok(tcp));
        for wrong in [
            "",
            "docker",
            "tcp://host",
            "tcp://a:1,b:2",
            "unix://run",
            "ssh://host",
        ] {
            assert!(EngineHost::parse(wrong).is_err(), "{wrong}");
        }
    }
}
