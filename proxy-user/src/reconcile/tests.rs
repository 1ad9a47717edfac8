// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about plan and apply, on a kernel in memory, with faults.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex, mpsc},
    time::Instant,
};

use proxy_ebpf::abi::{
    Backend, Frontend, LocalAddr, LocalTask, Scope, SlotKey, SourceKey, TableBlock, TableKey,
};

use super::{
    datapath::{Comparer, Datapath, DatapathError, Realized, Suspects},
    fake::{Fake, datapath_by_ops},
    faulty::Faulty,
    key::FrontKey,
    ops::Op,
    *,
};
use crate::model::{Cookie, Facts, Gateway, Tables, Writer};

/// A world from a few numbers: services with tasks on this node and another one.
struct Sketch {
    services: usize,
    tasks: usize,
    draining: usize,
    without: Vec<usize>,
    policy: &'static str,
}

impl Sketch {
    fn new(services: usize, tasks: usize) -> Self {
        Self {
            services,
            tasks,
            draining: 0,
            without: Vec::new(),
            policy: "",
        }
    }

    fn tables(&self) -> Tables {
        let mut text = String::from(
            "node = \"n1\"\n[[nodes]]\nname = \"n1\"\naddress = \"192.168.9.1\"\n[[nodes]]\nname = \"n2\"\naddress = \"192.168.9.2\"\n[[networks]]\nname = \"proxy\"\n",
        );
        let mut services = String::new();
        let mut facts = std::collections::BTreeMap::new();
        for service in 0..self.services {
            let mut names = Vec::new();
            for task in (0..self.tasks).filter(|task| !self.without.contains(task)) {
                let n = service * self.tasks + task;
                let (high, low) = (n / 250, n % 250 + 1);
                let local = task % 10 == 0;
                text += &format!(
                    "[[tasks]]\nname = \"s{service}.{task}\"\nnode = \"{}\"\nnetns = \"/ns/{n}\"\nnetworks = {{ ingress = \"10.{}.{high}.{low}\", proxy = [\"10.{}.{high}.{low}\", \"fd00:2::{high:x}:{low:x}\"] }}\nweight = {}\ndraining = {}\n",
                    if local { "n1" } else { "n2" },
                    1,
                    2,
                    1 + task % 3,
                    task < self.draining,
                );
                names.push(format!("\"s{service}.{task}\""));
                let gateway = Gateway {
                    address: Ipv4Addr::new(172, 18, high as u8, low as u8),
                    mac: [2; 6],
                    host_ifindex: 100 + n as u32,
                    gateway_mac: [4; 6],
                };
                if local {
                    facts.insert(
                        format!("/ns/{n}").into(),
                        Facts {
                            cookie: Cookie(1000 + n as u64),
                            gateway: Some(gateway),
                        },
                    );
                }
            }
            services += &format!(
                "[[services]]\nname = \"s{service}\"\nvips = {{ proxy = [\"10.3.{}.{}\", \"fd00:3::{service:x}\"] }}\nports = [{{ published = {}, target = 8080 }}]\ntasks = [{}]\n{}\n",
                service / 250,
                service % 250 + 1,
                1000 + service,
                names.join(", "),
                self.policy,
            );
        }
        let snapshot = crate::providers::file::parse("t.toml", &(text + &services), None).unwrap();
        let mut writer = Writer::new(Cookie(1));
        let refusals = writer.apply(&snapshot).to_vec();
        assert!(refusals.is_empty(), "{refusals:?}");
        writer.set_facts(facts);
        writer.set_local_addrs([Ipv4Addr::new(192, 168, 9, 1)]);
        writer.tables()
    }
}

/// Every visible slot and every entry of a visible table name an existing backend, and a local one's reply program is attached.
fn check_invariants(state: &Realized) {
    for (key, frontend) in &state.frontends {
        for backend in table_of(state, frontend) {
            assert!(state.backends.contains_key(&backend), "{}: {backend}", key);
        }
        for index in 0..frontend.slots {
            let slot = SlotKey {
                frontend: frontend.id,
                index,
            };
            let backend = state.slots.get(&slot);
            let value = backend.and_then(|id| state.backends.get(id));
            let value = value.unwrap_or_else(|| panic!("{} slot {index}: {backend:?}", key));
            assert!(
                value.ifindex == 0 || state.task_links.contains(&value.ifindex),
                "no reply program: {value:?}"
            );
        }
    }
}

