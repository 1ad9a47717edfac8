// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables to virtual services, on an IPVS in memory that can fail.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    desired::desired,
    plan::Op,
    table::{Affinity, Virtual},
    *,
};
use crate::{
    model::{
        self, Backend, Frontend, FrontendAddr, Gateway, NetworkId, NodeAddr, Policy, Protocol, Reach,
        ServiceName, Tables, TaskAddr, TaskId, VipAddr, VipPort,
    },
    reconcile::{Follow as _, Status, datapath::DatapathError, desired::frontend_key},
};

#[derive(Default)]
struct State {
    realized: Realized,
    owned: Owned,
    done: Vec<Op>,
    /// This operation fails, and from then on all do.
    fails_at: Option<usize>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn keeper(&self, options: Options) -> Keeper {
        Keeper::restore(Box::new(self.clone()), options).unwrap()
    }
}

fn refused(what: &str) -> DatapathError {
    DatapathError::Syscall {
        operation: "fail",
        object: what.into(),
        source: std::io::ErrorKind::Other.into(),
    }
}

impl Ipvs for Fake {
    fn dump(&mut self) -> Result<Realized, DatapathError> {
        Ok(self.state().realized.clone())
    }

    fn perform(&mut self, op: &Op) -> Result<(), DatapathError> {
        let mut state = self.state();
        if state.fails_at.is_some_and(|at| state.done.len() >= at) {
            return Err(refused(&op.to_string()));
        }
        // As strict as the kernel: nothing twice, nothing in what is not there.
        let services = &state.realized.services;
        let has = |key: &Key, to: &SocketAddrV4| services[key].destinations.contains_key(to);
        match op {
            Op::AddService(key, _) => assert!(!services.contains_key(key), "{op}"),
            Op::SetService(key, _) | Op::DeleteService(key) => assert!(services.contains_key(key), "{op}"),
            Op::AddDestination(key, to, _) => assert!(!has(key, to), "{op}"),
            Op::SetDestination(key, to, _) | Op::DeleteDestination(key, to) => assert!(has(key, to), "{op}"),
            Op::AddAddress(address) => assert!(!state.realized.addresses.contains(address), "{op}"),
            Op::DeleteAddress(address) => assert!(state.realized.addresses.contains(address), "{op}"),
        }
        // Whatever is made has been written down before.
        match op {
            Op::AddService(key, _) => assert!(state.owned.services.contains(key), "{op}"),
            Op::AddAddress(address) => assert!(state.owned.addresses.contains(address), "{op}"),
            _ => {}
        }
        op.record(&mut state.realized);
        state.done.push(op.clone());
        Ok(())
    }

    fn owned(&mut self) -> Result<Owned, DatapathError> {
        Ok(self.state().owned.clone())
    }

    fn remember(&mut self, owned: &Owned) -> Result<(), DatapathError> {
        self.state().owned = owned.clone();
        Ok(())
    }
}

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);

fn local(host: u8, draining: bool) -> Backend {
    let ingress = TaskAddr([10, 0, 0, host].into());
    Backend {
        address: ingress,
        port: 0,
        reach: Reach::Local {
            task: TaskId::of(ingress).unwrap(),
            gateway: Gateway {
                address: [172, 18, 0, host].into(),
                mac: [2; 6],
                host_ifindex: 7,
                gateway_mac: [4; 6],
            },
        },
        weight: 1,
        draining,
    }
}

fn remote(host: u8) -> Backend {
    let ingress = TaskAddr([10, 0, 0, host].into());
    Backend {
        reach: Reach::Remote {
            task: TaskId::of(ingress).unwrap(),
            node: NodeAddr([192, 0, 2, 2].into()),
        },
        ..local(host, false)
    }
}

fn direct(host: u8, port: u16) -> Backend {
    Backend {
        address: TaskAddr([10, 0, 1, host].into()),
        port,
        reach: Reach::Direct,
        weight: 1,
        draining: false,
    }
}

fn published(port: u16) -> FrontendAddr {
    FrontendAddr::Published {
        port,
        protocol: Protocol::Tcp,
    }
}

fn vip(port: Option<u16>) -> FrontendAddr {
    FrontendAddr::Vip {
        network: NetworkId::of("proxy"),
        address: VipAddr(VIP.into()),
        port: port.map(|port| VipPort {
            port,
            protocol: Protocol::Udp,
        }),
    }
}

