// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kernel::start`: what is pinned outlives the agent, and a second start changes nothing.

use std::{fs, path::PathBuf};

use aya::{
    maps::{LpmTrie, Map, MapData},
    programs::XdpMode,
};
use proxy_ebpf::abi::{settings::Timeouts, *};
use proxy_user::{
    cli::{Exit, doctor::cgroup2_mount},
    kernel::{
        KernelParts, Options, attach,
        guard::{Guard, SynRate},
        pins::Pins,
        start,
        xdp::{Choice, attach_link},
    },
    reconcile::{
        datapath::{Datapath, Realized, Suspects},
        key::FrontKey,
        ops::Op,
    },
};

use crate::support::*;

/// A private mount namespace with a BPF file system in a scratch directory, and a veth as uplink.
pub fn machine() -> (tempfile::TempDir, Options) {
    // SAFETY: changes the calling thread only, which ends with the test.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    let dir = tempfile::tempdir().unwrap();
    mount(&["--make-rprivate", "/"]);
    mount(&["-t", "bpf", "bpf", dir.path().to_str().unwrap()]);
    ip("link add veth0 type veth peer name veth1");
    ip("link set veth0 up");
    let options = Options {
        bpffs: dir.path().join("portico"),
        cgroup: cgroup2_mount().expect("cgroup v2 is mounted"),
        uplinks: vec!["veth0".into()],
        xdp: Choice::Off,
        node_address: Some(NODE),
        state: PathBuf::from("/nonexistent"),
        flows: 1,
        timeouts: Timeouts::DEFAULT,
        vip_network: 0,
        guard: Guard::default(),
    };
    (dir, options)
}

fn mount(args: &[&str]) {
    assert!(
        std::process::Command::new("mount")
            .args(args)
            .status()
            .unwrap()
            .success(),
        "mount {args:?}"
    );
}

pub fn started(options: &Options) -> KernelParts {
    start(options).unwrap_or_else(|exit| panic!("{exit}"))
}

/// Links hold the hooks of the machine's cgroup root: they go before the file system does.
pub fn unpin(options: &Options) {
    fs::remove_dir_all(&options.bpffs).unwrap();
}

#[test]
fn a_second_start_adopts_everything_and_changes_nothing() {
    if !privileged("a_second_start_adopts_everything_and_changes_nothing") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut first = started(&options);
        assert_eq!(
            first.info["links_changed"], 10,
            "eight socket hooks, uplink, tunnel"
        );
        assert_eq!(first.info["tunnel"]["mss"], 1410);
        let veth1 = proxy_user::kernel::netlink::interface_index("veth1").unwrap();
        first.datapath.set_backend(1, local_backend()).unwrap();
        first
            .datapath
            .set_slot(
                SlotKey {
                    frontend: 1,
                    index: 0,
                },
                1,
            )
            .unwrap();
        first
            .datapath
            .set_frontend(
                published(80, PROTO_TCP).into(),
                Frontend {
                    id: 1,
                    slots: 1,
                    ..Default::default()
                },
            )
            .unwrap();
        first.datapath.attach_task_link(veth1).unwrap();
        let before = first.datapath.dump().unwrap();
        assert_eq!(before.task_links.iter().copied().collect::<Vec<_>>(), [veth1]);
        drop(first);

        let mut second = started(&options);
        assert_eq!(second.info["links_changed"], 0);
        assert_eq!(second.info["adopted_programs"], true);
        assert_eq!(second.datapath.dump().unwrap(), before);
        // Doing it again is success and no change; so is deleting what is absent.
        second.datapath.attach_task_link(veth1).unwrap();
        second.datapath.delete_backend(99).unwrap();
        second.datapath.detach_task_link(99).unwrap();
        assert_eq!(second.datapath.dump().unwrap(), before);
        drop(second);

        // Another configuration is another set of programs; the links move to it, one by one.
        let other = Options {
            node_address: None,
            ..options.clone()
        };
        let mut third = started(&other);
        assert_eq!(third.info["adopted_programs"], false);
        assert_eq!(
            third.info["links_changed"], 11,
            "hooks, uplink and task moved, tunnel detached"
        );
        assert_eq!(third.datapath.dump().unwrap(), before);
        unpin(&options);
    });
}

#[test]
fn a_link_whose_interface_is_gone_is_forgotten() {
    if !privileged("a_link_whose_interface_is_gone_is_forgotten") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut parts = started(&options);
        ip("link add gone type veth peer name other");
        let ifindex = proxy_user::kernel::netlink::interface_index("gone").unwrap();
        parts.datapath.attach_task_link(ifindex).unwrap();
        ip("link del gone");
        assert_eq!(parts.datapath.dump().unwrap(), Realized::default());
        let names = attach::names(&Pins::open(&options.bpffs).unwrap().links()).unwrap();
        assert!(!names.iter().any(|n| n.starts_with("task-")), "{names:?}");
        unpin(&options);
    });
}

