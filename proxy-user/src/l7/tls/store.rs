// SPDX-License-Identifier: MIT OR Apache-2.0
//! The certificates that the proxy has: files of the certificate folder and of Docker's secrets, by file name.
//!
//! A file that cannot be used leaves the last good version of its name in force and is named in the log once. What
//! changes swaps one index; handshakes never wait, and connections keep what they have.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::crt_list::{self, Line};
use super::glob;
use super::index::{Current, Index};
use super::pem::{Certificate, PemError, parse};
use super::settings::TlsSettings;
use crate::l7::limits;

/// Why a certificate is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It would not be a file of the folder.
    #[error(
        "`{0}` is not a file name: letters, digits and -_.+@*= make one, and it does not begin with a dot"
    )]
    Name(String),
    /// The content.
    #[error("{0}")]
    Pem(#[from] PemError),
    /// More than the limit.
    #[error("there are {} certificates already", limits::CERTIFICATES_MAX)]
    TooMany,
    /// The disk.
    #[error("cannot write to {dir}: {source}; PORTICO_CERTS names another folder")]
    Write {
        /// Where.
        dir: String,
        /// What the system said.
        source: io::Error,
    },
}

/// All certificates. *Who writes it*: the API's thread. *Limits*: [`limits::CERTIFICATES_MAX`].
pub struct Store {
    settings: TlsSettings,
    files: Mutex<Files>,
    current: Arc<Current>,
}

#[derive(Default)]
struct Files {
    by_place: BTreeMap<Place, Loaded>,
    /// What the folders looked like when they were read.
    stamps: BTreeMap<Place, Stamp>,
    crt_list: Option<(Stamp, Vec<Line>)>,
}

/// The certificate folder comes before the secrets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Folder(String),
    Secret(String),
    /// Named by the crt-list alone.
    Listed(PathBuf),
}

struct Loaded {
    pem: Arc<[u8]>,
    certificate: Certificate,
}

/// Changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Place::Folder(name) | Place::Secret(name) => name,
            Place::Listed(path) => path.to_str().unwrap_or_default(),
        }
    }
}

impl Store {
    /// A store that has read what there is.
    pub fn open(settings: TlsSettings) -> Arc<Self> {
        let store = Store {
            settings,
            files: Mutex::default(),
            current: Arc::default(),
        };
        store.rescan();
        Arc::new(store)
    }

    /// What rustls asks.
    pub fn current(&self) -> Arc<Current> {
        self.current.clone()
    }

    /// Where certificates are kept.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Checks a certificate, writes it and puts it in force. Nothing changes on an error.
    pub fn put(&self, name: &str, pem: &[u8]) -> Result<(), StoreError> {
        let certificate = self.check(name, pem)?;
        self.keep(name, pem, certificate)
    }

    /// Checks a certificate for [`Store::put`].
    pub fn check(&self, name: &str, pem: &[u8]) -> Result<Certificate, StoreError> {
        if !is_file_name(name) {
            return Err(StoreError::Name(
                name.chars().take(limits::CERT_NAME_BYTES_MAX).collect(),
            ));
        }
        let certificate = parse(pem)?;
        let files = self.files();
        let is_new = !files.by_place.contains_key(&Place::Folder(name.to_owned()));
        if is_new && files.by_place.len() >= limits::CERTIFICATES_MAX {
            return Err(StoreError::TooMany);
        }
        Ok(certificate)
    }

    /// Takes a certificate over from another replica, unless ours is as new; true if it was taken.
    pub fn adopt(&self, name: &str, pem: &[u8]) -> Result<bool, StoreError> {
        let certificate = self.check(name, pem)?;
        let ours = self
            .files()
            .by_place
            .get(&Place::Folder(name.to_owned()))
            .map(|ours| ours.certificate.not_before);
        if ours.is_some_and(|ours| ours >= certificate.not_before) {
            return Ok(false);
        }
        match self.keep(name, pem, certificate.clone()) {
            Ok(()) => {}
            // Served all the same, for as long as the process lives.
            Err(error) => {
                tracing::warn!(name, %error, "certificate is not kept");
                self.hold(name, pem, certificate, None);
            }
        }
        Ok(true)
    }

