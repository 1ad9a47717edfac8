// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that agents have left in the kernel and on the machine, found and removed.
//!
//! What forwards outlives its agent on purpose, so removing it is a step of its own. It is found by what is written
//! down (pins, marks, the state directory), not by what this build would have made: agents of earlier builds are
//! removed as well, and nothing that is not written down is touched. Each thing is removed by itself; what fails
//! stays, is said, and is found again the next time.

use std::{
    fmt, fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{self, Map, MapData};
use proxy_ebpf::abi::Scope;
use serde::Serialize;

use super::{attach, clsact, echo, ipvs, netlink, pins::is_bpffs};

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directory of the pins.
    pub bpffs: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// The agent's socket, of which nobody answers any more.
    pub socket: PathBuf,
    /// Whether the state directory goes too.
    pub purge: bool,
}

/// What the agent keeps in its state directory; whatever else is there is somebody else's.
const KEPT: [&str; 3] = ["api.json", "api.new", "ipvs.next"];

/// One thing of Portico's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
pub enum Thing {
    /// A program on an interface or cgroup, by the path of its pin.
    Link(PathBuf),
    /// Addresses of VIPs that a task's namespace answers echo for: a way to it, and how many.
    Echo(PathBuf, usize),
    /// Maps, programs and what else is pinned for one version.
    Pins(PathBuf),
    /// An interface's clsact qdisc that an agent made, by the interface's index; with its mark.
    Qdisc(u32, PathBuf),
    /// The directory of the pins, when it is empty.
    Folder(PathBuf),
    /// The tunnel device, by its index.
    Tunnel(u32),
    /// Virtual services and addresses: their numbers.
    Ipvs(usize, usize),
    /// Settings of IPVS that get back their values.
    Settings(usize),
    /// The agent's socket.
    Socket(PathBuf),
    /// What the agent keeps in the state directory, and the directory when it is empty then.
    State(PathBuf),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Link(path) => write!(f, "link {}", path.display()),
            Thing::Echo(path, count) => {
                write!(f, "addresses that answer ping in {}: {count}", path.display())
            }
            Thing::Pins(path) => write!(f, "pins {}", path.display()),
            Thing::Qdisc(index, _) => match netlink::interface_name(*index) {
                Ok(name) => write!(f, "clsact qdisc of {name}, if it is empty"),
                Err(_) => write!(f, "mark of an interface that is gone ({index})"),
            },
            Thing::Folder(path) => write!(f, "directory {}, if it is empty", path.display()),
            Thing::Tunnel(index) => write!(f, "tunnel device {} ({index})", netlink::TUNNEL_DEVICE),
            Thing::Ipvs(services, addresses) => {
                write!(
                    f,
                    "IPVS: {services} virtual services, {addresses} addresses of lo"
                )
            }
            Thing::Settings(count) => write!(f, "IPVS: {count} settings of before"),
            Thing::Socket(path) => write!(f, "socket {}", path.display()),
            Thing::State(path) => write!(f, "state {}", path.display()),
        }
    }
}

/// What is there, in the order in which it can be removed: nothing forwards into what is gone already.
pub fn find(places: &Places) -> io::Result<Vec<Thing>> {
    let mut found = Vec::new();
    // A directory anywhere else holds no pins, whatever its name is.
    let pinned = places.bpffs.is_dir() && is_bpffs(&places.bpffs)?;
    let versions = if pinned {
        versions(&places.bpffs)?
    } else {
        Vec::new()
    };
    for version in &versions {
        let links = version.join("links");
        found.extend(children(&links)?.into_iter().map(Thing::Link));
    }
    // Found by the scopes, so before the pins; of those namespaces only, because other agents have theirs.
    let cookies = versions.iter().flat_map(|version| scopes(version)).collect();
    for namespace in echo::namespaces(&cookies) {
        let count = echo::count(&namespace)?;
        found.extend((count > 0).then_some(Thing::Echo(namespace, count)));
    }
    found.extend(versions.into_iter().map(Thing::Pins));
    if pinned {
        for mark in children(&places.bpffs.join(attach::QDISC_MARKS))? {
            let index = mark.file_name().and_then(|name| name.to_str()?.parse().ok());
            found.extend(index.map(|index| Thing::Qdisc(index, mark)));
        }
        if !is_mount(&places.bpffs) {
            found.push(Thing::Folder(places.bpffs.clone()));
        }
    }
    found.extend(netlink::tunnel()?.map(Thing::Tunnel));
    if let Some(owned) = ipvs::owned_by(&places.state)? {
        found.push(Thing::Ipvs(owned.services.len(), owned.addresses.len()));
    }
    let settings = ipvs::settings::changed(&places.state)?;
    if !settings.is_empty() {
        found.push(Thing::Settings(settings.len()));
    }
    if fs::symlink_metadata(&places.socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        found.push(Thing::Socket(places.socket.clone()));
    }
    if places.purge && places.state.is_dir() {
        found.push(Thing::State(places.state.clone()));
    }
    Ok(found)
}