#[test]
fn what_the_machine_lacks_is_said_with_a_remedy() {
    if !privileged("what_the_machine_lacks_is_said_with_a_remedy") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let ordinary = tempfile::tempdir_in("/tmp").unwrap();
        for (case, options) in [
            (
                "is not on a BPF file system",
                Options {
                    bpffs: ordinary.path().into(),
                    ..options.clone()
                },
            ),
            (
                "no interface eth9",
                Options {
                    uplinks: vec!["eth9".into()],
                    ..options.clone()
                },
            ),
            (
                "no default route",
                Options {
                    uplinks: vec![],
                    ..options.clone()
                },
            ),
            (
                "cgroup v2 root /nowhere",
                Options {
                    cgroup: "/nowhere".into(),
                    ..options.clone()
                },
            ),
        ] {
            match start(&options).map(|_| ()) {
                Err(Exit::Lacks { what, how }) => {
                    assert!(what.contains(case), "{case}: {what}");
                    assert!(!how.is_empty());
                }
                other => panic!("{case}: {other:?}"),
            }
        }
    });
}

#[test]
fn xdp_is_attached_as_wanted_and_adopted() {
    if !privileged("xdp_is_attached_as_wanted_and_adopted") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let with = |xdp: Choice| {
            let options = Options {
                xdp,
                ..options.clone()
            };
            let info = started(&options).info;
            (info["uplinks"][0]["xdp"].clone(), info["links_changed"].clone())
        };
        assert_eq!(with(Choice::Native), ("native".into(), 11.into()));
        assert_eq!(with(Choice::Native), ("native".into(), 0.into()));
        assert_eq!(with(Choice::Generic), ("generic".into(), 1.into()));
        assert_eq!(
            with(Choice::Auto),
            ("off: veth0 is no network card".into(), 1.into())
        );
        assert_eq!(with(Choice::Off), ("off: by --xdp off".into(), 0.into()));

        // Another namespace's interface of that name may be a card.
        ip("link add eth0 type veth peer name eth1");
        let named = Options {
            uplinks: vec!["eth0".into()],
            xdp: Choice::Auto,
            ..options.clone()
        };
        assert_eq!(
            started(&named).info["uplinks"][0]["xdp"],
            "off: eth0 is no network card"
        );

        // Somebody else's program is left alone, and said.
        let mut other = World::new(Settings::SMALL);
        let program = other.ebpf.program_mut("portico_xdp").unwrap().try_into().unwrap();
        let veth0 = proxy_user::kernel::netlink::interface_index("veth0").unwrap();
        let theirs = attach_link(program, veth0, XdpMode::Driver).unwrap();
        let refused = start(&Options {
            xdp: Choice::Native,
            ..options.clone()
        });
        match refused {
            Err(Exit::Lacks { what, how }) => {
                assert!(what.contains("XDP of interface"), "{what}");
                assert!(how.contains("--xdp auto"), "{how}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("took the interface away from another program"),
        }
        drop(theirs);
        assert_eq!(with(Choice::Native).0, "native");
        unpin(&options);
    });
}

#[test]
fn pins_of_another_version_go_when_this_one_is_attached() {
    if !privileged("pins_of_another_version_go_when_this_one_is_attached") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let old = options.bpffs.join("v1");
        let other = options.bpffs.join("vault");
        for dir in [&old.join("maps"), &old.join("links"), &other] {
            fs::create_dir_all(dir).unwrap();
        }
        started(&options);
        assert!(!old.exists());
        assert!(other.exists(), "only what is a version of ours");
        assert!(options.bpffs.join(format!("v{ABI_VERSION}")).exists());
        unpin(&options);
    });
}

