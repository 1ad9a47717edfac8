// SPDX-License-Identifier: MIT OR Apache-2.0
//! (desired, realized) -> operations in order. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::Bound,
};

use proxy_ebpf::abi::{
    Backend, Frontend, SlotKey, SourceKey, TableBlock, TableKey,
    limits::{BACKENDS_MAX, FRONTENDS_MAX},
    schedule::BLOCK,
};

use super::{
    datapath::Realized,
    desired::{Desired, DesiredFrontend, Ident, ident},
    ids::Ids,
    key::FrontKey,
    ops::Op,
};

/// What a group of operations is about: the place where its failure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Something shared; each operation stands alone.
    Shared,
    /// The reply program on an interface.
    Link(u32),
    /// A frontend: its operations depend on each other.
    Frontend(FrontKey),
    /// Leftovers of a crash; the operations depend on each other.
    Leftovers,
}

/// Operations that belong together. When one fails the rest of the group must not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is about.
    pub subject: Subject,
    /// In order.
    pub ops: Vec<Op>,
}

/// What to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub groups: Vec<Group>,
}

impl Plan {
    /// All operations in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.groups.iter().flat_map(|group| &group.ops)
    }
}

/// What an earlier agent left and may not be removed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// Frontends, with slots and backends.
    pub frontends: BTreeSet<FrontKey>,
    /// Scopes.
    pub scopes: BTreeSet<u64>,
    /// Tasks.
    pub local_tasks: BTreeSet<u32>,
    /// Links.
    pub task_links: BTreeSet<u32>,
    /// Backends that had no slot: whose flows they have cannot be known.
    pub orphans: BTreeSet<u32>,
}

impl Protected {
    /// Everything that there is.
    pub fn all(realized: &Realized) -> Self {
        let slotted: HashSet<u32> = realized.slots.values().copied().collect();
        Self {
            frontends: realized.frontends.keys().copied().collect(),
            scopes: realized.scopes.keys().copied().collect(),
            local_tasks: realized.local_tasks.keys().copied().collect(),
            task_links: realized.task_links.clone(),
            orphans: realized
                .backends
                .keys()
                .copied()
                .filter(|id| !slotted.contains(id))
                .collect(),
        }
    }

    /// What is wanted now needs no protection any more: when it is not wanted later, somebody said so.
    pub fn release(&mut self, desired: &Desired) {
        self.frontends.retain(|key| !desired.frontends.contains_key(key));
        self.scopes.retain(|key| !desired.scopes.contains_key(key));
        self.local_tasks
            .retain(|key| !desired.local_tasks.contains_key(key));
        self.task_links.retain(|key| !desired.task_links.contains(key));
    }
}

/// The whole plan at once.
pub fn plan(desired: &Desired, realized: &Realized, protected: &Protected, next_backend: u32) -> Plan {
    let mut planner = Planner::new(desired, realized, next_backend);
    let mut plan = Plan::default();
    while let Some(group) = planner.next(desired, realized, protected) {
        plan.groups.push(group);
    }
    plan
}

/// Compares and orders, one group after the other: two million operations at once would be most of the agent's
/// memory. A group may be performed before the next one is asked for, because no other group is about the same
/// entries.
#[derive(Debug)]
pub struct Planner {
    world: World,
    stage: Stage,
    /// What waits to be said, the next one last.
    ready: Vec<Group>,
}

/// What comes next.
#[derive(Debug)]
enum Stage {
    /// What frontends refer to.
    SetShared,
    /// The next frontend that is wanted, if one is left.
    Wanted(Option<FrontKey>),
    /// Frontends that nobody wants, the next one last.
    Unwanted(Vec<FrontKey>),
    Leftovers,
    DeleteShared,
    Done,
}

impl Planner {
    /// `next_backend` spreads backend ids, so that a flow that still has the id of a removed backend does not find
    /// another one under it.
    pub fn new(desired: &Desired, realized: &Realized, next_backend: u32) -> Self {
        Self {
            world: World::new(desired, realized, next_backend),
            stage: Stage::SetShared,
            ready: Vec::new(),
        }
    }

