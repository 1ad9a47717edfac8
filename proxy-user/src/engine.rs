// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Docker Engine's API: JSON over its unix socket, or over TCP to a socket proxy.
//!
//! Answers are plain JSON and not typed: engines from 20.10 to 29 differ in fields that Portico does not look at.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::unix_http::{ANSWER_BYTES_MAX, Error, REQUEST_TIMEOUT};

/// The API version that the translations were written against: 25.0's, accepted by all engines since.
const VERSION: (u32, u32) = (1, 44);
/// The oldest engine supported: 20.10.
pub const VERSION_MIN: (u32, u32) = (1, 41);

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Its own socket.
    Unix(PathBuf),
    /// Without TLS: a socket proxy in the same network.
    Tcp(SocketAddr),
}

/// What is known about an engine.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    version: (u32, u32),
    engine: String,
}

impl Client {
    /// Asks the engine for its versions and picks one: ours, or the nearest that it accepts.
    pub async fn connect(address: Address) -> Result<Self, Error> {
        let mut client = Self {
            address,
            version: VERSION,
            engine: String::new(),
        };
        let about = client.json(Method::GET, "/version".into(), Bytes::new()).await?;
        let field = |name: &str| about[name].as_str().and_then(parse_version);
        let newest = field("ApiVersion").unwrap_or(VERSION);
        let oldest = field("MinAPIVersion").unwrap_or(VERSION_MIN);
        client.version = VERSION.max(oldest).min(newest);
        client.engine = about["Version"].as_str().unwrap_or("unknown").to_owned();
        Ok(client)
    }

    /// The engine's own version.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// The API version in use.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The socket; of an engine that is reached over TCP, its address.
    pub fn socket(&self) -> &Path {
        match &self.address {
            Address::Unix(socket) => socket,
            Address::Tcp(_) => Path::new("tcp"),
        }
    }

    /// GETs a path (without version).
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.json(Method::GET, self.path(path), Bytes::new()).await
    }

    /// POSTs to a path (without version).
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.json(Method::POST, self.path(path), Bytes::from(body.to_string()))
            .await
    }

    /// GETs a path (without version) and returns the answer once its head is there.
    pub async fn open(&self, path: &str) -> Result<Response<Incoming>, Error> {
        self.send(Method::GET, &self.path(path), Bytes::new()).await
    }

    fn path(&self, path: &str) -> String {
        format!("/v{}.{}{path}", self.version.0, self.version.1)
    }

    async fn json(&self, method: Method, path: String, body: Bytes) -> Result<Value, Error> {
        let broken = |message: String| Error::Broken {
            path: path.clone(),
            message,
        };
        let whole = async {
            let response = self.send(method, &path, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await;
            let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
            if !status.is_success() {
                return Err(Error::Refused {
                    path: path.clone(),
                    status,
                    message: message(&body),
                });
            }
            serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))
        };
        tokio::time::timeout(REQUEST_TIMEOUT, whole)
            .await
            .unwrap_or_else(|_| {
                Err(broken(format!(
                    "no answer within {} s",
                    REQUEST_TIMEOUT.as_secs()
                )))
            })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
        let unreachable = |source| Error::Connect {
            socket: match &self.address {
                Address::Unix(socket) => socket.clone(),
                Address::Tcp(address) => format!("tcp://{address}").into(),
            },
            source,
        };
        match &self.address {
            Address::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                exchange(stream, "localhost", method, path, body).await
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                exchange(stream, &address.to_string(), method, path, body).await
            }
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>, Error> {
    let broken = |message: String| Error::Broken {
        path: path.into(),
        message,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    // Ends with the answer's body, or when that is dropped.
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(HOST, host);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(body))
        .map_err(|error| broken(error.to_string()))?;
    (sender.send_request(request).await).map_err(|error| broken(error.to_string()))
}

/// What an engine says in a refusal: `{"message": …}`, or text.
fn message(body: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(body).ok();
    match json.as_ref().and_then(|json| json["message"].as_str()) {
        Some(text) => text.trim().to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    }
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