#[test]
fn a_deny_list_is_as_the_last_start_says() {
    if !privileged("a_deny_list_is_as_the_last_start_says") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let list = |options: &Options| -> Vec<(u32, [u8; 4])> {
            let pins = Pins::open(&options.bpffs).unwrap();
            let data = MapData::from_pin(pins.maps().join("DENIED")).unwrap();
            let map: LpmTrie<MapData, [u8; 4], u32> = Map::LpmTrie(data).try_into().unwrap();
            let mut found: Vec<_> = map
                .iter()
                .map(|entry| entry.map(|(key, _)| (key.prefix_len(), key.data())).unwrap())
                .collect();
            found.sort();
            found
        };
        let with = |deny: &[&str]| Options {
            guard: Guard {
                deny: deny.iter().map(|text| text.parse().unwrap()).collect(),
                impossible: false,
                syn_rate: Some(SynRate { count: 5, prefix: 24 }),
            },
            ..options.clone()
        };
        let first = with(&["192.0.2.0/24", "198.51.100.7/32"]);
        drop(started(&first));
        assert_eq!(list(&first), [(24, [192, 0, 2, 0]), (32, [198, 51, 100, 7])]);
        let second = with(&["192.0.2.0/24"]);
        drop(started(&second));
        assert_eq!(list(&second), [(24, [192, 0, 2, 0])]);
        drop(started(&options));
        assert_eq!(list(&options), []);
        unpin(&options);
    });
}

#[test]
fn a_picture_is_compared_with_the_maps_entry_by_entry() {
    if !privileged("a_picture_is_compared_with_the_maps_entry_by_entry") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut datapath = started(&options).datapath;
        let slot = |index| SlotKey { frontend: 1, index };
        let v4: FrontKey = published(80, PROTO_TCP).into();
        let v6 = FrontKey::vip(7, "fd00::7".parse().unwrap(), 0, 0);
        let frontend = |id| Frontend {
            id,
            slots: 1,
            ..Frontend::default()
        };
        let block = TableKey { table: 3, block: 0 };
        let source = SourceKey {
            list: 1,
            addr_be: 10,
            bits: 8,
        };
        let veth1 = proxy_user::kernel::netlink::interface_index("veth1").unwrap();
        let all = [
            Op::SetBackend(1, local_backend()),
            Op::SetSlot(slot(0), 1),
            Op::SetTable(block, TableBlock::default()),
            Op::SetSource(source, 1),
            Op::SetFrontend(v4, frontend(1)),
            Op::SetFrontend(v6, frontend(2)),
            Op::SetScope(5, Scope::default()),
            Op::SetLocalAddr(5, LocalAddr { flags: 0 }),
            Op::SetLocalTask(5, LocalTask::default()),
            Op::AttachTaskLink(veth1),
        ];
        for op in &all {
            op.perform(&mut *datapath).unwrap();
        }
        let picture = datapath.dump().unwrap();
        let compare = |datapath: &dyn Datapath| datapath.comparer().unwrap()(&picture).unwrap();
        assert_eq!(compare(&*datapath), Suspects::default());
        // Somebody else's change, what it makes suspect, and how many entries that is.
        let changed = TableBlock { backends: [9; 16] };
        let few = Suspects {
            few: true,
            ..Suspects::default()
        };
        let of_frontend = |key| Suspects {
            frontends: vec![key],
            ..Suspects::default()
        };
        let of_slot = |index| Suspects {
            slots: vec![slot(index)],
            ..Suspects::default()
        };
        let of_backend = |id| Suspects {
            backends: vec![id],
            ..Suspects::default()
        };
        let of_table = Suspects {
            tables: vec![block],
            ..Suspects::default()
        };
        for (change, suspects) in [
            (Op::DeleteFrontend(v4), of_frontend(v4)),
            (Op::SetFrontend(v6, frontend(9)), of_frontend(v6)),
            (Op::DeleteSlot(slot(0)), of_slot(0)),
            (Op::SetSlot(slot(7), 1), of_slot(7)),
            (Op::SetBackend(1, remote_backend()), of_backend(1)),
            (Op::SetBackend(2, remote_backend()), of_backend(2)),
            (Op::SetTable(block, changed), of_table),
            (Op::DeleteSource(source), few.clone()),
            (Op::DeleteScope(5), few.clone()),
            (Op::SetLocalAddr(6, LocalAddr { flags: 0 }), few.clone()),
            (Op::DeleteLocalTask(5), few.clone()),
            (Op::DetachTaskLink(veth1), few),
        ] {
            change.perform(&mut *datapath).unwrap();
            assert_eq!(compare(&*datapath), suspects, "{change}");
            assert!(!datapath.is_as(&picture, &suspects).unwrap(), "{change}");
            for undone in [
                Op::DeleteSlot(slot(7)),
                Op::DeleteBackend(2),
                Op::DeleteLocalAddr(6),
            ] {
                undone.perform(&mut *datapath).unwrap();
            }
            for op in &all {
                op.perform(&mut *datapath).unwrap();
            }
            assert!(datapath.is_as(&picture, &suspects).unwrap(), "{change}");
        }
        drop(datapath);
        unpin(&options);
    });
}
