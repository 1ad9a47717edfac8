// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single pinned maps: entries written, all of them read, and compared with what should be in them.

use std::io;

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, lpm_trie},
};
use proxy_ebpf::abi::{SourceKey, limits::SOURCES_MAX, schedule::LIST_BITS};

use super::pins::Pins;
use crate::{reconcile::datapath::DatapathError, shared_map::SharedMap};

/// A pinned hash map with its name and limit, for errors.
pub(super) struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
    limit: u32,
    constant: &'static str,
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    pub(super) fn open(
        pins: &Pins,
        name: &'static str,
        limit: u32,
        constant: &'static str,
    ) -> Result<Self, MapError> {
        let data = MapData::from_pin(pins.maps().join(name))?;
        Ok(Table {
            map: HashMap::try_from(Map::HashMap(data))?,
            name,
            limit,
            constant,
        })
    }

    pub(super) fn set(&mut self, key: K, value: V) -> Result<(), DatapathError> {
        self.map
            .insert(key, value, 0)
            .map_err(|e| self.error("update", e))
    }

    pub(super) fn delete(&mut self, key: K) -> Result<(), DatapathError> {
        match self.map.remove(&key) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(e) if errno(&e) == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(|e| self.error("delete", e)),
        }
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.map.get(key, 0) {
            Err(MapError::KeyNotFound) => Ok(None),
            other => other.map(Some).map_err(|e| self.error("read", e)),
        }
    }

    /// The keys of a picture under which the map has something else, and those that the picture does not have. The
    /// picture's keys are the map's, or say more.
    pub(super) fn differing<P: Ord + Clone>(
        &self,
        picture: &SharedMap<P, V>,
        known: impl Fn(K) -> P,
        key: impl Fn(&P) -> Option<K>,
    ) -> Result<Vec<P>, DatapathError>
    where
        V: PartialEq,
    {
        let mut differing = Vec::new();
        // The map changes meanwhile, and a walk begins anew where its place is gone: no walk is longer than this.
        for found in self.map.keys().take(2 * self.limit as usize) {
            let found = known(found.map_err(|e| self.error("read", e))?);
            if !picture.contains_key(&found) {
                differing.push(found);
            }
        }
        for (name, value) in picture {
            if let Some(key) = key(name)
                && self.get(&key)?.as_ref() != Some(value)
            {
                differing.push(name.clone());
            }
        }
        Ok(differing)
    }

    pub(super) fn dump<C: FromIterator<(K, V)>>(&self) -> Result<C, DatapathError> {
        self.map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|e| self.error("read", e))
    }

    fn error(&self, operation: &'static str, error: MapError) -> DatapathError {
        explain(operation, error, (self.name, self.limit, self.constant))
    }
}

/// The map's name, limit and the limit's name say where it happened.
fn explain(
    operation: &'static str,
    error: MapError,
    (map, limit, constant): (&'static str, u32, &'static str),
) -> DatapathError {
    // The kernel answers E2BIG (hash) or ENOSPC (trie) when max_entries is reached, ENOMEM when memory is.
    if matches!(errno(&error), Some(libc::E2BIG | libc::ENOSPC)) {
        return DatapathError::Full { map, limit, constant };
    }
    let source = match errno(&error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    };
    DatapathError::Syscall {
        operation,
        object: format!("map {map}"),
        source,
    }
}

/// The trie of prefixes.
pub(super) struct Sources(LpmTrie<MapData, [u8; 8], u32>);

impl Sources {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapError> {
        let data = MapData::from_pin(pins.maps().join("SOURCES"))?;
        Ok(Sources(LpmTrie::try_from(Map::LpmTrie(data))?))
    }

    pub(super) fn set(&mut self, key: SourceKey, verdict: u32) -> Result<(), DatapathError> {
        let key = lpm_trie::Key::new(LIST_BITS + key.bits, key.data());
        self.0
            .insert(&key, verdict, 0)
            .map_err(|e| Self::error("update", e))
    }

    pub(super) fn delete(&mut self, key: SourceKey) -> Result<(), DatapathError> {
        let key = lpm_trie::Key::new(LIST_BITS + key.bits, key.data());
        match self.0.remove(&key) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(e) if errno(&e) == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(|e| Self::error("delete", e)),
        }
    }

    pub(super) fn dump<C: FromIterator<(SourceKey, u32)>>(&self) -> Result<C, DatapathError> {
        let read = |entry: Result<(lpm_trie::Key<[u8; 8]>, u32), MapError>| {
            let (key, verdict) = entry?;
            Ok((SourceKey::from_data(key.data(), key.prefix_len()), verdict))
        };
        self.0
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(|e| Self::error("read", e))
    }

    fn error(operation: &'static str, error: MapError) -> DatapathError {
        explain(operation, error, ("SOURCES", SOURCES_MAX, "SOURCES_MAX"))
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}