    /// What to do next. `realized` may have what has been done of the groups before.
    pub fn next(&mut self, desired: &Desired, realized: &Realized, protected: &Protected) -> Option<Group> {
        loop {
            if let Some(group) = self.ready.pop() {
                return Some(group);
            }
            match &mut self.stage {
                Stage::SetShared => {
                    self.ready = set_shared(desired, realized);
                    self.stage = Stage::Wanted(desired.frontends.keys().next().copied());
                }
                Stage::Wanted(Some(key)) => {
                    let key = *key;
                    if let Some(frontend) = desired.frontends.get(&key) {
                        let want = desired.frontend(key, frontend);
                        let ops = self.world.upsert(realized, key, &want);
                        self.say(Subject::Frontend(key), ops);
                    }
                    let mut after = desired.frontends.range((Bound::Excluded(key), Bound::Unbounded));
                    self.stage = Stage::Wanted(after.next().map(|(key, _)| *key));
                }
                Stage::Wanted(None) => {
                    let gone = |key: &&FrontKey| {
                        !desired.frontends.contains_key(key) && !protected.frontends.contains(key)
                    };
                    let looked_at = looked_at(desired, realized).map(|(key, _)| key);
                    let mut keys: Vec<FrontKey> = looked_at.filter(gone).copied().collect();
                    keys.reverse();
                    self.stage = Stage::Unwanted(keys);
                }
                Stage::Unwanted(keys) => match keys.pop() {
                    Some(key) => {
                        let ops = self.world.remove(realized, key);
                        self.say(Subject::Frontend(key), ops);
                    }
                    None => self.stage = Stage::Leftovers,
                },
                Stage::Leftovers => {
                    let ops = self.world.leftovers(realized, protected, desired.only.is_some());
                    self.say(Subject::Leftovers, ops);
                    self.stage = Stage::DeleteShared;
                }
                Stage::DeleteShared => {
                    self.ready = delete_shared(desired, realized, protected);
                    self.stage = Stage::Done;
                }
                Stage::Done => return None,
            }
        }
    }

    fn say(&mut self, subject: Subject, ops: Vec<Op>) {
        if !ops.is_empty() {
            self.ready.push(Group { subject, ops });
        }
    }

    /// Where the next search for a free backend id begins.
    pub fn next_backend(&self) -> u32 {
        self.world.next_backend
    }

    /// Backends without a slot that stay because they are draining, for each frontend that has any.
    pub fn unslotted(self) -> BTreeMap<FrontKey, Vec<u32>> {
        self.world.unslotted
    }
}

/// The frontends in the kernel that the plan is about.
fn looked_at<'a>(
    desired: &'a Desired,
    realized: &'a Realized,
) -> Box<dyn Iterator<Item = (&'a FrontKey, &'a Frontend)> + 'a> {
    match &desired.only {
        Some(only) => Box::new(
            only.keys
                .iter()
                .filter_map(|key| realized.frontends.get_key_value(key)),
        ),
        None => Box::new(realized.frontends.iter()),
    }
}

/// Groups in reverse order, as [`Planner::ready`] has them.
fn reversed(mut groups: Vec<Group>) -> Vec<Group> {
    groups.reverse();
    groups
}

fn alone(subject: Subject, op: Op) -> Group {
    Group {
        subject,
        ops: vec![op],
    }
}

fn set_shared(desired: &Desired, realized: &Realized) -> Vec<Group> {
    let mut groups = Vec::new();
    for (cookie, scope) in &desired.scopes {
        if realized.scopes.get(cookie) != Some(scope) {
            groups.push(alone(Subject::Shared, Op::SetScope(*cookie, *scope)));
        }
    }
    for (address, value) in &desired.local_addrs {
        if realized.local_addrs.get(address) != Some(value) {
            groups.push(alone(Subject::Shared, Op::SetLocalAddr(*address, *value)));
        }
    }
    for ifindex in desired.task_links.difference(&realized.task_links) {
        groups.push(alone(Subject::Link(*ifindex), Op::AttachTaskLink(*ifindex)));
    }
    for (id, task) in &desired.local_tasks {
        if realized.local_tasks.get(id) != Some(task) {
            groups.push(alone(Subject::Shared, Op::SetLocalTask(*id, *task)));
        }
    }
    reversed(groups)
}

