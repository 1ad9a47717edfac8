// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fan-out: the same call to every replica of the proxy, this one included.

use bytes::Bytes;
use hyper::Method;

use super::limits;
use super::peers::Peers;

/// Sends `method path?query` with a body to every replica. The error is what the caller tells its client.
///
/// One after the other, as the original, so that replicas see concurrent changes in one order more often than not.
pub async fn fan_out(peers: &Peers, method: &Method, target: &str, body: &Bytes) -> Result<(), String> {
    let addresses = peers.addresses().await;
    if addresses.is_empty() {
        return Err(format!(
            "Could not distribute: {} has no address. Is SERVICE_NAME the name of the proxy's service?",
            peers.describe()
        ));
    }
    let mut failed = Vec::new();
    for address in addresses {
        let ip = address.ip();
        match peers
            .call(address, method, target, body, limits::DISTRIBUTE_TIMEOUT)
            .await
        {
            Ok((status, _)) if status.as_u16() < 300 => {}
            Ok((status, _)) => failed.push(format!("{ip} (status {})", status.as_u16())),
            Err(reason) => failed.push(format!("{ip} ({reason})")),
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("Could not distribute to: {}", failed.join(", "))),
    }
}
