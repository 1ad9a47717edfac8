// SPDX-License-Identifier: MIT OR Apache-2.0
//! A minimal HTTP/1.1 client over a unix socket: for the agent's own socket and for the Docker Engine.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Bytes of one answer: 10 000 services of the agent or of an engine are some MiB.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long one request may take, answer included. An engine that starts up is slow, one that hangs is slower.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or not for us.
    #[error("cannot connect to {socket}: {source}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{path}: {message}")]
    Broken {
        /// What was asked for.
        path: String,
        /// What happened.
        message: String,
    },
    /// The answer is not a success.
    #[error("{path}: {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The answer's status.
        status: StatusCode,
        /// Its body.
        message: String,
    },
}

/// Sends a GET and returns the answer once its head is there.
pub async fn open(socket: &Path, path: &str) -> Result<hyper::Response<Incoming>, Error> {
    send(socket, Method::GET, path, Bytes::new()).await
}

/// Sends a POST and returns the answer once its head is there, for one that is read as it comes.
pub async fn stream(socket: &Path, path: &str, body: Bytes) -> Result<hyper::Response<Incoming>, Error> {
    let response = tokio::time::timeout(REQUEST_TIMEOUT, send(socket, Method::POST, path, body))
        .await
        .unwrap_or_else(|_| Err(late(path)))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let refused = tokio::time::timeout(REQUEST_TIMEOUT, read(path, response)).await;
    Err(refused.ok().and_then(Result::err).unwrap_or_else(|| late(path)))
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<hyper::Response<Incoming>, Error> {
    let broken = |message: String| Error::Broken {
        path: path.into(),
        message,
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| Error::Connect {
            socket: socket.into(),
            source,
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    // Ends with the answer's body, or when that is dropped.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .body(Full::new(body))
        .map_err(|error| broken(error.to_string()))?;
    sender
        .send_request(request)
        .await
        .map_err(|error| broken(error.to_string()))
}

/// Sends a GET and returns the whole body of a successful answer.
pub async fn get(socket: &Path, path: &str) -> Result<Bytes, Error> {
    exchange(socket, Method::GET, path, Bytes::new()).await
}

/// Sends a POST and returns the whole body of a successful answer.
pub async fn post(socket: &Path, path: &str, body: Bytes) -> Result<Bytes, Error> {
    exchange(socket, Method::POST, path, body).await
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
    let whole = async {
        let response = send(socket, method, path, body).await?;
        read(path, response).await
    };
    tokio::time::timeout(REQUEST_TIMEOUT, whole)
        .await
        .unwrap_or_else(|_| Err(late(path)))
}

/// The whole body, or why it is no success.
async fn read(path: &str, response: hyper::Response<Incoming>) -> Result<Bytes, Error> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|error| Error::Broken {
        path: path.into(),
        message: error.to_string(),
    })?;
    let body = body.to_bytes();
    if status.is_success() {
        Ok(body)
    } else {
        let message = String::from_utf8_lossy(&body).trim().to_owned();
        Err(Error::Refused {
            path: path.into(),
            status,
            message,
        })
    }
}

fn late(path: &str) -> Error {
    Error::Broken {
        path: path.into(),
        message: format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
    }
}