fn delete_shared(desired: &Desired, realized: &Realized, protected: &Protected) -> Vec<Group> {
    let mut groups = Vec::new();
    for id in realized.local_tasks.keys() {
        if !desired.local_tasks.contains_key(id) && !protected.local_tasks.contains(id) {
            groups.push(alone(Subject::Shared, Op::DeleteLocalTask(*id)));
        }
    }
    for ifindex in &realized.task_links {
        if !desired.task_links.contains(ifindex) && !protected.task_links.contains(ifindex) {
            groups.push(alone(Subject::Shared, Op::DetachTaskLink(*ifindex)));
        }
    }
    for cookie in realized.scopes.keys() {
        if !desired.scopes.contains_key(cookie) && !protected.scopes.contains(cookie) {
            groups.push(alone(Subject::Shared, Op::DeleteScope(*cookie)));
        }
    }
    for address in realized.local_addrs.keys() {
        if !desired.local_addrs.contains_key(address) {
            groups.push(alone(Subject::Shared, Op::DeleteLocalAddr(*address)));
        }
    }
    reversed(groups)
}

/// Who has which ids, worked out from what is in the kernel, and changed while the plan is made.
#[derive(Debug)]
struct World {
    /// Visible slots of every frontend whose id is its own; `None` for a slot that names nothing usable.
    slots: HashMap<FrontKey, Vec<Option<u32>>>,
    /// Backends that no visible slot names, by identity.
    orphans: BTreeMap<Ident, VecDeque<u32>>,
    /// What stays without a slot.
    unslotted: BTreeMap<FrontKey, Vec<u32>>,
    used_frontends: Ids,
    new_backends: HashSet<u32>,
    next_backend: u32,
}

impl World {
    fn new(desired: &Desired, realized: &Realized, next_backend: u32) -> Self {
        let mut world = Self {
            slots: HashMap::new(),
            orphans: BTreeMap::new(),
            unslotted: BTreeMap::new(),
            used_frontends: Ids::default(),
            new_backends: HashSet::new(),
            next_backend,
        };
        let mut owned: HashSet<u32> = HashSet::new();
        // What is wanted comes first: should two frontends have one id (nobody writes that, but maps can be
        // edited), the one that stays keeps it.
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            looked_at(desired, realized).partition(|(key, _)| desired.frontends.contains_key(key));
        for (key, frontend) in wanted.into_iter().chain(unwanted) {
            if frontend.id >= FRONTENDS_MAX || !world.used_frontends.insert(frontend.id) {
                continue;
            }
            let mut slots = vec![None; frontend.slots.min(BACKENDS_MAX) as usize];
            for (slot, backend) in realized.slots.range(range(frontend.id)) {
                let usable = realized.backends.contains_key(backend);
                if let Some(place) = slots.get_mut(slot.index as usize)
                    && usable
                    && owned.insert(*backend)
                {
                    *place = Some(*backend);
                }
            }
            world.slots.insert(*key, slots);
        }
        if let Some(only) = &desired.only {
            // All other frontends are as they should be: no id of theirs is free, no backend without a slot.
            world.used_frontends = only.taken.clone();
            for id in &only.unslotted {
                if let Some(backend) = realized.backends.get(id) {
                    world.orphans.entry(ident(backend)).or_default().push_back(*id);
                }
            }
            return world;
        }
        for (id, backend) in &realized.backends {
            if !owned.contains(id) {
                world.orphans.entry(ident(backend)).or_default().push_back(*id);
            }
        }
        world
    }

