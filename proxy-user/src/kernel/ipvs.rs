// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPVS over generic netlink, the addresses that its VIPs need, and what of both is Portico's.

mod message;
pub mod settings;
mod start;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use rtnetlink::{Handle, LinkUnspec};

use super::{genetlink::Family, netlink};
use crate::reconcile::{
    datapath::DatapathError,
    ipvs::{Ipvs, Key, Owned, Realized, plan::Op},
};

pub use start::{Options, start};

/// The interface that holds VIPs: it is in every namespace, and the kernel answers ARP for it on the others.
const LOOPBACK: &str = "lo";
/// Its addresses are of one host.
const PREFIX: u8 = 32;

/// File of the state directory that says what is Portico's.
const OWNED: &str = "ipvs.owned";

/// What a state directory says that is Portico's in IPVS, without asking the kernel.
pub fn owned_by(state: &Path) -> io::Result<Option<Owned>> {
    match fs::read_to_string(state.join(OWNED)) {
        Ok(text) => Ok(Some(read_owned(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes it from the kernel, and the record with it when all is gone; what could not be removed.
pub fn remove(state: &Path, owned: &Owned) -> Vec<DatapathError> {
    let (name, version) = message::FAMILY;
    let family = match Family::open(name, version) {
        Ok(family) => family,
        // Without IPVS nothing of it is left.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return forget(state, addresses_only(owned));
        }
        Err(error) => return vec![failed("open", "IPVS")(error)],
    };
    let mut kernel = Kernel {
        family,
        owned: state.join(OWNED),
    };
    let services = owned.services.iter().map(|key| Op::DeleteService(*key));
    let addresses = owned.addresses.iter().map(|address| Op::DeleteAddress(*address));
    let failures: Vec<_> = services
        .chain(addresses)
        .filter_map(|op| kernel.perform(&op).err())
        .collect();
    forget(state, failures)
}

fn addresses_only(owned: &Owned) -> Vec<DatapathError> {
    let all = owned.addresses.iter();
    all.filter_map(|address| {
        delete_address(*address)
            .map_err(failed("delete address", address))
            .err()
    })
    .collect()
}

fn forget(state: &Path, mut failures: Vec<DatapathError>) -> Vec<DatapathError> {
    if failures.is_empty() {
        let path = state.join(OWNED);
        failures.extend(
            fs::remove_file(&path)
                .map_err(failed("remove", path.display()))
                .err(),
        );
    }
    failures
}

/// IPVS of the namespace that it was opened in.
pub struct Kernel {
    family: Family,
    /// Where it is written what is Portico's.
    owned: PathBuf,
}

fn failed(operation: &'static str, object: impl ToString) -> impl FnOnce(io::Error) -> DatapathError {
    move |source| DatapathError::Syscall {
        operation,
        object: object.to_string(),
        source,
    }
}

impl Ipvs for Kernel {
    fn dump(&mut self) -> Result<Realized, DatapathError> {
        let services = message::services(&mut self.family).map_err(failed("dump", "IPVS"))?;
        let addresses = netlink::addresses().map_err(failed("dump", "addresses"))?;
        Ok(Realized {
            services,
            addresses: addresses.into_iter().map(|(_, address)| address).collect(),
        })
    }

    fn perform(&mut self, op: &Op) -> Result<(), DatapathError> {
        match op {
            Op::AddAddress(address) => add_address(*address).map_err(failed("add address", address)),
            Op::DeleteAddress(address) => delete_address(*address).map_err(failed("delete address", address)),
            op => {
                let (command, attributes) = message::of(op);
                self.family
                    .command(command, &attributes)
                    .or_else(|error| already(op, error))
                    .map_err(failed("IPVS", op))
            }
        }
    }

    fn owned(&mut self) -> Result<Owned, DatapathError> {
        match fs::read_to_string(&self.owned) {
            Ok(text) => Ok(read_owned(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Owned::default()),
            Err(error) => Err(failed("read", self.owned.display())(error)),
        }
    }

    fn remember(&mut self, owned: &Owned) -> Result<(), DatapathError> {
        let next = self.owned.with_extension("next");
        fs::write(&next, write_owned(owned))
            .and_then(|()| fs::rename(&next, &self.owned))
            .map_err(failed("write", self.owned.display()))
    }
}

/// Deleting what is gone is done; the same for adding what is there, of which the next resync sees the rest.
fn already(op: &Op, error: io::Error) -> io::Result<()> {
    let deletes = matches!(op, Op::DeleteService(_) | Op::DeleteDestination(..));
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) if deletes => Ok(()),
        Some(libc::ENOENT) => Err(io::Error::other(
            "the kernel has no such scheduler, or the service is gone (modprobe ip_vs_rr and the like)",
        )),
        _ => Err(error),
    }
}

/// One line each: `service 10.0.0.1:80/tcp`, `address 10.0.0.1`.
fn write_owned(owned: &Owned) -> String {
    let services = owned.services.iter().map(|key| format!("service {key}\n"));
    let addresses = owned
        .addresses
        .iter()
        .map(|address| format!("address {address}\n"));
    services.chain(addresses).collect()
}

/// A line that cannot be read is left out: what it named is then somebody else's, and untouched.
fn read_owned(text: &str) -> Owned {
    let mut owned = Owned::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("service", key)) => owned.services.extend(Key::parse(key)),
            Some(("address", address)) => owned.addresses.extend(address.parse::<Ipv4Addr>().ok()),
            _ => {}
        }
    }
    owned
}

async fn loopback(handle: &Handle) -> Result<u32, rtnetlink::Error> {
    let links = netlink::links(handle).await?;
    let found = links.into_iter().find(|link| link.name == LOOPBACK);
    let index = found
        .map(|link| link.ifindex)
        .ok_or(rtnetlink::Error::RequestFailed)?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await?;
    Ok(index)
}

fn add_address(address: Ipv4Addr) -> io::Result<()> {
    let added = netlink::run(async |handle| {
        let index = loopback(&handle).await?;
        handle
            .address()
            .add(index, IpAddr::V4(address), PREFIX)
            .execute()
            .await
    });
    match added {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn delete_address(address: Ipv4Addr) -> io::Result<()> {
    use futures_util::TryStreamExt as _;
    netlink::run(async |handle| {
        let index = loopback(&handle).await?;
        let found: Vec<_> = handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(IpAddr::V4(address))
            .execute()
            .try_collect()
            .await?;
        for message in found {
            handle.address().del(message).execute().await?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_read_as_it_was_written() {
        let text = "service 10.0.0.1:80/tcp\nservice 10.0.0.1:53/udp\naddress 10.99.0.1\n";
        let owned = read_owned(text);
        assert_eq!((owned.services.len(), owned.addresses.len()), (2, 1));
        let mut lines: Vec<String> = write_owned(&owned).lines().map(str::to_owned).collect();
        lines.sort();
        let mut expected: Vec<&str> = text.lines().collect();
        expected.sort_unstable();
        assert_eq!(lines, expected);
        assert_eq!(read_owned("service nonsense\n\nx\n"), Owned::default());
    }
}
