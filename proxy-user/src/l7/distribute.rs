// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fan-out: the same call to every replica of the proxy, this one included.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::limits;
use super::resolver::Resolver;

/// Sends `method path?query` to every address of `tasks.<service>`. The error is what the caller tells its client.
///
/// One after the other, as the original, but none may take longer than [`limits::DISTRIBUTE_TIMEOUT`].
pub async fn fan_out(
    resolver: &Resolver,
    service: &str,
    port: u16,
    method: &Method,
    target: &str,
) -> Result<(), String> {
    let name = format!("tasks.{service}");
    let addresses = resolver.lookup(&name).await;
    if addresses.is_empty() {
        return Err(format!(
            "Could not distribute: {name} has no address. Is SERVICE_NAME the name of the proxy's service?"
        ));
    }
    let mut failed = Vec::new();
    for address in addresses {
        let call = tokio::time::timeout(limits::DISTRIBUTE_TIMEOUT, call(address, port, method, target));
        let outcome = call.await.unwrap_or_else(|_| Err("no answer in time".into()));
        if let Err(reason) = outcome {
            failed.push(format!("{address} ({reason})"));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("Could not distribute to: {}", failed.join(", "))),
    }
}

async fn call(address: IpAddr, port: u16, method: &Method, target: &str) -> Result<(), String> {
    let address = SocketAddr::new(address, port);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(driver);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string());
    driver.abort();
    match response?.status() {
        status if status.as_u16() < 300 => Ok(()),
        status => Err(format!("status {}", status.as_u16())),
    }
}