    fn upsert(&mut self, realized: &Realized, key: FrontKey, want: &DesiredFrontend) -> Vec<Op> {
        let mine = self.slots.remove(&key);
        let id = match (&mine, realized.frontends.get(&key)) {
            (Some(_), Some(frontend)) => frontend.id,
            _ => self.new_frontend(),
        };
        let old = mine.unwrap_or_default();
        let mut ops = Vec::new();
        if is_as_wanted(realized, key, id, &old, want) {
            return ops;
        }

        // 1. Backends.
        let mut by_ident: HashMap<Ident, u32> = HashMap::with_capacity(old.len());
        let mut surplus: Vec<u32> = Vec::new();
        for backend in old.iter().flatten() {
            let identity = ident(&realized.backends[backend]);
            if by_ident.insert(identity, *backend).is_some() {
                surplus.push(*backend);
            }
        }
        let mut active: Vec<u32> = Vec::with_capacity(want.active.len());
        for value in &want.active {
            let backend = self
                .backend(&mut by_ident, ident(value))
                .unwrap_or_else(|| self.new_backend(realized));
            if realized.backends.get(&backend) != Some(value) {
                ops.push(Op::SetBackend(backend, *value));
            }
            active.push(backend);
        }
        for value in &want.draining {
            let Some(backend) = self.backend(&mut by_ident, ident(value)) else {
                continue;
            };
            if realized.backends.get(&backend) != Some(value) {
                ops.push(Op::SetBackend(backend, *value));
            }
            self.unslotted.entry(key).or_default().push(backend);
        }
        surplus.extend(by_ident.into_values());

        // 2. Slots in place.
        let layout = layout(&old, &active);
        for (index, backend) in layout.iter().enumerate() {
            let slot = SlotKey {
                frontend: id,
                index: index as u32,
            };
            if realized.slots.get(&slot) != Some(backend) {
                ops.push(Op::SetSlot(slot, *backend));
            }
        }

        // 3. Table and list, each where it is or under the number that is not in use.
        let current = realized
            .frontends
            .get(&key)
            .copied()
            .filter(|current| current.id == id);
        let blocks = blocks(&want.table, &active);
        let table = number(
            id,
            current.map_or(0, |current| current.table),
            want.table.is_empty(),
            |number| {
                let there = realized
                    .tables
                    .range(blocks_of(number))
                    .map(|(key, block)| (key.block, block));
                there.eq((0..).zip(&blocks))
            },
        );
        if current.is_none_or(|current| current.table != table) {
            for (block, value) in (0..).zip(&blocks) {
                let key = TableKey { table, block };
                if realized.tables.get(&key) != Some(value) {
                    ops.push(Op::SetTable(key, *value));
                }
            }
        }
        let listed = |list: u32| -> BTreeMap<SourceKey, u32> {
            let key = |addr_be: u32, bits: u32| SourceKey { list, addr_be, bits };
            want.sources
                .iter()
                .map(|(addr_be, bits, verdict)| (key(*addr_be, *bits), *verdict))
                .collect()
        };
        let sources = number(
            id,
            current.map_or(0, |current| current.sources),
            want.sources.is_empty(),
            |number| realized.sources.range(prefixes_of(number)).eq(&listed(number)),
        );
        if current.is_none_or(|current| current.sources != sources) {
            // A list that a crash left under this number may have more than is wanted.
            let wanted = listed(sources);
            let surplus = realized.sources.range(prefixes_of(sources));
            let surplus = surplus.filter(|(key, _)| !wanted.contains_key(key) && sources != 0);
            ops.extend(surplus.map(|(key, _)| Op::DeleteSource(*key)));
            for (key, verdict) in &wanted {
                if sources != 0 && realized.sources.get(key) != Some(verdict) {
                    ops.push(Op::SetSource(*key, *verdict));
                }
            }
        }

        // 4. Master entry: the change becomes visible.
        let master = Frontend {
            id,
            slots: layout.len() as u32,
            target_port_be: want.target_port_be,
            table,
            table_size: want.table.len() as u32,
            sources,
            ..want.master
        };
        if realized.frontends.get(&key) != Some(&master) {
            ops.push(Op::SetFrontend(key, master));
        }

        // 5. What the master entry does not name any more, slots above the count, backends without a reference.
        let mut stale = |keep_table: u32, keep_list: u32| {
            for number in numbers(id) {
                let of_table = realized.tables.range(blocks_of(number));
                let stale =
                    of_table.filter(|(key, _)| number != keep_table || key.block as usize >= blocks.len());
                ops.extend(stale.map(|(key, _)| Op::DeleteTable(*key)));
                if number != keep_list {
                    ops.extend(
                        realized
                            .sources
                            .range(prefixes_of(number))
                            .map(|(key, _)| Op::DeleteSource(*key)),
                    );
                }
            }
        };
        stale(table, sources);
        let above = realized.slots.range(
            SlotKey {
                frontend: id,
                index: layout.len() as u32,
            }..=end(id),
        );
        ops.extend(above.rev().map(|(slot, _)| Op::DeleteSlot(*slot)));
        surplus.sort_unstable();
        ops.extend(surplus.into_iter().map(Op::DeleteBackend));
        ops
    }