/// The netns cookies that a version's maps know; none of one whose layout was another.
fn scopes(version: &Path) -> Vec<u64> {
    let opened = MapData::from_pin(version.join("maps").join("SCOPES"))
        .ok()
        .and_then(|map| maps::HashMap::<_, u64, Scope>::try_from(Map::HashMap(map)).ok());
    opened
        .map(|map| map.keys().flatten().collect())
        .unwrap_or_default()
}

/// Removes one thing.
pub fn remove(places: &Places, thing: &Thing) -> io::Result<()> {
    match thing {
        Thing::Link(path) => match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(links), Some(name)) => attach::detach(links, name),
            _ => Err(io::Error::other("its name is no text")),
        },
        // A namespace that has ended meanwhile has none.
        Thing::Echo(path, _) => gone(echo::forget(path).map(drop)),
        // A link that could not be removed must keep its pin, which is the only way to it.
        Thing::Pins(path) => {
            if children(&path.join("links"))?.is_empty() {
                gone(fs::remove_dir_all(path))
            } else {
                Err(io::Error::other("links are left in it"))
            }
        }
        Thing::Qdisc(index, mark) => {
            if netlink::interface_name(*index).is_ok() {
                clsact::remove_empty(*index)?;
            }
            gone(fs::remove_dir(mark))?;
            // With the last mark.
            mark.parent().map_or(Ok(()), |marks| empty(fs::remove_dir(marks)))
        }
        Thing::Folder(path) => empty(fs::remove_dir(path)),
        Thing::Tunnel(index) => netlink::remove_link(*index),
        Thing::Ipvs(..) => {
            let owned = ipvs::owned_by(&places.state)?.unwrap_or_default();
            let failures: Vec<String> = ipvs::remove(&places.state, &owned)
                .iter()
                .map(ToString::to_string)
                .collect();
            if failures.is_empty() {
                Ok(())
            } else {
                Err(io::Error::other(failures.join("; ")))
            }
        }
        Thing::Settings(_) => ipvs::settings::restore(&places.state),
        Thing::Socket(path) => gone(fs::remove_file(path)),
        Thing::State(path) => forget(path),
    }
}

/// Records of what could not be removed from IPVS stay: they are the only way to it.
fn forget(state: &Path) -> io::Result<()> {
    if ipvs::owned_by(state)?.is_some() || !ipvs::settings::changed(state)?.is_empty() {
        return Err(io::Error::other("it says what is left in IPVS"));
    }
    for name in KEPT {
        gone(fs::remove_file(state.join(name)))?;
    }
    empty(fs::remove_dir(state))
}

fn versions(bpffs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = children(bpffs)?;
    all.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix('v'))
            .is_some_and(|number| number.parse::<u32>().is_ok())
    });
    Ok(all)
}

/// In order; none of a directory that is not there.
fn children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    found.sort();
    Ok(found)
}

/// Whether it is the file system itself, which is the machine's.
fn is_mount(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let above = folder.parent().unwrap_or(folder);
    device(folder) != device(above)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What has others' things in it stays.
fn empty(result: io::Result<()>) -> io::Result<()> {
    match gone(result) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(folder: &Path) -> Places {
        Places {
            bpffs: folder.join("pins"),
            state: folder.join("state"),
            socket: folder.join("node.sock"),
            purge: true,
        }
    }

    #[test]
    fn a_directory_that_is_no_bpffs_holds_no_pins() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("pins/v1/links")).unwrap();
        fs::create_dir_all(folder.path().join("pins/clsact/1")).unwrap();
        fs::write(folder.path().join("pins/v1/links/task-1"), "precious").unwrap();
        let found = find(&places(folder.path())).unwrap();
        assert!(
            !found.iter().any(|thing| matches!(
                thing,
                Thing::Link(_) | Thing::Pins(_) | Thing::Qdisc(..) | Thing::Folder(_)
            )),
            "{found:?}"
        );
    }

    #[test]
    fn of_the_state_directory_goes_what_the_agent_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let state = Thing::State(places.state.clone());
        fs::create_dir(&places.state).unwrap();
        let names = ["api.json", "ipvs.owned", "precious"];
        for name in names {
            fs::write(places.state.join(name), "").unwrap();
        }
        let refused = remove(&places, &state).unwrap_err();
        assert!(refused.to_string().contains("IPVS"), "{refused}");
        assert!(names.iter().all(|name| places.state.join(name).exists()));
        fs::remove_file(places.state.join("ipvs.owned")).unwrap();
        remove(&places, &state).unwrap();
        assert_eq!(children(&places.state).unwrap(), [places.state.join("precious")]);
        fs::remove_file(places.state.join("precious")).unwrap();
        remove(&places, &state).unwrap();
        assert!(!places.state.exists());
    }
}
