// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks the engine.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::unix_http::{self, Error};

/// The API version that the translation was written against: 25.0's, accepted by all engines since.
const VERSION: (u32, u32) = (1, 44);
/// The oldest engine supported: 20.10.
pub const VERSION_MIN: (u32, u32) = (1, 41);

/// A connection's worth of knowledge about an engine.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    version: (u32, u32),
    engine: String,
}

impl Client {
    /// Asks the engine for its versions and picks one: ours, or the nearest that it accepts.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let about = json(socket, "/version").await?;
        let field = |name: &str| about[name].as_str().and_then(parse_version);
        let newest = field("ApiVersion").unwrap_or(VERSION);
        let oldest = field("MinAPIVersion").unwrap_or(VERSION_MIN);
        Ok(Self {
            socket: socket.into(),
            version: VERSION.max(oldest).min(newest),
            engine: about["Version"].as_str().unwrap_or("unknown").to_owned(),
        })
    }

    /// The engine's own version.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// The API version in use.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GETs a path (without version).
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        json(&self.socket, &self.path(path)).await
    }

    /// The path with the version before it.
    pub fn path(&self, path: &str) -> String {
        format!("/v{}.{}{path}", self.version.0, self.version.1)
    }
}

async fn json(socket: &Path, path: &str) -> Result<Value, Error> {
    let body = unix_http::get(socket, path).await?;
    serde_json::from_slice(&body).map_err(|error| Error::Broken {
        path: path.into(),
        message: error.to_string(),
    })
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `filters=` for a query.
pub fn filters(json: &Value) -> String {
    let mut out = String::from("filters=");
    for byte in json.to_string().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