    fn remove(&mut self, realized: &Realized, key: FrontKey) -> Vec<Op> {
        let mut ops = vec![Op::DeleteFrontend(key)];
        // A frontend without slots of its own shares its id with one that stays.
        if let (Some(slots), Some(frontend)) = (self.slots.remove(&key), realized.frontends.get(&key)) {
            let of_it = realized.slots.range(range(frontend.id));
            ops.extend(of_it.rev().map(|(slot, _)| Op::DeleteSlot(*slot)));
            for number in numbers(frontend.id) {
                let blocks = realized.tables.range(blocks_of(number));
                ops.extend(blocks.map(|(key, _)| Op::DeleteTable(*key)));
                let prefixes = realized.sources.range(prefixes_of(number));
                ops.extend(prefixes.map(|(key, _)| Op::DeleteSource(*key)));
            }
            let mut backends: Vec<u32> = slots.into_iter().flatten().collect();
            backends.sort_unstable();
            ops.extend(backends.into_iter().map(Op::DeleteBackend));
        }
        ops
    }

    /// Slots, tables and lists of ids that no frontend has, and backends that nobody claimed.
    fn leftovers(&mut self, realized: &Realized, protected: &Protected, focused: bool) -> Vec<Op> {
        let slots = realized
            .slots
            .keys()
            .filter(|slot| !self.used_frontends.contains(slot.frontend));
        let mut ops: Vec<Op> = if focused {
            Vec::new()
        } else {
            let unowned = |number: u32| !self.used_frontends.contains(owner(number));
            let tables = realized.tables.keys().filter(|key| unowned(key.table));
            let lists = realized.sources.keys().filter(|key| unowned(key.list));
            slots
                .rev()
                .map(|slot| Op::DeleteSlot(*slot))
                .chain(tables.map(|key| Op::DeleteTable(*key)))
                .chain(lists.map(|key| Op::DeleteSource(*key)))
                .collect()
        };
        let mut orphans: Vec<u32> = self.orphans.values().flatten().copied().collect();
        orphans.retain(|id| !protected.orphans.contains(id));
        orphans.sort_unstable();
        ops.extend(orphans.into_iter().map(Op::DeleteBackend));
        ops
    }

    /// The id of a backend that is there already.
    fn backend(&mut self, mine: &mut HashMap<Ident, u32>, identity: Ident) -> Option<u32> {
        mine.remove(&identity)
            .or_else(|| self.orphans.get_mut(&identity)?.pop_front())
    }

    fn new_frontend(&mut self) -> u32 {
        let id = self.used_frontends.first_free();
        self.used_frontends.insert(id);
        id
    }

    fn new_backend(&mut self, realized: &Realized) -> u32 {
        // Ends: the Writer admits fewer backends than there are ids, and even if all were taken the map's own
        // limit would refuse the entry.
        for _ in 0..BACKENDS_MAX {
            let id = self.next_backend.clamp(1, BACKENDS_MAX - 1);
            self.next_backend = if id + 1 < BACKENDS_MAX { id + 1 } else { 1 };
            if !realized.backends.contains_key(&id) && self.new_backends.insert(id) {
                return id;
            }
        }
        // More than the map holds: a number outside its range, refused as full by the kernel.
        BACKENDS_MAX + self.new_backends.len() as u32
    }
}

