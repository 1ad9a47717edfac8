// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the words of `portico.toml` to packets: what a service's policy says is what the programs do.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use proxy_ebpf::abi::*;
use proxy_user::{
    kernel::pins::Pins,
    model::{Cookie, Facts, Gateway, Writer},
    providers::file,
    reconcile::Reconciler,
};

use crate::{
    restart::{machine, started, unpin},
    support::*,
};

/// Tasks of this node, as packets name them.
const TASKS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(172, 18, 0, 5),
    Ipv4Addr::new(172, 18, 0, 6),
    Ipv4Addr::new(172, 18, 0, 7),
];

/// An agent without providers: the test speaks for them.
struct Agent {
    writer: Writer,
    reconciler: Reconciler,
    uplink: SchedClassifier,
    counters: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
}

impl Agent {
    /// Programs three tasks with the weights 1, 2 and 3.
    fn new(options: &proxy_user::kernel::Options) -> Agent {
        let parts = started(options);
        let host_ifindex = proxy_user::kernel::netlink::interface_index("veth1").unwrap();
        let mut writer = Writer::new(Cookie(parts.own_cookie));
        writer.set_local_addrs([NODE]);
        let facts = |(i, address): (usize, &Ipv4Addr)| {
            let facts = Facts {
                cookie: Cookie(1_000 + i as u64),
                gateway: Some(Gateway {
                    address: *address,
                    mac: TASK_MAC,
                    host_ifindex,
                    gateway_mac: GATEWAY_MAC,
                }),
            };
            (PathBuf::from(format!("/ns/{i}")), facts)
        };
        writer.set_facts(TASKS.iter().enumerate().map(facts).collect::<BTreeMap<_, _>>());
        let object = parts.info["object"].as_str().unwrap();
        let pin = Pins::open(&options.bpffs)
            .unwrap()
            .programs(object)
            .join("portico_uplink");
        Agent {
            writer,
            reconciler: Reconciler::restore(parts.datapath).unwrap(),
            uplink: SchedClassifier::from_pin(pin).unwrap(),
            counters: parts.counters,
        }
    }

    /// Puts a policy into force, with these weights.
    fn say(&mut self, policy: &str, weights: [u8; 3]) {
        let mut text = format!("node = \"n1\"\n[[nodes]]\nname = \"n1\"\naddress = \"{NODE}\"\n");
        for (i, weight) in weights.iter().enumerate() {
            text += &format!(
                "[[tasks]]\nname = \"t{i}\"\nnode = \"n1\"\nnetns = \"/ns/{i}\"\nweight = {weight}\nnetworks = {{ ingress = \"10.0.0.{}\" }}\n",
                5 + i
            );
        }
        text += &format!(
            "[[services]]\nname = \"web\"\nports = [{{ published = 80, target = 8080 }}]\ntasks = [\"t0\", \"t1\", \"t2\"]\n{policy}\n"
        );
        let refusals = self
            .writer
            .apply(&file::parse("t.toml", &text, None).unwrap())
            .to_vec();
        assert!(refusals.is_empty(), "{refusals:?}");
        let pass = self.reconciler.pass(&self.writer.tables());
        assert_eq!(pass.failed, 0, "{:?}", self.reconciler.errors());
        assert_eq!(self.reconciler.pass(&self.writer.tables()).done, 0, "{policy}");
    }

    fn send(&mut self, client: Ipv4Addr, port: u16, segment: Tcp<'_>) -> Option<Seen> {
        let frame = tcp((client, port), (NODE, 80), segment);
        let mut out = vec![0u8; 4096];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = self.uplink.test_run(options).expect("BPF_PROG_TEST_RUN");
        out.truncate(result.data_size_out as usize);
        (result.return_value == TC_ACT_REDIRECT).then(|| see(&out))
    }

