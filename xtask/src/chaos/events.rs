// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes wrong, and what is done on purpose.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::{load::Load, site};
use crate::{
    lab::{Engine, Lab, agent, docker, embedded::trouble, net, net::NODES},
    progress::{Poll, step, wait},
    signals,
};

/// Between two kills of an agent.
const KILL_INTERVAL: Duration = Duration::from_secs(1);
/// After this time the embedded cluster takes a silent node for dead. (Swarm's engines take about five seconds.)
const SILENCE: Duration = Duration::from_secs(3);
/// How long it may take until the other engines know that a node is gone.
const NOTICED: Duration = Duration::from_secs(90);

/// How long things take and how far they go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long the agents are killed.
    pub kill: Duration,
    /// How long the load runs before and after an event, and at each number of tasks.
    pub calm: Duration,
    /// How long a node stays away after that is known, and how long it is watched when it is back.
    pub away: Duration,
    /// go-demo has five replicas, then one, then so many, then five again.
    pub replicas_max: usize,
}

impl Pace {
    /// What `cargo xtask chaos` does.
    pub fn whole(kill: Duration) -> Pace {
        Pace {
            kill,
            calm: Duration::from_secs(2),
            away: Duration::from_secs(5),
            replicas_max: 20,
        }
    }

    /// For `cargo xtask test` and `--quick`: the embedded lab's events in about a minute.
    pub const SHORT: Pace = Pace {
        kill: Duration::from_secs(5),
        calm: Duration::from_secs(1),
        away: Duration::from_millis(3500),
        replicas_max: 8,
    };
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Event {
    /// Nothing happens: what the load costs by itself
    Calm,
    /// SIGKILL of every agent, every second
    Kill,
    /// Rolling update of go-demo's five replicas
    Update,
    /// go-demo 5 → 1 → 20 → 5
    Scale,
    /// A node's engine stops (docker), or its power goes (embedded), and it comes back
    Node,
    /// A node's link is cut and restored
    Link,
}

/// A node that was away. Times are on the load's clock.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub node: &'static str,
    /// Since when it is gone.
    pub at: Duration,
    /// Since when the providers of all other nodes know.
    pub known: Duration,
    /// Since when it is there again.
    pub back: Duration,
}

impl Event {
    /// In the order in which they run: those that leave the cluster as it was first.
    pub const ALL: [Event; 6] = [
        Event::Calm,
        Event::Kill,
        Event::Update,
        Event::Scale,
        Event::Link,
        Event::Node,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Event::Calm => "calm",
            Event::Kill => "kill",
            Event::Update => "update",
            Event::Scale => "scale",
            Event::Node => "node",
            Event::Link => "link",
        }
    }

    /// Lets it happen under load, with some calm on both sides.
    pub fn happen(self, lab: &mut Lab, load: &Load, pace: Pace) -> Result<Option<Loss>> {
        pause(pace.calm)?;
        let loss = match self {
            Event::Calm => pause(pace.calm).map(|()| None),
            Event::Kill => kill(lab, pace.kill).map(|()| None),
            Event::Update => update(lab).map(|()| None),
            Event::Scale => scale(lab, pace).map(|()| None),
            Event::Node => lose_node(lab, load, pace).map(Some),
            Event::Link => cut_link(lab, load, pace).map(Some),
        }
        .with_context(|| self.name())?;
        pause(pace.calm)?;
        Ok(loss)
    }
}

/// Waits, but not for somebody who wants an end.
fn pause(time: Duration) -> Result<()> {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        signals::check()?;
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
    Ok(())
}

fn kill(lab: &mut Lab, kill_for: Duration) -> Result<()> {
    let start = std::time::Instant::now();
    let mut next = start;
    while start.elapsed() < kill_for {
        for node in NODES {
            let process = lab.state.processes.get(&agent::process_name(node));
            process.context("no agent")?.kill()?;
            agent::start(&mut lab.state, node)?;
        }
        next += KILL_INTERVAL;
        pause(next.saturating_duration_since(std::time::Instant::now()))?;
    }
    lab.wait_agents()
}

