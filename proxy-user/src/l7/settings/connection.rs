// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether connections to services are used for another request: CONNECTION_MODE and connectionMode.

/// By the effect on connections to services; those of clients are always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionMode {
    /// `http-keep-alive`.
    #[default]
    Keep,
    /// `http-server-close`, `httpclose`, `forceclose`.
    Close,
}

impl ConnectionMode {
    /// Reads the original's names.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "http-keep-alive" => Ok(ConnectionMode::Keep),
            "http-server-close" | "httpclose" | "forceclose" => Ok(ConnectionMode::Close),
            "http-tunnel" => Err(
                "`http-tunnel` looks at the first request of a connection only; use http-keep-alive".into(),
            ),
            other => Err(format!(
                "`{other}` is not one of http-keep-alive, http-server-close, httpclose, forceclose"
            )),
        }
    }
}