    /// The task that a new flow gets.
    fn task(&mut self, client: Ipv4Addr, port: u16) -> usize {
        let to = self.send(client, port, SYN).expect("served").to.0;
        TASKS
            .iter()
            .position(|task| *task == to)
            .expect("one of the three")
    }

    /// How many of 600 new flows of one client each task gets.
    fn shares(&mut self, base: u16) -> [usize; 3] {
        let mut shares = [0; 3];
        for i in 0..600 {
            shares[self.task(CLIENT, base + i)] += 1;
        }
        shares
    }

    fn counted(&self, counter: Counter) -> u64 {
        let all = (self.counters)();
        all.iter().find(|(name, _)| name == counter.name()).unwrap().1
    }
}

fn with_agent(test: impl FnOnce(&mut Agent) + Send + 'static) {
    in_namespace(|| {
        let (_dir, mut options) = machine();
        options.flows = 20_000;
        test(&mut Agent::new(&options));
        unpin(&options);
    });
}

#[test]
fn every_scheduler_spreads_as_its_name_says() {
    if !privileged("every_scheduler_spreads_as_its_name_says") {
        return;
    }
    with_agent(|agent| {
        let near = |found: [usize; 3], wanted: [usize; 3]| {
            let close = |(found, wanted): (&usize, &usize)| found.abs_diff(*wanted) <= 60;
            assert!(found.iter().zip(&wanted).all(close), "{found:?}, not {wanted:?}");
        };
        agent.say("scheduler = \"rr\"", [1, 2, 3]);
        assert_eq!(agent.shares(1_000), [200, 200, 200]);
        agent.say("scheduler = \"wrr\"", [1, 2, 3]);
        assert_eq!(agent.shares(2_000), [100, 200, 300]);
        agent.say("scheduler = \"random\"", [1, 2, 3]);
        near(agent.shares(3_000), [100, 200, 300]);
        agent.say("scheduler = \"mh\"", [1, 2, 3]);
        near(agent.shares(4_000), [100, 200, 300]);
        agent.say("scheduler = \"sh\"", [1, 2, 3]);
        let first = agent.task(CLIENT, 5_000);
        assert!((5_001..5_100).all(|port| agent.task(CLIENT, port) == first));
        let mut of_clients = [0; 3];
        for i in 0..600u32 {
            of_clients[agent.task(Ipv4Addr::from(0xc633_6400 + i), 5_000)] += 1;
        }
        near(of_clients, [100, 200, 300]);
        agent.say("scheduler = \"rr\"", [1, 0, 3]);
        assert_eq!(agent.shares(6_000), [300, 0, 300], "weight 0 takes no new flow");
    });
}

#[test]
fn the_fewest_flows_are_counted_and_weighed() {
    if !privileged("the_fewest_flows_are_counted_and_weighed") {
        return;
    }
    with_agent(|agent| {
        agent.say("scheduler = \"lc\"", [1, 2, 3]);
        assert_eq!(agent.shares(1_000), [200, 200, 200]);
        // The first task's flows end: the next ones are all its own.
        let mut ended = 0;
        for port in 1_000..1_600 {
            let end = Tcp { fin: true, ..ACK };
            let to = agent.send(CLIENT, port, ACK).expect("known").to.0;
            if to == TASKS[0] {
                agent.send(CLIENT, port, end);
                ended += 1;
            }
        }
        assert_eq!(ended, 200);
        assert!((2_000..2_200).all(|port| agent.task(CLIENT, port) == 0));
        // By weight the third has room for as many as the first two together.
        agent.say("scheduler = \"wlc\"", [1, 2, 3]);
        let shares = agent.shares(3_000);
        assert_eq!(
            shares,
            [0, 200, 400],
            "200, 200 and 200 were open: 200, 400 and 600 are by weight"
        );
    });
}