fn update(lab: &mut Lab) -> Result<()> {
    match lab.state.engine {
        Engine::Embedded => trouble::update(&mut lab.state, "go-demo")?,
        Engine::Docker => docker::update("go-demo")?,
    }
    lab.wait_running("go-demo", site::REPLICAS)
}

fn scale(lab: &mut Lab, pace: Pace) -> Result<()> {
    for replicas in [1, pace.replicas_max, site::REPLICAS] {
        step(format!("  go-demo={replicas}"));
        lab.scale("go-demo", replicas)?;
        // Time for a request by every way while it is so.
        pause(pace.calm)?;
    }
    Ok(())
}

fn lose_node(lab: &mut Lab, load: &Load, pace: Pace) -> Result<Loss> {
    let node = site::expendable(lab)?;
    step(format!("  {node}"));
    let at = load.now();
    match lab.state.engine {
        Engine::Embedded => trouble::power_off(&lab.state, node)?,
        Engine::Docker => docker::stop_engine(&lab.state, node)?,
    }
    let known = know(lab, node, load)?;
    pause(pace.away)?;
    match lab.state.engine {
        Engine::Embedded => {
            trouble::power_on(&mut lab.state, node)?;
            trouble::declare_back(&mut lab.state)?;
        }
        Engine::Docker => docker::start_engine_again(&mut lab.state, node)?,
    }
    returned(
        lab,
        Loss {
            node,
            at,
            known,
            back: load.now(),
        },
        pace,
    )
}

fn cut_link(lab: &mut Lab, load: &Load, pace: Pace) -> Result<Loss> {
    let node = site::expendable(lab)?;
    step(format!("  {node}"));
    let at = load.now();
    net::set_link(node, false)?;
    // Whatever happens meanwhile, the cable is put back.
    let known = know(lab, node, load).and_then(|known| pause(pace.away).map(|()| known));
    net::set_link(node, true)?;
    let known = known?;
    let back = load.now();
    if lab.state.engine == Engine::Embedded {
        trouble::declare_back(&mut lab.state)?;
    }
    returned(
        lab,
        Loss {
            node,
            at,
            known,
            back,
        },
        pace,
    )
}

/// Waits until the providers of all other nodes know that a node is gone.
fn know(lab: &mut Lab, lost: &str, load: &Load) -> Result<Duration> {
    if lab.state.engine == Engine::Embedded {
        pause(SILENCE)?;
        trouble::declare_lost(&mut lab.state, lost)?;
        return Ok(load.now());
    }
    let others = NODES.into_iter().filter(|node| *node != lost);
    for node in others {
        wait(&format!("{node} knows that {lost} is gone"), NOTICED, || {
            let listed = docker::tasks_listed(node, "go-demo", lost)?;
            Ok(if listed == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending(format!("{listed} tasks of go-demo there"))
            })
        })?;
    }
    Ok(load.now())
}

/// A node that is back has its tasks or others have them, and its agent has nothing left to do.
fn returned(lab: &Lab, loss: Loss, pace: Pace) -> Result<Loss> {
    if lab.state.engine == Engine::Docker {
        docker::wait_nodes_ready()?;
    }
    lab.wait_running("go-demo", site::REPLICAS)?;
    lab.wait_agents()?;
    // What a client and the engines remember of the dead node has to age out.
    pause(pace.away)?;
    if lab.state.engine == Engine::Docker {
        engines_disagree()?;
    }
    Ok(loss)
}

/// Says which engines do not list tasks that run: an agent can send nobody to a task that its engine does not know.
fn engines_disagree() -> Result<()> {
    for (service, replicas) in [("go-demo", site::REPLICAS), ("proxy", 1)] {
        for engine in NODES {
            let mut listed = 0;
            for node in NODES {
                listed += docker::tasks_listed(engine, service, node)?;
            }
            if listed != replicas {
                step(format!(
                    "  the engine of {engine} lists {listed} of {replicas} task(s) of {service}"
                ));
            }
        }
    }
    Ok(())
}