/// Whether there is nothing to do, by one comparison of each backend. "No" may be wrong: the same backends
/// in another order are as good.
fn is_as_wanted(
    realized: &Realized,
    key: FrontKey,
    id: u32,
    old: &[Option<u32>],
    want: &DesiredFrontend,
) -> bool {
    let master = Frontend {
        id,
        slots: want.active.len() as u32,
        target_port_be: want.target_port_be,
        ..want.master
    };
    let same = |(slot, value): (&Option<u32>, &Backend)| {
        slot.is_some_and(|backend| realized.backends.get(&backend) == Some(value))
    };
    want.draining.is_empty()
        && want.table.is_empty()
        && want.sources.is_empty()
        && old.len() == want.active.len()
        && realized.frontends.get(&key) == Some(&master)
        && old.iter().zip(&want.active).all(same)
        && realized.slots.range(range(id)).count() == old.len()
        // What a crash left behind the master entry.
        && numbers(id).into_iter().all(|number| {
            realized.tables.range(blocks_of(number)).next().is_none()
                && realized.sources.range(prefixes_of(number)).next().is_none()
        })
}

/// Backends in slots: those that stay keep their slot, newcomers fill holes, then the last ones do.
fn layout(old: &[Option<u32>], active: &[u32]) -> Vec<u32> {
    let wanted: HashSet<u32> = active.iter().copied().collect();
    let mut slots: Vec<Option<u32>> = old
        .iter()
        .map(|slot| slot.filter(|id| wanted.contains(id)))
        .collect();
    let placed: HashSet<u32> = slots.iter().flatten().copied().collect();
    let mut newcomers = active.iter().copied().filter(|id| !placed.contains(id));
    for slot in &mut slots {
        if slot.is_none() {
            *slot = newcomers.next();
        }
    }
    slots.extend(newcomers.map(Some));
    let mut index = 0;
    while index < slots.len() {
        if slots[index].is_some() {
            index += 1;
        } else if slots.last().is_some_and(Option::is_none) {
            slots.pop();
        } else {
            slots.swap_remove(index);
        }
    }
    slots.into_iter().flatten().collect()
}

fn end(frontend: u32) -> SlotKey {
    SlotKey {
        frontend,
        index: u32::MAX,
    }
}

fn range(frontend: u32) -> std::ops::RangeInclusive<SlotKey> {
    SlotKey { frontend, index: 0 }..=end(frontend)
}

/// The two numbers under which a frontend's table and its list may stand: while one is in use, the next one is
/// written under the other.
fn numbers(frontend: u32) -> [u32; 2] {
    [2 * frontend + 1, 2 * frontend + 2]
}

/// The frontend whose number it is.
fn owner(number: u32) -> u32 {
    number.saturating_sub(1) / 2
}

/// The number for what is wanted: none, the one in use if it is that already, or the other one.
fn number(frontend: u32, in_use: u32, none: bool, is_as_wanted: impl Fn(u32) -> bool) -> u32 {
    let [first, second] = numbers(frontend);
    if none {
        0
    } else if in_use != 0 && is_as_wanted(in_use) {
        in_use
    } else if in_use == first {
        second
    } else {
        first
    }
}

/// A table of places as blocks of ids.
fn blocks(table: &[u32], active: &[u32]) -> Vec<TableBlock> {
    let block = |places: &[u32]| {
        let mut block = TableBlock::default();
        for (entry, place) in block.backends.iter_mut().zip(places) {
            *entry = active.get(*place as usize).copied().unwrap_or(0);
        }
        block
    };
    table.chunks(BLOCK).map(block).collect()
}

fn blocks_of(table: u32) -> std::ops::RangeInclusive<TableKey> {
    let key = |block| TableKey { table, block };
    key(0)..=key(u32::MAX)
}

fn prefixes_of(list: u32) -> std::ops::RangeInclusive<SourceKey> {
    let key = |addr_be, bits| SourceKey { list, addr_be, bits };
    key(0, 0)..=key(u32::MAX, u32::MAX)
}