fn tables(frontends: &[(FrontendAddr, u16, &[Backend])]) -> Tables {
    let frontend = |target_port: u16, backends: &[Backend]| {
        Arc::new(Frontend {
            service: ServiceName::new("s"),
            target_port,
            policy: Arc::default(),
            backends: backends.to_vec(),
        })
    };
    Tables {
        frontends: frontends
            .iter()
            .map(|(address, target, backends)| (*address, frontend(*target, backends)))
            .collect(),
        local_addrs: [NODE].into(),
        prune: true,
        ..Tables::default()
    }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn shown(is: &Virtual) -> Vec<String> {
    let one = |(to, with): (&SocketAddrV4, &Destination)| format!("{to} {}", with.weight);
    is.destinations.iter().map(one).collect()
}

#[test]
fn a_published_port_is_a_service_of_each_address_and_a_vip_of_one() {
    let tables = tables(&[
        (published(80), 8080, &[local(5, false), local(6, true), remote(9)]),
        (vip(Some(53)), 0, &[direct(5, 0), direct(6, 5353)]),
    ]);
    let found = desired(&tables, &Options::default());
    let web = &found.services[&key("192.0.2.1:80/tcp")].is;
    assert_eq!(shown(web), ["172.18.0.5:8080 1", "172.18.0.6:8080 0"]);
    let dns = &found.services[&key("10.0.1.2:53/udp")].is;
    assert_eq!(shown(dns), ["10.0.1.5:53 1", "10.0.1.6:5353 1"]);
    assert_eq!(found.addresses, [VIP].into());
    assert!(found.frontends.values().all(Result::is_ok));
    let note = &found.notes["*:80/tcp"];
    assert!(note.contains("1 tasks on other nodes are left out"), "{note}");
}

#[test]
fn what_ipvs_cannot_do_is_refused_and_said() {
    let why = |tables: &Tables, address: FrontendAddr, options: &Options| {
        let found = desired(tables, options);
        found.frontends[&frontend_key(address)].clone().unwrap_err()
    };
    let any_port = tables(&[(vip(None), 0, &[direct(5, 0)])]);
    assert!(why(&any_port, vip(None), &Options::default()).contains("only with affinity"));
    let far = tables(&[(published(80), 80, &[remote(9)])]);
    assert!(why(&far, published(80), &Options::default()).contains("on other nodes"));
    let dr = Options {
        forward: Forward::Dr,
        ..Options::default()
    };
    let other_port = tables(&[(published(80), 8080, &[local(5, false)])]);
    assert!(why(&other_port, published(80), &dr).contains("cannot change the port 80 to 8080"));
    let nowhere = Tables {
        local_addrs: Default::default(),
        ..other_port
    };
    assert!(why(&nowhere, published(80), &Options::default()).contains("no uplink"));

    // The same VIP in two networks.
    let twice = FrontendAddr::Vip {
        network: NetworkId::of("other"),
        address: VipAddr(VIP.into()),
        port: Some(VipPort {
            port: 53,
            protocol: Protocol::Udp,
        }),
    };
    let both = tables(&[(vip(Some(53)), 0, &[direct(5, 0)]), (twice, 0, &[direct(6, 0)])]);
    let found = desired(&both, &Options::default());
    assert_eq!(found.services.len(), 1);
    assert_eq!(
        found
            .frontends
            .values()
            .filter(|outcome| outcome.is_err())
            .count(),
        1
    );

    // With affinity every port can be served.
    let affinity = Options {
        affinity: Some(Affinity {
            seconds: 60,
            prefix: 32,
        }),
        ..Options::default()
    };
    let found = desired(&any_port, &affinity);
    assert_eq!(found.services.len(), 2, "TCP and UDP");
    assert!(found.services.keys().all(|key| key.address.port() == 0));
}

#[test]
fn only_what_differs_is_done_and_a_restart_does_nothing() {
    let kernel = Fake::default();
    let mut keeper = kernel.keeper(Options::default());
    let first = tables(&[(published(80), 80, &[local(5, false), local(6, false)])]);
    assert_eq!(keeper.pass(&first).done, 3);
    assert_eq!(keeper.pass(&first).done, 0);
    let mut keeper = kernel.keeper(Options::default());
    assert_eq!(keeper.pass(&first).done, 0, "a restart");

    kernel.state().done.clear();
    let drained = tables(&[(published(80), 80, &[local(5, true), local(7, false)])]);
    keeper.pass(&drained);
    let text: Vec<String> = kernel.state().done.iter().map(Op::to_string).collect();
    assert_eq!(
        text,
        [
            "add 192.0.2.1:80/tcp -> 172.18.0.7:80 weight 1",
            "set 192.0.2.1:80/tcp -> 172.18.0.5:80 weight 0",
            "delete 192.0.2.1:80/tcp -> 172.18.0.6:80",
        ],
        "what comes first, what goes last"
    );

    kernel.state().done.clear();
    let mut keeper = kernel.keeper(Options {
        scheduler: Scheduler::Wlc,
        ..Options::default()
    });
    keeper.pass(&drained);
    let text: Vec<String> = kernel.state().done.iter().map(Op::to_string).collect();
    assert_eq!(text, ["set service 192.0.2.1:80/tcp wlc"]);

    // Gone for the provider, but it has not said everything yet.
    let unsure = Tables {
        prune: false,
        ..tables(&[])
    };
    assert_eq!(keeper.pass(&unsure).done, 0);
    assert_eq!(keeper.pass(&tables(&[])).done, 1);
    assert_eq!(kernel.state().realized, Realized::default());
    assert_eq!(kernel.state().owned, Owned::default());
}

#[test]
fn somebody_elses_service_is_neither_changed_nor_removed() {
    let kernel = Fake::default();
    let is = Virtual {
        service: Service::new(Scheduler::Wlc, None),
        destinations: BTreeMap::new(),
    };
    kernel.state().realized.services = [
        (key("192.0.2.1:80/tcp"), is.clone()),
        (key("192.0.2.1:81/tcp"), is),
    ]
    .into();
    let before = kernel.state().realized.clone();
    let mut keeper = kernel.keeper(Options::default());
    let pass = keeper.pass(&tables(&[(published(80), 80, &[local(5, false)])]));
    assert_eq!((pass.done, pass.failed), (0, 0));
    assert!(
        matches!(&keeper.statuses()[&frontend_key(published(80))], Status::Error(why) if why.contains("has not made it"))
    );
    keeper.pass(&tables(&[]));
    assert_eq!(kernel.state().realized, before);
}

#[test]
fn a_failure_or_a_crash_after_any_operation_is_repaired_by_the_next_pass() {
    let old = tables(&[
        (published(80), 80, &[local(5, false), local(6, false)]),
        (vip(Some(53)), 0, &[direct(5, 0)]),
    ]);
    let new = tables(&[
        (published(80), 80, &[local(6, true), local(7, false)]),
        (published(81), 80, &[local(5, false)]),
    ]);
    let whole = {
        let kernel = Fake::default();
        kernel.keeper(Options::default()).pass(&new);
        kernel.state().realized.clone()
    };
    for at in 0..9 {
        for crash in [false, true] {
            let kernel = Fake::default();
            let mut keeper = kernel.keeper(Options::default());
            keeper.pass(&old);
            kernel.state().done.clear();
            kernel.state().fails_at = Some(at);
            let pass = keeper.pass(&new);
            assert_eq!(pass.failed == 0, pass.retry.is_none());
            let served = kernel.state().realized.services[&key("192.0.2.1:80/tcp")]
                .destinations
                .len();
            assert!(served > 0, "never without a destination");
            kernel.state().fails_at = None;
            if crash {
                keeper = kernel.keeper(Options::default());
            }
            keeper.pass(&new);
            assert_eq!(kernel.state().realized, whole, "after {at}, crash: {crash}");
            assert_eq!(kernel.state().owned.services.len(), 2);
            assert!(kernel.state().owned.addresses.is_empty());
        }
    }
}

#[test]
fn weights_are_taken_and_a_list_of_prefixes_is_refused_instead_of_ignored() {
    let heavy = Backend {
        weight: 7,
        ..local(5, false)
    };
    let mut tables = tables(&[(published(80), 80, &[heavy])]);
    let kernel = Fake::default();
    let mut keeper = kernel.keeper(Options::default());
    keeper.pass(&tables);
    let service = kernel.state().realized.services[&key("192.0.2.1:80/tcp")].clone();
    assert!(
        service
            .destinations
            .values()
            .all(|destination| destination.weight == 7)
    );
    change_policies(&mut tables, |policy| {
        policy.deny = vec!["10.0.0.0/8".parse().unwrap()]
    });
    keeper.pass(&tables);
    assert!(
        kernel.state().realized.services.is_empty(),
        "nobody is let in by mistake"
    );
}

fn change_policies(tables: &mut Tables, change: impl Fn(&mut Policy)) {
    let changed = |(address, frontend): (&FrontendAddr, &Arc<Frontend>)| {
        let mut frontend = Frontend::clone(frontend);
        change(Arc::make_mut(&mut frontend.policy));
        (*address, Arc::new(frontend))
    };
    tables.frontends = tables.frontends.iter().map(changed).collect();
}

#[test]
fn a_policy_is_followed_and_a_change_of_it_changes_the_service_in_place() {
    let mut tables = tables(&[(published(80), 80, &[local(5, false)])]);
    let kernel = Fake::default();
    let mut keeper = kernel.keeper(Options {
        scheduler: Scheduler::Lc,
        ..Options::default()
    });
    let mut pass = |change: &dyn Fn(&mut Policy)| {
        change_policies(&mut tables, change);
        keeper.pass(&tables);
        let state = kernel.state();
        state.realized.services[&key("192.0.2.1:80/tcp")].service
    };
    assert_eq!(
        pass(&|_| ()).scheduler,
        Scheduler::Lc,
        "the agent's, where a service says nothing"
    );
    let service = pass(&|policy| {
        policy.scheduler = model::Scheduler::Maglev;
        policy.affinity = Some(model::Affinity {
            seconds: 600,
            prefix: 24,
        });
    });
    assert_eq!((service.scheduler, service.timeout), (Scheduler::Mh, 600));
    assert_eq!(service.netmask, Ipv4Addr::new(255, 255, 255, 0));
    let adds = kernel
        .state()
        .done
        .iter()
        .filter(|op| matches!(op, Op::AddService(..)))
        .count();
    assert_eq!(adds, 1, "connections stay");
    assert!(matches!(kernel.state().done.last(), Some(Op::SetService(..))));
    change_policies(&mut tables, |policy| policy.scheduler = model::Scheduler::Random);
    let found = desired(&tables, &Options::default());
    let note = &found.notes["*:80/tcp"];
    assert!(note.contains("no scheduler random: rr is used"), "{note}");
}