#[test]
fn a_change_of_the_scheduler_moves_no_flow() {
    if !privileged("a_change_of_the_scheduler_moves_no_flow") {
        return;
    }
    with_agent(|agent| {
        agent.say("", [1, 1, 1]);
        let before: Vec<usize> = (1_000..1_060).map(|port| agent.task(CLIENT, port)).collect();
        for policy in [
            "scheduler = \"mh\"",
            "scheduler = \"sh\"",
            "scheduler = \"wlc\"",
            "affinity = \"1h\"",
        ] {
            agent.say(policy, [9, 1, 1]);
            for (port, task) in (1_000..).zip(&before) {
                let to = agent.send(CLIENT, port, ACK).expect("known").to.0;
                assert_eq!(to, TASKS[*task], "{policy}");
            }
        }
    });
}

#[test]
fn a_client_keeps_its_task_until_that_takes_no_more() {
    if !privileged("a_client_keeps_its_task_until_that_takes_no_more") {
        return;
    }
    with_agent(|agent| {
        agent.say("affinity = \"10m/24\"", [1, 1, 1]);
        let first = agent.task(CLIENT, 1_000);
        assert!((1_001..1_050).all(|port| agent.task(CLIENT, port) == first));
        let neighbour = Ipv4Addr::from(u32::from(CLIENT) ^ 1);
        assert_eq!(agent.task(neighbour, 1_000), first, "a client is a /24 here");
        assert_eq!(agent.counted(Counter::AffinityKept), 50);
        // Weights come and go elsewhere: it stays.
        let mut weights = [5; 3];
        weights[first] = 1;
        agent.say("affinity = \"10m/24\"", weights);
        assert_eq!(agent.task(CLIENT, 2_000), first);
        weights[first] = 0;
        agent.say("affinity = \"10m/24\"", weights);
        let second = agent.task(CLIENT, 2_001);
        assert_ne!(second, first, "it drains");
        assert!((2_002..2_050).all(|port| agent.task(CLIENT, port) == second));
        let old = agent.send(CLIENT, 1_000, ACK).expect("known").to.0;
        assert_eq!(old, TASKS[first], "its old flow stays");
    });
}

#[test]
fn prefixes_decide_who_opens_flows() {
    if !privileged("prefixes_decide_who_opens_flows") {
        return;
    }
    with_agent(|agent| {
        let outside = Ipv4Addr::new(198, 51, 100, 1);
        agent.say("", [1; 3]);
        assert!(agent.send(outside, 1_000, SYN).is_some());
        agent.say("allow = [\"192.0.2.0/24\"]\ndeny = [\"192.0.2.128/25\"]", [1; 3]);
        assert!(agent.send(CLIENT, 2_000, SYN).is_some());
        assert!(agent.send(Ipv4Addr::new(192, 0, 2, 200), 2_000, SYN).is_none());
        assert!(agent.send(outside, 2_000, SYN).is_none());
        assert_eq!(agent.counted(Counter::SourceDenied), 2);
        assert!(agent.send(outside, 1_000, ACK).is_some(), "what was open goes on");
        agent.say("deny = [\"192.0.2.0/24\"]", [1; 3]);
        assert!(agent.send(CLIENT, 3_000, SYN).is_none());
        assert!(agent.send(outside, 3_000, SYN).is_some());
        agent.say("", [1; 3]);
        assert!(agent.send(CLIENT, 4_000, SYN).is_some());
    });
}

#[test]
fn a_task_sees_the_client_or_the_node() {
    if !privileged("a_task_sees_the_client_or_the_node") {
        return;
    }
    with_agent(|agent| {
        for (port, client, from) in [
            (1_000, "preserve", CLIENT),
            (2_000, "dsr", CLIENT),
            (3_000, "masquerade", NODE),
        ] {
            agent.say(&format!("client = \"{client}\""), [1; 3]);
            assert_eq!(
                agent.send(CLIENT, port, SYN).expect("served").from,
                (from, port),
                "{client}"
            );
            let (_, master) = agent.reconciler.mirror().frontends.first_key_value().unwrap();
            assert_eq!(master.flags & frontend::DSR != 0, client == "dsr");
        }
    });
}
