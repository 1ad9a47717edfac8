// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs' events, and the word that tells the programs to send them.
//!
//! Life of a watch: set when somebody begins to observe, set again every second, because it runs out by itself after
//! [`Watch::TICKS`]; taken back when nobody is left. An agent that was killed leaves one that runs out, and the next
//! agent takes it back at once.

use std::io;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use proxy_ebpf::abi::{Backend, Counter, Event, Watch};

use super::{mirror::Mirror, pins::Pins};

/// Where events come from. There is one reader at a time.
pub trait Source: Send {
    /// From now on: one of `flows` new flows (0 = none), and what is dropped or refused.
    fn watch(&mut self, flows: u32, drops: bool) -> io::Result<()>;
    /// Takes out the events that are there; the backend is looked up.
    fn drain(&mut self, visit: &mut dyn FnMut(Event, Option<Backend>));
    /// Events that were lost since the node started.
    fn lost(&self) -> io::Result<u64>;
}

/// The pinned ring.
pub struct Ring {
    events: RingBuf<MapData>,
    watch: Array<MapData, Watch>,
    backends: HashMap<MapData, u32, Backend>,
    counters: PerCpuArray<MapData, u64>,
}

fn data(pins: &Pins, name: &str) -> io::Result<MapData> {
    MapData::from_pin(pins.maps().join(name)).map_err(io::Error::other)
}

fn watch(pins: &Pins) -> io::Result<Array<MapData, Watch>> {
    Array::try_from(Map::Array(data(pins, "WATCH")?)).map_err(io::Error::other)
}

/// Takes back what an earlier agent wanted to be told.
pub fn quiet(pins: &Pins) -> io::Result<()> {
    let set = watch(pins)?.set(0, Watch::default(), 0);
    set.map_err(io::Error::other)
}

impl Ring {
    /// Opens it, and forgets what nobody read.
    pub fn open(pins: &Pins) -> io::Result<Self> {
        let mut events = RingBuf::try_from(Map::RingBuf(data(pins, "EVENTS")?)).map_err(io::Error::other)?;
        while events.next().is_some() {}
        Ok(Self {
            events,
            watch: watch(pins)?,
            backends: HashMap::try_from(Map::HashMap(data(pins, "BACKENDS")?)).map_err(io::Error::other)?,
            counters: PerCpuArray::try_from(Map::PerCpuArray(data(pins, "COUNTERS")?))
                .map_err(io::Error::other)?,
        })
    }
}

impl Source for Ring {
    fn watch(&mut self, flows: u32, drops: bool) -> io::Result<()> {
        let watch = Watch {
            flows,
            drops: drops.into(),
            until: Mirror::now().wrapping_add(Watch::TICKS),
            _pad: 0,
        };
        self.watch.set(0, watch, 0).map_err(io::Error::other)
    }

    fn drain(&mut self, visit: &mut dyn FnMut(Event, Option<Backend>)) {
        while let Some(item) = self.events.next() {
            if item.len() < size_of::<Event>() {
                continue;
            }
            // SAFETY: long enough, and every pattern of bytes is an Event.
            let event: Event = unsafe { item.as_ptr().cast::<Event>().read_unaligned() };
            drop(item);
            let backend = (event.backend != 0).then(|| self.backends.get(&event.backend, 0).ok());
            visit(event, backend.flatten());
        }
    }

    fn lost(&self) -> io::Result<u64> {
        let values = self.counters.get(&(Counter::EventsLost as u32), 0);
        Ok(values.map_err(io::Error::other)?.iter().sum())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // If this fails it runs out by itself.
        let _ = self.watch.set(0, Watch::default(), 0);
    }
}
