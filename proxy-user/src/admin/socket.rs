// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unix socket itself.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::Semaphore,
};

use super::CONNECTIONS_MAX;
use crate::{cli::Exit, daemon::Shared};

/// Readable and writable for owner and group.
const MODE: u32 = 0o660;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A claimed socket path.
#[derive(Debug)]
pub struct Socket {
    listener: net::UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Claims the path, or says who has it.
    pub fn claim(path: &Path) -> Result<Self, Exit> {
        let failed =
            |what: &str, error: io::Error| Exit::Failed(format!("{}: {what}: {error}", path.display()));
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(Exit::Usage(format!(
                    "{}: exists and is no socket",
                    path.display()
                )));
            }
            Ok(_) => match net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(|error| failed("cannot remove the stale socket", error))?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Accepted, or too busy to: somebody is there.
                _ => {
                    return Err(Exit::Lacks {
                        what: format!("another agent is running on {}", path.display()),
                        how: "stop it, or give this one its own --socket, --bpffs and --state".into(),
                    });
                }
            },
            Err(_) => {
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    fs::create_dir_all(folder).map_err(|error| failed("cannot make its folder", error))?;
                }
            }
        }
        let listener = net::UnixListener::bind(path).map_err(|error| failed("cannot listen", error))?;
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))
            .map_err(|error| failed("chmod", error))?;
        listener
            .set_nonblocking(true)
            .map_err(|error| failed("cannot listen", error))?;
        Ok(Self {
            listener,
            path: path.into(),
        })
    }

    /// Answers requests. Ends only if the listener cannot be used.
    pub async fn serve(&self, shared: Arc<Shared>) {
        let listener = match self.listener.try_clone().and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "unix socket");
                return;
            }
        };
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        serve_one(stream, move |request| super::api::answer(request, shared.clone())).await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, for example: wait until some are free.
                Err(error) => {
                    tracing::warn!(%error, "unix socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already, and then there is nothing to do.
        drop(fs::remove_file(&self.path));
    }
}

/// Serves one connection with a function from request to response.
pub(super) async fn serve_one<S, F, A, B>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_socket_is_respected_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/node.sock");
        let first = Socket::claim(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let error = Socket::claim(&path).unwrap_err();
        assert!(
            matches!(&error, Exit::Lacks { what, .. } if what.contains("another agent is running")),
            "{error}"
        );
        // As a killed agent leaves it: the file is there, the listener is not.
        let kept = folder.path().join("kept.sock");
        fs::hard_link(&path, &kept).unwrap();
        drop(first);
        assert!(!path.exists());
        fs::rename(&kept, &path).unwrap();
        Socket::claim(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(Socket::claim(&path), Err(Exit::Usage(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
