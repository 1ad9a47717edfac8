// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reconciler's door to the kernel: pinned maps and the tasks' tc links.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{Map, MapData, MapError, PerCpuArray},
};
use proxy_ebpf::abi::{
    Backend, Counter, Frontend, FrontendKey, FrontendKey6, LocalAddr, LocalTask, Scope, SlotKey, SourceKey,
    TableBlock, TableKey, flow::GENERATION_MAX, limits::*, tally::forget_opened,
};

use super::{
    attach,
    object::{Object, ObjectError},
    pins::Pins,
    shared::Shared,
    tables::{Sources, Table},
};
use crate::reconcile::{
    datapath::{Comparer, Datapath, DatapathError, Realized, Suspects},
    key::FrontKey,
};
use crate::shared_map::SharedMap;

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

/// The maps that the reconciler writes, and the links that it makes.
struct Maps {
    frontends: Table<FrontendKey, Frontend>,
    frontends6: Table<FrontendKey6, Frontend>,
    slots: Table<SlotKey, u32>,
    backends: Table<u32, Backend>,
    scopes: Table<u64, Scope>,
    local_addrs: Table<u32, LocalAddr>,
    local_tasks: Table<u32, LocalTask>,
    tables: Table<TableKey, TableBlock>,
    sources: Sources,
    links: PathBuf,
}

/// The maps and links of one agent.
pub struct Dataplane {
    maps: Maps,
    /// None if an earlier build has made it otherwise: then a backend inherits what was opened under its number.
    tallies: Option<Shared<AtomicU64>>,
    generation: Generation,
    vip_network: u32,
    pins: Pins,
    object: Object,
}

/// Prefix of the names of tasks' links; the interface index follows.
const TASK_LINK: &str = "task-";

impl Maps {
    fn open(pins: &Pins) -> Result<Maps, MapError> {
        Ok(Maps {
            frontends: Table::open(pins, "FRONTENDS", FRONTENDS_MAX, "FRONTENDS_MAX")?,
            frontends6: Table::open(pins, "FRONTENDS6", FRONTENDS_MAX, "FRONTENDS_MAX")?,
            slots: Table::open(pins, "SLOTS", SLOTS_MAX, "SLOTS_MAX")?,
            tables: Table::open(pins, "TABLES", TABLE_BLOCKS_MAX, "TABLE_BLOCKS_MAX")?,
            sources: Sources::open(pins)?,
            backends: Table::open(pins, "BACKENDS", BACKENDS_MAX, "BACKENDS_MAX")?,
            scopes: Table::open(pins, "SCOPES", SCOPES_MAX, "SCOPES_MAX")?,
            local_addrs: Table::open(pins, "LOCAL_ADDRS", LOCAL_ADDRS_MAX, "LOCAL_ADDRS_MAX")?,
            local_tasks: Table::open(pins, "LOCAL_TASKS", LOCAL_TASKS_MAX, "LOCAL_TASKS_MAX")?,
            links: pins.links(),
        })
    }

    /// What there is not much of; the rest is empty.
    fn few(&self) -> Result<Realized, DatapathError> {
        Ok(Realized {
            sources: self.sources.dump()?,
            scopes: self.scopes.dump()?,
            local_addrs: self.local_addrs.dump()?,
            local_tasks: self.local_tasks.dump()?,
            ..Realized::default()
        })
    }

    fn few_differ(&self, picture: &Realized) -> Result<bool, DatapathError> {
        let few = self.few()?;
        Ok(few.sources != picture.sources
            || few.scopes != picture.scopes
            || few.local_addrs != picture.local_addrs
            || few.local_tasks != picture.local_tasks
            || !self.task_links()?.1.eq(&picture.task_links))
    }

    /// Names of tasks' links that hold nothing because their veth is gone, and the interfaces of the others.
    fn task_links(&self) -> Result<(Vec<String>, BTreeSet<u32>), DatapathError> {
        let (mut dead, mut attached) = (Vec::new(), BTreeSet::new());
        for name in attach::names(&self.links).map_err(unread)? {
            let Some(ifindex) = name.strip_prefix(TASK_LINK).and_then(|n| n.parse().ok()) else {
                continue;
            };
            if attach::is_attached(&self.links, &name, ifindex) {
                attached.insert(ifindex);
            } else {
                dead.push(name);
            }
        }
        Ok((dead, attached))
    }