/// The entries of a frontend's table, all of them.
fn table_of(state: &Realized, frontend: &Frontend) -> Vec<u32> {
    let entry = |index: u32| {
        let key = TableKey {
            table: frontend.table,
            block: index / 16,
        };
        state.tables[&key].backends[index as usize % 16]
    };
    (0..frontend.table_size).map(entry).collect()
}

/// What a frontend says of a client, and whether it has a list at all.
fn verdict(state: &Realized, key: &FrontKey, client: Ipv4Addr) -> Option<u32> {
    let frontend = state
        .frontends
        .get(key)
        .filter(|frontend| frontend.sources != 0)?;
    let longest = state.sources.iter().filter(|(source, _)| {
        let prefix = ipnet::Ipv4Net::new(Ipv4Addr::from(source.addr_be.to_ne_bytes()), source.bits as u8);
        source.list == frontend.sources && prefix.is_ok_and(|prefix| prefix.contains(&client))
    });
    longest
        .max_by_key(|(source, _)| source.bits)
        .map(|(_, verdict)| *verdict)
}

fn converge(kernel: &Fake, tables: &Tables) {
    let mut reconciler = Reconciler::restore(Box::new(kernel.clone())).unwrap();
    let pass = reconciler.pass(tables);
    assert_eq!((pass.failed, pass.retry), (0, None));
    assert_eq!(
        reconciler.plan(tables).ops().count(),
        0,
        "a second pass has nothing to do"
    );
    assert_eq!(*reconciler.mirror(), *kernel.state());
    assert!(
        reconciler
            .statuses()
            .values()
            .all(|status| *status == Status::Done)
    );
    check_invariants(&kernel.state());
}

/// Same but for ids: what a client can notice.
fn meaning(state: &Realized) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut frontends = Vec::new();
    for (key, frontend) in &state.frontends {
        let mut backends: Vec<_> = (0..frontend.slots)
            .map(|index| {
                state.backends[&state.slots[&SlotKey {
                    frontend: frontend.id,
                    index,
                }]]
            })
            .collect();
        backends.sort();
        let mut table: Vec<_> = table_of(state, frontend)
            .iter()
            .map(|id| state.backends[id])
            .collect();
        // Turns may begin with another one.
        if frontend.scheduler == proxy_ebpf::abi::frontend::ROUND_ROBIN {
            table.sort();
        }
        let sources = state
            .sources
            .iter()
            .filter(|(source, _)| source.list == frontend.sources);
        let sources = sources
            .map(|(source, verdict)| (source.addr_be, source.bits, *verdict))
            .collect::<Vec<_>>();
        let policy = (
            frontend.scheduler,
            frontend.affinity,
            frontend.flags,
            table,
            sources,
        );
        frontends.push((*key, frontend.target_port_be, backends, policy));
    }
    let rest = (
        state.scopes.clone(),
        state.local_tasks.clone(),
        state.task_links.clone(),
        state.slots.len(),
        (state.tables.len(), state.sources.len()),
    );
    (frontends, rest, state.backends.len())
}