    /// What a service's serviceCert says. It is served even if it cannot be written, as in the original.
    pub fn put_of_service(&self, name: &str, pem: &[u8]) -> Result<(), StoreError> {
        let certificate = self.check(name, pem)?;
        if let Err(error) = self.keep(name, pem, certificate.clone()) {
            tracing::warn!(name, %error, "certificate of a service is not kept");
            self.hold(name, pem, certificate, None);
        }
        Ok(())
    }

    /// Names and content of the certificate folder.
    pub fn list(&self) -> Vec<(String, Arc<[u8]>)> {
        let files = self.files();
        let folder = files.by_place.iter().filter_map(|(place, loaded)| match place {
            Place::Folder(name) => Some((name.clone(), loaded.pem.clone())),
            _ => None,
        });
        folder.collect()
    }

    /// Names and ends of life, for people and metrics.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        let files = self.files();
        let each = files.by_place.iter();
        each.map(|(place, loaded)| (place.name().to_owned(), loaded.certificate.not_after))
            .collect()
    }

    /// Reads what has changed in the folders. Returns whether anything did.
    pub fn rescan(&self) -> bool {
        let mut seen = BTreeMap::new();
        for (dir, is_secrets) in [(&self.settings.dir, false), (&self.settings.secrets, true)] {
            for (name, stamp) in scan(dir, is_secrets) {
                let place = if is_secrets {
                    Place::Secret(name)
                } else {
                    Place::Folder(name)
                };
                seen.insert(place, stamp);
            }
        }
        let mut files = self.files();
        let mut changed = self.reread_list(&mut files, &mut seen);
        if files.stamps == seen && !changed {
            return false;
        }
        for (place, stamp) in &seen {
            if files.stamps.get(place) == Some(stamp) {
                continue;
            }
            match self.load(place) {
                Ok(loaded) if files.by_place.len() < limits::CERTIFICATES_MAX => {
                    files.by_place.insert(place.clone(), loaded);
                    changed = true;
                }
                Ok(_) => tracing::error!(file = place.name(), "left out: too many certificates"),
                Err(error) => {
                    tracing::error!(file = place.name(), error, "not a certificate that can be served")
                }
            }
        }
        // What was never written stays: only a file that was there can be taken away.
        let gone: Vec<Place> = (files.stamps.keys().filter(|place| !seen.contains_key(place)))
            .cloned()
            .collect();
        for place in gone {
            changed |= files.by_place.remove(&place).is_some();
        }
        files.stamps = seen;
        if changed {
            self.publish(&files);
        }
        changed
    }

    fn load(&self, place: &Place) -> Result<Loaded, String> {
        let path = match place {
            Place::Folder(name) => self.settings.dir.join(name),
            Place::Secret(name) => self.settings.secrets.join(name),
            Place::Listed(path) => path.clone(),
        };
        let pem = read(&path).map_err(|error| error.to_string())?;
        let certificate = parse(&pem).map_err(|error| error.to_string())?;
        Ok(Loaded {
            pem: pem.into(),
            certificate,
        })
    }

    fn reread_list(&self, files: &mut Files, seen: &mut BTreeMap<Place, Stamp>) -> bool {
        let Some(path) = &self.settings.crt_list else {
            return false;
        };
        let on_disk = fs::metadata(path).ok().map(|metadata| stamp(&metadata));
        let mut changed = false;
        if on_disk.is_some() && files.crt_list.as_ref().map(|(stamp, _)| *stamp) != on_disk {
            let text = fs::read_to_string(path).map_err(|error| error.to_string());
            match (text.and_then(|text| crt_list::parse(&text)), on_disk) {
                (Ok(lines), Some(stamp)) => {
                    files.crt_list = Some((stamp, lines));
                    changed = true;
                }
                (Err(error), _) => {
                    tracing::error!(file = %path.display(), error, "CRT_LIST_PATH: not taken over")
                }
                _ => {}
            }
        }
        for line in files.crt_list.iter().flat_map(|(_, lines)| lines) {
            if let Ok(metadata) = fs::metadata(&line.file) {
                seen.insert(Place::Listed(line.file.clone()), stamp(&metadata));
            }
        }
        changed
    }

    fn keep(&self, name: &str, pem: &[u8], certificate: Certificate) -> Result<(), StoreError> {
        let wrong = |source| StoreError::Write {
            dir: self.settings.dir.display().to_string(),
            source,
        };
        let stamp = write(&self.settings.dir, name, pem).map_err(wrong)?;
        self.hold(name, pem, certificate, Some(stamp));
        Ok(())
    }

    fn hold(&self, name: &str, pem: &[u8], certificate: Certificate, stamp: Option<Stamp>) {
        let place = Place::Folder(name.to_owned());
        let mut files = self.files();
        files.stamps.extend(stamp.map(|stamp| (place.clone(), stamp)));
        let loaded = Loaded {
            pem: pem.into(),
            certificate,
        };
        files.by_place.insert(place, loaded);
        self.publish(&files);
    }

    /// PREFERRED_CERTIFICATE first, then the folder, then the secrets; or what the crt-list says.
    fn publish(&self, files: &Files) {
        let index = match &files.crt_list {
            Some((_, lines)) => {
                let listed = lines.iter().filter_map(|line| {
                    let loaded = files.by_place.get(&Place::Listed(line.file.clone()))?;
                    Some((&loaded.certificate, line))
                });
                let named: Vec<_> = listed
                    .map(|(certificate, line)| (certificate, line.names(&certificate.names)))
                    .collect();
                let named = named
                    .iter()
                    .map(|(certificate, names)| (*certificate, names.as_slice()));
                Index::new(named, self.settings.strict_sni)
            }
            // Nothing is generated beside a list, even while it cannot be read.
            None if self.settings.crt_list.is_some() => Index::default(),
            None => {
                let mut order: Vec<_> = files.by_place.iter().collect();
                let rank = |place: &Place| {
                    let globs = &self.settings.preferred;
                    globs
                        .iter()
                        .position(|glob| glob::matches(glob, place.name()))
                        .unwrap_or(globs.len())
                };
                order.sort_by_cached_key(|(place, _)| rank(place));
                let named = order.iter().map(|(_, loaded)| {
                    let certificate = &loaded.certificate;
                    (certificate, certificate.names.as_slice())
                });
                Index::new(named, self.settings.strict_sni)
            }
        };
        self.current.0.store(Arc::new(index));
    }

    /// A panic while the lock was held cannot leave an entry half made.
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a name is that of a file in the folder, and nothing else on any system.
pub fn is_file_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+@*=".contains(&byte);
    !name.is_empty()
        && name.len() <= limits::CERT_NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(is_plain)
}

fn scan(dir: &Path, is_secrets: bool) -> Vec<(String, Stamp)> {
    // A folder that is not there has nothing in it.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let lower = name.to_ascii_lowercase();
        let is_ours = !is_secrets || lower.starts_with("cert-") || lower.starts_with("cert_");
        if !is_ours || name.starts_with('.') {
            return None;
        }
        let metadata = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
        Some((name, stamp(&metadata)))
    });
    files.take(limits::CERTIFICATES_MAX).collect()
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        length: metadata.len(),
        inode: metadata.ino(),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut pem = Vec::new();
    // One byte more, so that the parser sees that it is too large.
    File::open(path)?
        .take(limits::CERT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut pem)?;
    Ok(pem)
}

/// A reader sees the old file or the new one, and only its owner sees any.
fn write(dir: &Path, name: &str, pem: &[u8]) -> io::Result<Stamp> {
    fs::create_dir_all(dir)?;
    let temporary = dir.join(format!(".{name}.new"));
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(pem)?;
    file.sync_all()?;
    let metadata = file.metadata()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()?;
    Ok(stamp(&metadata))
}

#[cfg(test)]
mod tests;