    /// Reads everything and keeps what differs.
    fn compare(&self, picture: &Realized) -> Result<Suspects, DatapathError> {
        let v4 = |key: &FrontKey| match key {
            FrontKey::V4(key) => Some(*key),
            FrontKey::V6(_) => None,
        };
        let v6 = |key: &FrontKey| match key {
            FrontKey::V6(key) => Some(*key),
            FrontKey::V4(_) => None,
        };
        let mut frontends = self.frontends.differing(&picture.frontends, FrontKey::V4, v4)?;
        frontends.extend(self.frontends6.differing(&picture.frontends, FrontKey::V6, v6)?);
        Ok(Suspects {
            frontends,
            slots: self
                .slots
                .differing(&picture.slots, |key| key, |key| Some(*key))?,
            tables: self
                .tables
                .differing(&picture.tables, |key| key, |key| Some(*key))?,
            backends: self
                .backends
                .differing(&picture.backends, |id| id, |id| Some(*id))?,
            few: self.few_differ(picture)?,
        })
    }

    fn is_as(&self, picture: &Realized, suspects: &Suspects) -> Result<bool, DatapathError> {
        for key in &suspects.frontends {
            let found = match key {
                FrontKey::V4(key) => self.frontends.get(key)?,
                FrontKey::V6(key) => self.frontends6.get(key)?,
            };
            if found.as_ref() != picture.frontends.get(key) {
                return Ok(false);
            }
        }
        Ok(agree(&self.slots, &picture.slots, &suspects.slots)?
            && agree(&self.tables, &picture.tables, &suspects.tables)?
            && agree(&self.backends, &picture.backends, &suspects.backends)?
            && !(suspects.few && self.few_differ(picture)?))
    }
}

fn unread(source: io::Error) -> DatapathError {
    DatapathError::Syscall {
        operation: "read",
        object: "links".into(),
        source,
    }
}

