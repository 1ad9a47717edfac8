// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS towards clients.
//!
//! [`store`] has the certificates and swaps one [`index`] when they change; [`protocol`] reads what the original's
//! variables say of versions and ciphers; [`tickets`] resume sessions on every worker and replica; [`accept`] makes the
//! handshake, [`admin`] is for the admin port. A port with `:ssl` speaks plain HTTP while there is no certificate, as in the original.

mod accept;
mod admin;
mod crt_list;
mod glob;
mod index;
mod pem;
mod protocol;
mod settings;
pub mod siblings;
mod store;
#[cfg(test)]
pub mod testing;
mod tickets;
mod x509;

pub use accept::{Accepted, Handshake};
pub use admin::AdminTls;
pub use index::Current;
pub use protocol::{Protocol, ciphers, options};
pub use settings::{Tls, TlsSettings};
pub use store::{Store, StoreError, is_file_name};
pub use tickets::Tickets;
