// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `docker` provider: the node's own engine, on workers and managers alike.
//!
//! What is read (all of it works on a worker without any credential of a manager): the overlay networks, each
//! inspected verbosely, which gives services with VIP, tasks and their nodes; the containers of this engine, for
//! namespaces and addresses. On managers also services and tasks, for what the first two do not know: protocols
//! of published ports, services without tasks, and which tasks are on their way out. On workers the first are
//! guessed, the second remembered (`memory`), and the third are those that the engine's DNS does not name
//! (`enabled`). The answers are read as plain JSON and not through
//! typed clients: engines from 20.10 to 29 differ in fields that Portico does not look at, and a typed client
//! fails on the whole answer when one of them has another type.
//!
//! Life of a change: an event of the engine, or one second, wakes the watcher; it looks at everything; the
//! answers become a snapshot by a pure function; it is reported when it differs from the last one. Joining and
//! leaving of remote tasks has no event anywhere, so the timer is needed.

mod enabled;
mod memory;
pub mod translate;
pub mod watch;

/// Where the engine listens unless told otherwise.
pub const SOCKET: &str = "/var/run/docker.sock";

/// The path of a socket given as path or as `unix://` URL, as `DOCKER_HOST` has it.
pub fn socket_path(text: &str) -> Result<std::path::PathBuf, String> {
    match text.split_once("://") {
        None => Ok(text.into()),
        Some(("unix", path)) => Ok(path.into()),
        Some((scheme, _)) => Err(format!(
            "{text}: {scheme}:// is not supported, only a unix socket of this node's engine"
        )),
    }
}
