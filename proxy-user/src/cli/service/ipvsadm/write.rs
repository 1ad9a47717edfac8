// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services as lines that `ipvsadm -R` and `portico service import` read.

use std::net::{Ipv4Addr, SocketAddr};

use super::Virtual;
use crate::{
    model::{ClientMode, Policy, Protocol, Scheduler, Vip, snapshot::HOST},
    providers::api::{ServiceSpec, State},
};

/// All services as lines, and what has no words in this format.
pub(in super::super) fn write(state: &State) -> (String, Vec<String>) {
    let (mut lines, mut left_out) = (String::new(), Vec::new());
    for (name, spec) in &state.services {
        let mut note = |text: String| left_out.push(format!("service {name}: {text}"));
        for (field, is_there) in [
            ("ports", !spec.ports.is_empty()),
            ("health", spec.health.is_some()),
            ("allow", !spec.allow.is_empty()),
            ("deny", !spec.deny.is_empty()),
        ] {
            if is_there {
                note(format!("{field}: IPVS has nothing like it"));
            }
        }
        if !spec.tasks.is_empty() {
            note("is left out: its tasks are known to the other provider only".into());
            continue;
        }
        for text in &spec.vips {
            match of_vip(text).and_then(|at| block(at, spec)) {
                Ok((block, problem)) => {
                    lines.push_str(&block);
                    problem.into_iter().for_each(&mut note);
                }
                Err(why) => note(format!("VIP {text} is left out: {why}")),
            }
        }
    }
    (lines, left_out)
}

/// The address of a VIP that IPVS could have.
pub(in super::super) fn of_vip(text: &str) -> Result<Virtual, String> {
    let (network, address) = text.split_once('=').unwrap_or((HOST, text));
    if network != HOST {
        return Err("IPVS knows no networks".into());
    }
    let (address, port) = Vip::parse(address)?;
    let port = port.ok_or("IPVS has one port, or all of one protocol")?;
    Ok((address, port))
}

/// The lines of one virtual service, and what they do not say.
pub(in super::super) fn block(at: Virtual, spec: &ServiceSpec) -> Result<(String, Option<String>), String> {
    let (address, port) = at;
    let flag = match port.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
    };
    let policy = Policy::new(&spec.policy()).map_err(|wrong| {
        wrong
            .first()
            .map(|wrong| wrong.message.clone())
            .unwrap_or_default()
    })?;
    let service = format!("{flag} {}", SocketAddr::new(address.0, port.port));
    let mut lines = format!("-A {service} -s {}", policy.scheduler.as_str());
    if let Some(affinity) = policy.affinity {
        lines.push_str(&format!(" -p {}", affinity.seconds));
        if affinity.prefix < 32 {
            let mask = u32::MAX << (32 - u32::from(affinity.prefix));
            lines.push_str(&format!(" -M {}", Ipv4Addr::from(mask)));
        }
    }
    match policy.scheduler {
        Scheduler::Random => return Err("IPVS has no scheduler random".into()),
        Scheduler::SourceHash => lines.push_str(" -b sh-fallback"),
        Scheduler::Maglev => lines.push_str(" -b mh-fallback,mh-port"),
        _ => {}
    }
    lines.push('\n');
    let mut backends = Vec::new();
    for (text, backend) in &spec.backends {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("'{text}' is not ADDRESS:PORT"))?;
        let weight = if backend.draining {
            0
        } else {
            backend.weight.unwrap_or(1)
        };
        backends.push((address, weight));
    }
    let keeps_port = !backends.is_empty() && backends.iter().all(|(address, _)| address.port() == port.port);
    let (forward, problem) = match policy.client {
        ClientMode::Preserve => ("-m", None),
        ClientMode::Dsr if keeps_port => ("-g", None),
        ClientMode::Dsr => (
            "-m",
            Some("client dsr: IPVS has it only where backends have the VIP's port"),
        ),
        ClientMode::Masquerade => ("-m", Some("client masquerade: IPVS has nothing like it")),
    };
    for (address, weight) in backends {
        lines.push_str(&format!("-a {service} -r {address} {forward} -w {weight}\n"));
    }
    Ok((lines, problem.map(str::to_owned)))
}