/// Whether a map has under these keys what a picture has.
fn agree<K: Pod + Ord, V: Pod + PartialEq>(
    table: &Table<K, V>,
    picture: &SharedMap<K, V>,
    keys: &[K],
) -> Result<bool, DatapathError> {
    for key in keys {
        if table.get(key)?.as_ref() != picture.get(key) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Dataplane {
    /// Opens the pinned maps.
    pub fn open(pins: &Pins, object: Object, vip_network: u32) -> Result<Dataplane, MapError> {
        Ok(Dataplane {
            maps: Maps::open(pins)?,
            tallies: Shared::map(pins, "ACTIVE").ok(),
            generation: Generation::open(pins).map_err(MapError::IoError)?,
            vip_network,
            pins: pins.clone(),
            object,
        })
    }
}

impl Datapath for Dataplane {
    fn vip_network(&self) -> u32 {
        self.vip_network
    }
    fn set_frontend(&mut self, key: FrontKey, value: Frontend) -> Result<(), DatapathError> {
        let done = match key {
            FrontKey::V4(key) => self.maps.frontends.set(key, value),
            FrontKey::V6(key) => self.maps.frontends6.set(key, value),
        };
        self.generation.next();
        done
    }
    fn delete_frontend(&mut self, key: FrontKey) -> Result<(), DatapathError> {
        let done = match key {
            FrontKey::V4(key) => self.maps.frontends.delete(key),
            FrontKey::V6(key) => self.maps.frontends6.delete(key),
        };
        self.generation.next();
        done
    }
    fn set_slot(&mut self, key: SlotKey, backend: u32) -> Result<(), DatapathError> {
        self.maps.slots.set(key, backend)
    }
    fn delete_slot(&mut self, key: SlotKey) -> Result<(), DatapathError> {
        self.maps.slots.delete(key)
    }
    fn set_table(&mut self, key: TableKey, value: TableBlock) -> Result<(), DatapathError> {
        self.maps.tables.set(key, value)
    }
    fn delete_table(&mut self, key: TableKey) -> Result<(), DatapathError> {
        self.maps.tables.delete(key)
    }
    fn set_source(&mut self, key: SourceKey, verdict: u32) -> Result<(), DatapathError> {
        self.maps.sources.set(key, verdict)
    }
    fn delete_source(&mut self, key: SourceKey) -> Result<(), DatapathError> {
        self.maps.sources.delete(key)
    }
    fn set_backend(&mut self, id: u32, value: Backend) -> Result<(), DatapathError> {
        let done = self.maps.backends.set(id, value);
        self.generation.next();
        done
    }
    fn delete_backend(&mut self, id: u32) -> Result<(), DatapathError> {
        let done = self.maps.backends.delete(id);
        self.generation.next();
        done?;
        if let Some(word) = self.tallies.as_ref().and_then(|all| all.get(id as usize)) {
            // Flows that it still has are counted out one by one; who gets the number next begins at 0 opened.
            word.fetch_add(forget_opened(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        Ok(())
    }
    fn set_scope(&mut self, cookie: u64, value: Scope) -> Result<(), DatapathError> {
        self.maps.scopes.set(cookie, value)
    }
    fn delete_scope(&mut self, cookie: u64) -> Result<(), DatapathError> {
        self.maps.scopes.delete(cookie)
    }
    fn set_local_addr(&mut self, addr_be: u32, value: LocalAddr) -> Result<(), DatapathError> {
        let done = self.maps.local_addrs.set(addr_be, value);
        self.generation.next();
        done
    }
    fn delete_local_addr(&mut self, addr_be: u32) -> Result<(), DatapathError> {
        let done = self.maps.local_addrs.delete(addr_be);
        self.generation.next();
        done
    }
    fn set_local_task(&mut self, id: u32, value: LocalTask) -> Result<(), DatapathError> {
        self.maps.local_tasks.set(id, value)
    }
    fn delete_local_task(&mut self, id: u32) -> Result<(), DatapathError> {
        self.maps.local_tasks.delete(id)
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
            &self.maps.links,
            &format!("{TASK_LINK}{ifindex}"),
            &mut program,
            ifindex,
        )
        .map(|_| ())
        .map_err(|e| error(io::Error::other(e)))
    }

    fn detach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        attach::detach(&self.maps.links, &format!("{TASK_LINK}{ifindex}")).map_err(|source| {
            DatapathError::Syscall {
                operation: "detach",
                object: format!("task veth {ifindex}"),
                source,
            }
        })
    }

    /// Through other descriptors of the maps, so that nobody waits for anybody.
    fn comparer(&self) -> Option<Comparer> {
        let pins = self.pins.clone();
        Some(Box::new(move |picture| {
            let maps = Maps::open(&pins).map_err(|e| DatapathError::Syscall {
                operation: "open",
                object: "maps".into(),
                source: io::Error::other(e),
            })?;
            maps.compare(picture)
        }))
    }

    fn is_as(&mut self, picture: &Realized, suspects: &Suspects) -> Result<bool, DatapathError> {
        self.maps.is_as(picture, suspects)
    }

    fn dump(&mut self) -> Result<Realized, DatapathError> {
        let frontends: Vec<_> = self.maps.frontends.dump()?;
        let frontends = frontends
            .into_iter()
            .map(|(key, value)| (FrontKey::V4(key), value));
        let frontends6: Vec<_> = self.maps.frontends6.dump()?;
        let frontends6 = frontends6
            .into_iter()
            .map(|(key, value)| (FrontKey::V6(key), value));
        let mut realized = Realized {
            frontends: frontends.chain(frontends6).collect(),
            slots: self.maps.slots.dump()?,
            tables: self.maps.tables.dump()?,
            backends: self.maps.backends.dump()?,
            ..self.maps.few()?
        };
        let (dead, attached) = self.maps.task_links()?;
        for name in dead {
            attach::detach(&self.maps.links, &name).map_err(unread)?;
        }
        realized.task_links = attached;
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
