// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health checks leave from the namespace that the target names.

use std::{net::TcpListener, path::PathBuf, sync::mpsc, thread, time::Duration};

use proxy_user::{
    health::probe,
    model::{
        HealthCheck,
        health::{Probe, Target},
    },
};

use crate::support::*;

/// A path that leads to the calling thread's network namespace from any thread of the process.
fn own_namespace() -> PathBuf {
    // SAFETY: no arguments, cannot fail.
    let thread = unsafe { libc::gettid() };
    format!("/proc/self/task/{thread}/ns/net").into()
}

#[test]
fn a_check_is_made_in_the_members_namespace() {
    if !privileged("a_check_is_made_in_the_members_namespace") {
        return;
    }
    let (tell, told) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let member = thread::spawn(move || {
        in_namespace(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            tell.send((own_namespace(), port)).unwrap();
            // Until the test has let go of its end.
            let _ended = left.recv();
        });
    });
    let (netns, port) = told.recv().unwrap();
    in_namespace(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ask = |netns: Option<PathBuf>| {
            let target = Target {
                check: HealthCheck {
                    probe: Probe::Tcp,
                    port: None,
                    interval: Duration::from_secs(1),
                    timeout: Duration::from_secs(1),
                    rise: 1,
                    fall: 1,
                },
                address: [127, 0, 0, 1].into(),
                port,
                netns,
            };
            runtime.block_on(probe(&target))
        };
        assert_eq!(ask(Some(netns)), Ok(()));
        let own = ask(None).unwrap_err();
        assert!(own.contains("Connection refused"), "{own}");
        let gone = ask(Some("/nowhere".into())).unwrap_err();
        assert!(gone.contains("No such file"), "{gone}");
    });
    drop(leave);
    member.join().unwrap();
}