#[test]
fn an_unchanged_world_is_an_empty_plan_also_after_a_restart() {
    let kernel = Fake::default();
    let mut sketch = Sketch::new(5, 11);
    converge(&kernel, &sketch.tables());
    sketch.draining = 3;
    let draining = sketch.tables();
    converge(&kernel, &draining);
    let before = kernel.state().clone();
    assert_eq!(
        before.backends.len(),
        5 * 11 * 3,
        "draining backends keep their entry"
    );
    let mut again = Reconciler::restore(Box::new(kernel.clone())).unwrap();
    assert_eq!(
        again
            .plan(&draining)
            .ops()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    assert_eq!(again.pass(&draining).done, 0);
    assert_eq!(*kernel.state(), before);
    // No longer draining: the same entry, with its flows, gets its slot back.
    sketch.draining = 0;
    let ids: Vec<u32> = before.backends.keys().copied().collect();
    converge(&kernel, &sketch.tables());
    assert_eq!(kernel.state().backends.keys().copied().collect::<Vec<_>>(), ids);
}

#[test]
fn removing_one_backend_touches_a_handful_of_entries() {
    let kernel = Fake::default();
    let mut sketch = Sketch::new(1, 100);
    converge(&kernel, &sketch.tables());
    sketch.without = vec![41];
    let reconciler = Reconciler::restore(Box::new(kernel.clone())).unwrap();
    let plan = reconciler.plan(&sketch.tables());
    let ops: Vec<String> = plan.ops().map(ToString::to_string).collect();
    assert_eq!(ops.len(), 3 * 4, "two VIPs and a published port: {ops:#?}");
    converge(&kernel, &sketch.tables());
}

#[test]
fn faults_delay_and_do_not_harm() {
    for seed in 1..20 {
        let kernel = Fake::default();
        let mut sketch = Sketch::new(4, 12);
        for step in 0..4 {
            match step {
                1 => sketch.without = vec![0, 3, 11],
                2 => sketch.draining = 5,
                3 => sketch.services = 2,
                _ => {}
            }
            let tables = sketch.tables();
            let mut reconciler = Reconciler::restore(Box::new(Faulty::sometimes(
                kernel.clone(),
                10,
                seed * 7919 + step,
            )))
            .unwrap();
            let passes = (0..200).position(|_| {
                let pass = reconciler.pass(&tables);
                check_invariants(&kernel.state());
                pass.failed == 0
            });
            assert!(
                passes.is_some(),
                "seed {seed} step {step} does not converge: {:?}",
                reconciler.errors()
            );
            let clean = Fake::default();
            converge(&clean, &tables);
            if step < 2 {
                assert_eq!(
                    meaning(&kernel.state()),
                    meaning(&clean.state()),
                    "seed {seed} step {step}"
                );
            }
        }
    }
}

#[test]
fn a_crash_after_any_operation_leaves_whole_slots_and_is_repaired() {
    let first = Sketch::new(3, 11);
    let mut second = Sketch::new(2, 11);
    second.without = vec![0, 4, 10];
    second.draining = 3;
    let third = Sketch::new(4, 4);
    let policy = |policy, services, tasks| Sketch {
        policy,
        ..Sketch::new(services, tasks)
    };
    let weighted = policy(
        "scheduler = \"wrr\"\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]",
        2,
        7,
    );
    let mut fewer = policy(
        "scheduler = \"wrr\"\nallow = [\"10.0.0.0/8\", \"192.0.2.1\"]",
        2,
        7,
    );
    fewer.without = vec![1, 2];
    let hashed = policy(
        "scheduler = \"mh\"\nclient = \"dsr\"\ndeny = [\"10.0.0.0/8\"]",
        1,
        3,
    );
    let sticky = policy("scheduler = \"wlc\"\naffinity = \"1h/24\"", 1, 3);
    for (from, to) in [
        (&Sketch::new(0, 0), &first),
        (&first, &second),
        (&second, &third),
        (&first, &third),
        (&third, &weighted),
        (&weighted, &fewer),
        (&fewer, &hashed),
        (&hashed, &sticky),
        (&sticky, &first),
    ] {
        let (from, to) = (from.tables(), to.tables());
        let clean = Fake::default();
        converge(&clean, &from);
        let start = clean.state().clone();
        let operations = Reconciler::restore(Box::new(clean.clone()))
            .unwrap()
            .plan(&to)
            .ops()
            .count();
        assert!(operations > 5);
        converge(&clean, &to);
        for crash in 0..=operations {
            let kernel = Fake::default();
            *kernel.state() = start.clone();
            let mut dying =
                Reconciler::restore(Box::new(Faulty::crash_after(kernel.clone(), crash))).unwrap();
            dying.pass(&to);
            check_invariants(&kernel.state());
            for key in start
                .frontends
                .keys()
                .filter(|key| kernel.state().frontends.contains_key(key))
            {
                for client in [[10, 1, 0, 1], [10, 2, 0, 1], [192, 0, 2, 1], [192, 0, 2, 2]] {
                    let say = |state: &Realized| verdict(state, key, client.into());
                    let (old, new, now) = (say(&start), say(&clean.state()), say(&kernel.state()));
                    assert!(
                        now == old || now == new,
                        "crash after {crash}: {client:?} {old:?} {now:?} {new:?}"
                    );
                }
            }
            converge(&kernel, &to);
            assert!(
                meaning(&kernel.state()) == meaning(&clean.state()),
                "crash after {crash}"
            );
        }
    }
}

/// A kernel that notes what it is told.
struct Noting {
    kernel: Fake,
    told: Arc<Mutex<Vec<Op>>>,
}

impl Noting {
    fn apply(&mut self, op: Op) -> Result<(), DatapathError> {
        self.told.lock().unwrap().push(op);
        op.perform(&mut self.kernel)
    }

    fn read_back(&mut self) -> Result<Realized, DatapathError> {
        self.kernel.dump()
    }
}

datapath_by_ops!(Noting);

#[test]
fn a_group_at_a_time_is_the_whole_plan_in_its_order() {
    let mut fewer = Sketch::new(3, 11);
    (fewer.without, fewer.draining) = (vec![0, 4], 3);
    let weighted = Sketch {
        policy: "scheduler = \"wrr\"\nallow = [\"10.0.0.0/8\"]",
        ..Sketch::new(2, 7)
    };
    let steps = [
        Sketch::new(5, 11),
        fewer,
        weighted,
        Sketch::new(0, 0),
        Sketch::new(2, 3),
    ];
    let (kernel, told) = (Fake::default(), Arc::new(Mutex::new(Vec::new())));
    for sketch in steps {
        let tables = sketch.tables();
        let mirror = kernel.state().clone();
        let next = mirror.backends.last_key_value().map_or(1, |(id, _)| id + 1);
        let want = desired::desired(&tables, &BTreeSet::new(), None);
        let whole = plan::plan(&want, &mirror, &plan::Protected::default(), next);
        let noting = Noting {
            kernel: kernel.clone(),
            told: told.clone(),
        };
        let mut reconciler = Reconciler::restore(Box::new(noting)).unwrap();
        assert_eq!(reconciler.pass(&tables).failed, 0);
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert!(told.len() > 5);
        assert!(whole.ops().eq(&told), "{whole:#?}\n{told:#?}");
    }
}

#[test]
fn nothing_is_pruned_before_the_provider_has_said_everything() {
    let kernel = Fake::default();
    converge(&kernel, &Sketch::new(3, 11).tables());
    let mut tables = Sketch::new(1, 11).tables();
    tables.prune = false;
    let mut reconciler = Reconciler::restore(Box::new(kernel.clone())).unwrap();
    let before = kernel.state().clone();
    assert_eq!(reconciler.pass(&tables).done, 0);
    assert_eq!(*kernel.state(), before);
    // What this agent wanted and does not want any more goes at once; what it never knew stays.
    let mut none = Sketch::new(0, 11).tables();
    none.prune = false;
    reconciler.pass(&none);
    assert_eq!(kernel.state().frontends.len(), 6);
    assert_eq!(kernel.state().backends.len(), 6 * 11);
    none.prune = true;
    reconciler.pass(&none);
    assert!(kernel.state().frontends.is_empty() && kernel.state().backends.is_empty());
    assert_eq!(kernel.state().scopes.len(), 1, "the node's own");
}

#[test]
fn a_task_without_reply_program_gets_no_flow_and_the_others_do() {
    let kernel = Fake::default();
    let tables = Sketch::new(2, 11).tables();
    let faulty = Faulty::on(kernel.clone(), |op| *op == Op::AttachTaskLink(100));
    let mut reconciler = Reconciler::restore(Box::new(faulty)).unwrap();
    let pass = reconciler.pass(&tables);
    assert_eq!(pass.failed, 1);
    assert!(pass.retry.is_some());
    check_invariants(&kernel.state());
    assert_eq!(kernel.state().task_links.len(), 3);
    assert!(
        reconciler.errors().contains_key("attach link 100"),
        "{:?}",
        reconciler.errors()
    );
    assert!(
        reconciler
            .statuses()
            .values()
            .all(|status| *status == Status::Done)
    );
}

#[test]
fn a_refused_frontend_shows_why_and_the_others_are_done() {
    let kernel = Fake::default();
    let faulty = Faulty::on(
        kernel.clone(),
        |op| matches!(op, Op::SetFrontend(FrontKey::V4(key), _) if key.port_be == 1000_u16.to_be()),
    );
    let mut reconciler = Reconciler::restore(Box::new(faulty)).unwrap();
    reconciler.pass(&Sketch::new(2, 3).tables());
    let wrong: Vec<&Status> = reconciler
        .statuses()
        .values()
        .filter(|s| **s != Status::Done)
        .collect();
    assert!(
        matches!(wrong[..], [Status::Error(why)] if why.contains("*:1000/tcp")),
        "{wrong:?}"
    );
}

#[test]
fn a_thousand_services_are_planned_and_a_change_is_small() {
    let kernel = Fake::default();
    let mut sketch = Sketch::new(1000, 10);
    let tables = sketch.tables();
    let mut reconciler = Reconciler::restore(Box::new(kernel.clone())).unwrap();
    let start = Instant::now();
    let pass = reconciler.pass(&tables);
    eprintln!(
        "1 000 services x 10 tasks, VIP and port each: {} operations in {:?}",
        pass.done,
        start.elapsed()
    );
    check_invariants(&kernel.state());
    sketch.services = 999;
    let start = Instant::now();
    let plan = reconciler.plan(&sketch.tables());
    eprintln!(
        "one service less: {} operations, {:?} with the tables",
        plan.ops().count(),
        start.elapsed()
    );
    assert_eq!(
        plan.groups.len(),
        3 + 3,
        "its frontends, its local task, link and scope"
    );
}

#[test]
fn one_reconciler_for_many_changes_leaves_what_a_new_one_would() {
    for seed in 1..8 {
        let kernel = Fake::default();
        // Every second world is disturbed.
        let mut reconciler = if seed % 2 == 0 {
            Reconciler::restore(Box::new(Faulty::sometimes(kernel.clone(), 30, seed))).unwrap()
        } else {
            Reconciler::restore(Box::new(kernel.clone())).unwrap()
        };
        let mut dice = seed;
        let mut roll = |sides: u64| {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((dice >> 33) % sides) as usize
        };
        for step in 0..40 {
            let mut sketch = Sketch::new(1 + roll(5), 3 + roll(9));
            sketch.draining = roll(3);
            sketch.without = (0..roll(4)).map(|_| roll(12)).collect();
            sketch.policy = [
                "",
                "scheduler = \"wrr\"",
                "scheduler = \"random\"\nallow = [\"10.0.0.0/8\"]",
                "scheduler = \"wlc\"\nclient = \"masquerade\"",
            ][roll(4)];
            let tables = sketch.tables();
            let converged = (0..200).any(|_| reconciler.pass(&tables).failed == 0);
            let place = format!("seed {seed}, step {step}");
            assert!(converged, "{place}: {:?}", reconciler.errors());
            check_invariants(&kernel.state());
            assert_eq!(*reconciler.mirror(), *kernel.state(), "{place}");
            assert_eq!(
                reconciler.plan(&tables).ops().collect::<Vec<_>>(),
                Vec::<&Op>::new(),
                "{place}"
            );
            assert_eq!(reconciler.statuses().len(), tables.frontends.len(), "{place}");
            assert!(
                reconciler
                    .statuses()
                    .values()
                    .all(|status| *status == Status::Done),
                "{place}"
            );
        }
    }
}

#[test]
fn what_somebody_else_changed_is_repaired_after_a_look() {
    let kernel = Fake::default();
    let mut sketch = Sketch::new(3, 4);
    let tables = sketch.tables();
    let mut reconciler = Reconciler::restore(Box::new(kernel.clone())).unwrap();
    assert_eq!(reconciler.pass(&tables).failed, 0);
    let (key, _) = kernel
        .state()
        .frontends
        .first_key_value()
        .map(|(key, value)| (*key, *value))
        .unwrap();
    kernel.clone().delete_frontend(key).unwrap();
    assert_eq!(reconciler.pass(&tables).done, 0, "it has not looked");
    reconciler.resync().unwrap();
    assert!(reconciler.pass(&tables).done > 0);
    assert!(kernel.state().frontends.contains_key(&key));
    sketch.without = vec![1];
    assert_eq!(reconciler.pass(&sketch.tables()).failed, 0);
    converge(&kernel, &sketch.tables());
}

/// A kernel that is compared beside the work, when the test says so.
struct Slow {
    kernel: Fake,
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Slow {
    fn apply(&mut self, op: Op) -> Result<(), DatapathError> {
        op.perform(&mut self.kernel)
    }

    fn read_back(&mut self) -> Result<Realized, DatapathError> {
        self.kernel.dump()
    }
}

datapath_by_ops! {
    Slow,
    fn comparer(&self) -> Option<Comparer> {
        let (kernel, go) = (self.kernel.clone(), self.go.clone());
        Some(Box::new(move |picture| {
            go.lock().unwrap().recv().unwrap();
            let now = kernel.state();
            Ok(Suspects {
                frontends: picture.frontends.differing(&now.frontends),
                backends: picture.backends.differing(&now.backends),
                ..Suspects::default()
            })
        }))
    }
    fn is_as(&mut self, picture: &Realized, suspects: &Suspects) -> Result<bool, DatapathError> {
        let now = self.kernel.state();
        let frontend = |key: &FrontKey| now.frontends.get(key) == picture.frontends.get(key);
        let backend = |id: &u32| now.backends.get(id) == picture.backends.get(id);
        Ok(suspects.frontends.iter().all(frontend) && suspects.backends.iter().all(backend))
    }
}

#[test]
fn what_somebody_else_changed_is_found_beside_the_work_and_the_work_is_not_taken_for_it() {
    let kernel = Fake::default();
    let (tell, go) = mpsc::channel();
    let slow = Slow {
        kernel: kernel.clone(),
        go: Arc::new(Mutex::new(go)),
    };
    let mut reconciler = Reconciler::restore(Box::new(slow)).unwrap();
    let mut sketch = Sketch::new(3, 4);
    reconciler.pass(&sketch.tables());
    let over = |reconciler: &mut Reconciler| {
        tell.send(()).unwrap();
        let (began, mut disturbed) = (Instant::now(), false);
        while reconciler.is_looking() {
            disturbed |= reconciler.disturbed().unwrap();
            assert!(began.elapsed().as_secs() < 10, "the look is never over");
            std::thread::yield_now();
        }
        disturbed
    };
    reconciler.look().unwrap();
    assert!(!over(&mut reconciler), "nobody has changed anything");
    // The work goes on during a look: things come, change and go.
    reconciler.look().unwrap();
    for (services, tasks) in [(4, 4), (2, 4), (2, 6)] {
        (sketch.services, sketch.tasks) = (services, tasks);
        assert!(reconciler.pass(&sketch.tables()).done > 0);
    }
    reconciler.look().unwrap();
    assert!(
        !over(&mut reconciler),
        "one look at a time, and nobody else has changed anything"
    );
    reconciler.look().unwrap();
    let (id, _) = kernel
        .state()
        .backends
        .last_key_value()
        .map(|(id, value)| (*id, *value))
        .unwrap();
    kernel.clone().delete_backend(id).unwrap();
    sketch.services = 3;
    reconciler.pass(&sketch.tables());
    assert!(!kernel.state().backends.contains_key(&id));
    assert!(over(&mut reconciler));
    assert!(reconciler.pass(&sketch.tables()).done > 0);
    converge(&kernel, &sketch.tables());
}

#[test]
fn a_changed_scheduler_keeps_every_backend_and_its_flows() {
    let kernel = Fake::default();
    let mut sketch = Sketch::new(2, 7);
    converge(&kernel, &sketch.tables());
    let before = kernel.state().backends.keys().copied().collect::<Vec<_>>();
    for policy in [
        "scheduler = \"mh\"",
        "scheduler = \"wrr\"",
        "scheduler = \"wlc\"",
        "affinity = \"1h\"",
        "",
    ] {
        sketch.policy = policy;
        converge(&kernel, &sketch.tables());
        let ids: Vec<u32> = kernel.state().backends.keys().copied().collect();
        assert_eq!(ids, before, "{policy}");
        assert_eq!(!kernel.state().tables.is_empty(), !policy.is_empty(), "{policy}");
    }
}
