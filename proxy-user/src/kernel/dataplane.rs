// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reconciler's door to the kernel: pinned maps and the tasks' tc links.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie},
};
use proxy_ebpf::abi::{
    Backend, Counter, Frontend, FrontendKey, FrontendKey6, LocalAddr, LocalTask, Scope, SlotKey, SourceKey,
    TableBlock, TableKey, flow::GENERATION_MAX, limits::*, schedule::LIST_BITS, tally::forget_opened,
};

use super::{
    attach,
    object::{Object, ObjectError},
    pins::Pins,
    shared::Shared,
};
use crate::reconcile::{
    datapath::{Datapath, DatapathError, Realized},
    key::FrontKey,
};

/// A pinned hash map with its name and limit, for errors.
struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
    limit: u32,
    constant: &'static str,
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    fn open(pins: &Pins, name: &'static str, limit: u32, constant: &'static str) -> Result<Self, MapError> {
        let data = MapData::from_pin(pins.maps().join(name))?;
        Ok(Table {
            map: HashMap::try_from(Map::HashMap(data))?,
            name,
            limit,
            constant,
        })
    }

    fn set(&mut self, key: K, value: V) -> Result<(), DatapathError> {
        self.map
            .insert(key, value, 0)
            .map_err(|e| self.error("update", e))
    }

    fn delete(&mut self, key: K) -> Result<(), DatapathError> {
        match self.map.remove(&key) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(e) if errno(&e) == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(|e| self.error("delete", e)),
        }
    }

    fn dump<C: FromIterator<(K, V)>>(&self) -> Result<C, DatapathError> {
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
struct Sources(LpmTrie<MapData, [u8; 8], u32>);

impl Sources {
    fn open(pins: &Pins) -> Result<Self, MapError> {
        let data = MapData::from_pin(pins.maps().join("SOURCES"))?;
        Ok(Sources(LpmTrie::try_from(Map::LpmTrie(data))?))
    }

    fn set(&mut self, key: SourceKey, verdict: u32) -> Result<(), DatapathError> {
        let key = lpm_trie::Key::new(LIST_BITS + key.bits, key.data());
        self.0
            .insert(&key, verdict, 0)
            .map_err(|e| Self::error("update", e))
    }

    fn delete(&mut self, key: SourceKey) -> Result<(), DatapathError> {
        let key = lpm_trie::Key::new(LIST_BITS + key.bits, key.data());
        match self.0.remove(&key) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(e) if errno(&e) == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(|e| Self::error("delete", e)),
        }
    }

    fn dump<C: FromIterator<(SourceKey, u32)>>(&self) -> Result<C, DatapathError> {
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

/// The number that tells the programs that the tables have changed: what they have found out before is looked up
/// again. Counted after each change, and when an agent begins, because the one before may have died between the two.
struct Generation(Shared<AtomicU64>);

impl Generation {
    fn open(pins: &Pins) -> io::Result<Generation> {
        let generation = Generation(Shared::map(pins, "GENERATION")?);
        generation.next();
        Ok(generation)
    }

    /// Only one agent writes it.
    fn next(&self) {
        if let Some(number) = self.0.get(0) {
            let now = number.load(Ordering::Relaxed) % u64::from(GENERATION_MAX);
            number.store(now + 1, Ordering::Release);
        }
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

/// The maps and links of one agent.
pub struct Dataplane {
    frontends: Table<FrontendKey, Frontend>,
    frontends6: Table<FrontendKey6, Frontend>,
    slots: Table<SlotKey, u32>,
    backends: Table<u32, Backend>,
    scopes: Table<u64, Scope>,
    local_addrs: Table<u32, LocalAddr>,
    local_tasks: Table<u32, LocalTask>,
    tables: Table<TableKey, TableBlock>,
    sources: Sources,
    /// None if an earlier build has made it otherwise: then a backend inherits what was opened under its number.
    tallies: Option<Shared<AtomicU64>>,
    generation: Generation,
    links: PathBuf,
    object: Object,
}

/// Prefix of the names of tasks' links; the interface index follows.
const TASK_LINK: &str = "task-";

impl Dataplane {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins, object: Object) -> Result<Dataplane, MapError> {
        Ok(Dataplane {
            frontends: Table::open(pins, "FRONTENDS", FRONTENDS_MAX, "FRONTENDS_MAX")?,
            frontends6: Table::open(pins, "FRONTENDS6", FRONTENDS_MAX, "FRONTENDS_MAX")?,
            slots: Table::open(pins, "SLOTS", SLOTS_MAX, "SLOTS_MAX")?,
            tables: Table::open(pins, "TABLES", TABLE_BLOCKS_MAX, "TABLE_BLOCKS_MAX")?,
            sources: Sources::open(pins)?,
            backends: Table::open(pins, "BACKENDS", BACKENDS_MAX, "BACKENDS_MAX")?,
            scopes: Table::open(pins, "SCOPES", SCOPES_MAX, "SCOPES_MAX")?,
            local_addrs: Table::open(pins, "LOCAL_ADDRS", LOCAL_ADDRS_MAX, "LOCAL_ADDRS_MAX")?,
            local_tasks: Table::open(pins, "LOCAL_TASKS", LOCAL_TASKS_MAX, "LOCAL_TASKS_MAX")?,
            tallies: Shared::map(pins, "ACTIVE").ok(),
            generation: Generation::open(pins).map_err(MapError::IoError)?,
            links: pins.links(),
            object,
        })
    }
}

impl Datapath for Dataplane {
    fn set_frontend(&mut self, key: FrontKey, value: Frontend) -> Result<(), DatapathError> {
        let done = match key {
            FrontKey::V4(key) => self.frontends.set(key, value),
            FrontKey::V6(key) => self.frontends6.set(key, value),
        };
        self.generation.next();
        done
    }
    fn delete_frontend(&mut self, key: FrontKey) -> Result<(), DatapathError> {
        let done = match key {
            FrontKey::V4(key) => self.frontends.delete(key),
            FrontKey::V6(key) => self.frontends6.delete(key),
        };
        self.generation.next();
        done
    }
    fn set_slot(&mut self, key: SlotKey, backend: u32) -> Result<(), DatapathError> {
        self.slots.set(key, backend)
    }
    fn delete_slot(&mut self, key: SlotKey) -> Result<(), DatapathError> {
        self.slots.delete(key)
    }
    fn set_table(&mut self, key: TableKey, value: TableBlock) -> Result<(), DatapathError> {
        self.tables.set(key, value)
    }
    fn delete_table(&mut self, key: TableKey) -> Result<(), DatapathError> {
        self.tables.delete(key)
    }
    fn set_source(&mut self, key: SourceKey, verdict: u32) -> Result<(), DatapathError> {
        self.sources.set(key, verdict)
    }
    fn delete_source(&mut self, key: SourceKey) -> Result<(), DatapathError> {
        self.sources.delete(key)
    }
    fn set_backend(&mut self, id: u32, value: Backend) -> Result<(), DatapathError> {
        let done = self.backends.set(id, value);
        self.generation.next();
        done
    }
    fn delete_backend(&mut self, id: u32) -> Result<(), DatapathError> {
        let done = self.backends.delete(id);
        self.generation.next();
        done?;
        if let Some(word) = self.tallies.as_ref().and_then(|all| all.get(id as usize)) {
            // Flows that it still has are counted out one by one; who gets the number next begins at 0 opened.
            word.fetch_add(forget_opened(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        Ok(())
    }
    fn set_scope(&mut self, cookie: u64, value: Scope) -> Result<(), DatapathError> {
        self.scopes.set(cookie, value)
    }
    fn delete_scope(&mut self, cookie: u64) -> Result<(), DatapathError> {
        self.scopes.delete(cookie)
    }
    fn set_local_addr(&mut self, addr_be: u32, value: LocalAddr) -> Result<(), DatapathError> {
        let done = self.local_addrs.set(addr_be, value);
        self.generation.next();
        done
    }
    fn delete_local_addr(&mut self, addr_be: u32) -> Result<(), DatapathError> {
        let done = self.local_addrs.delete(addr_be);
        self.generation.next();
        done
    }
    fn set_local_task(&mut self, id: u32, value: LocalTask) -> Result<(), DatapathError> {
        self.local_tasks.set(id, value)
    }
    fn delete_local_task(&mut self, id: u32) -> Result<(), DatapathError> {
        self.local_tasks.delete(id)
    }

    fn attach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let error = |source| DatapathError::Syscall {
            operation: "attach",
            object: format!("task veth {ifindex}"),
            source,
        };
        let mut program = self
            .object
            .tc("portico_task")
            .map_err(|e: ObjectError| error(io::Error::other(e)))?;
        attach::ingress(
            &self.links,
            &format!("{TASK_LINK}{ifindex}"),
            &mut program,
            ifindex,
        )
        .map(|_| ())
        .map_err(|e| error(io::Error::other(e)))
    }

    fn detach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        attach::detach(&self.links, &format!("{TASK_LINK}{ifindex}")).map_err(|source| {
            DatapathError::Syscall {
                operation: "detach",
                object: format!("task veth {ifindex}"),
                source,
            }
        })
    }

    fn dump(&mut self) -> Result<Realized, DatapathError> {
        let frontends: Vec<_> = self.frontends.dump()?;
        let frontends = frontends
            .into_iter()
            .map(|(key, value)| (FrontKey::V4(key), value));
        let frontends6: Vec<_> = self.frontends6.dump()?;
        let frontends6 = frontends6
            .into_iter()
            .map(|(key, value)| (FrontKey::V6(key), value));
        let mut realized = Realized {
            frontends: frontends.chain(frontends6).collect(),
            slots: self.slots.dump()?,
            tables: self.tables.dump()?,
            sources: self.sources.dump()?,
            backends: self.backends.dump()?,
            scopes: self.scopes.dump()?,
            local_addrs: self.local_addrs.dump()?,
            local_tasks: self.local_tasks.dump()?,
            ..Realized::default()
        };
        let error = |source| DatapathError::Syscall {
            operation: "read",
            object: "links".into(),
            source,
        };
        for name in attach::names(&self.links).map_err(error)? {
            let Some(ifindex) = name.strip_prefix(TASK_LINK).and_then(|n| n.parse().ok()) else {
                continue;
            };
            if attach::is_attached(&self.links, &name, ifindex) {
                realized.task_links.insert(ifindex);
            } else {
                // Its veth is gone: the link holds nothing.
                attach::detach(&self.links, &name).map_err(error)?;
            }
        }
        Ok(realized)
    }
}

/// Reads the counters, summed over the CPUs.
pub fn counters(pins: &Pins) -> io::Result<Vec<(String, u64)>> {
    let data = MapData::from_pin(pins.maps().join("COUNTERS")).map_err(io::Error::other)?;
    let map: PerCpuArray<MapData, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(io::Error::other)?;
    Counter::ALL
        .iter()
        .map(|counter| {
            let values = map.get(&(*counter as u32), 0).map_err(io::Error::other)?;
            Ok((counter.name().to_owned(), values.iter().sum()))
        })
        .collect()
}
