// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: the tour, each command with its real output.

use anyhow::{Context as _, Result};

use crate::{
    build, cmd,
    lab::{
        self, Engine, Lab, PREPARED, docker, down,
        net::{CLIENT_ADDRESS, NODES},
        spec,
    },
    progress::step,
    setup, signals, tour,
};

#[derive(clap::Args)]
pub struct Args {
    /// Who runs the tasks
    #[arg(long, value_enum, default_value = "embedded")]
    engine: Engine,
    /// Leave the lab standing (`cargo xtask lab down` removes it)
    #[arg(long)]
    keep: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<u8> {
    if std::env::var_os(PREPARED).is_none() {
        let code = setup::run(setup::For::Demo, false)?;
        if code != 0 {
            return Ok(code);
        }
        build::binaries()?;
    }
    if !cmd::is_root() {
        let mut words = vec!["demo", "--engine", args.engine.name()];
        words.extend(args.keep.then_some("--keep"));
        return cmd::again_as_root(&words);
    }
    lab::refuse_second()?;
    signals::install();
    let held = tour(args.engine);
    if args.keep {
        step("the lab stays up; `cargo xtask lab down` removes it");
    } else {
        signals::uninterrupted(|| down::down(None))?;
    }
    match held? {
        0 => {
            println!("\nEvery step held.");
            Ok(0)
        }
        failed => {
            println!("\n{failed} step(s) did not hold.");
            Ok(1)
        }
    }
}

/// Makes the lab, walks the tour; how many steps did not hold.
fn tour(engine: Engine) -> Result<usize> {
    let mut lab = Lab::up(engine, false)?;
    let mut tour = Tour { failed: 0 };
    let made = tour.services(&mut lab);
    if let Err(error) = made {
        println!("{}", lab.diagnose());
        return Err(error);
    }
    tour.step(&lab, "3. Make go-demo reachable: one call", |lab| {
        print_command(&format!("curl \"{}\"", tour::RECONFIGURE));
        println!("{}", tour::check_reconfigured(lab)?.trim_end());
        Ok(())
    });
    for node in NODES {
        tour.step(&lab, &format!("4. Use it, through {node}"), |lab| {
            print_command(&format!("curl -i {node}/demo/hello"));
            println!("{}", tour::check_hello(lab, node)?.trim_end());
            Ok(())
        });
    }
    let scaled = tour.scale(&mut lab, engine);
    tour.step(&lab, "5. … and all five get their share", |lab| {
        scaled?;
        let after = tour::wait_shared(lab)?;
        println!(
            "{:.1} s after scaling (the proxy's kept connections age out)",
            after.as_secs_f64()
        );
        Ok(())
    });
    tour.step(
        &lab,
        &format!(
            "5. … a fifth for each: {} requests through each node",
            tour::REQUESTS
        ),
        shares,
    );
    tour.step(
        &lab,
        "Beyond the article: go-demo sees the client's address",
        |lab| {
            let line = tour::check_client_address(lab)?;
            println!("the client is {CLIENT_ADDRESS}; go-demo's log says:\n  {line}");
            Ok(())
        },
    );
    signals::check()?;
    Ok(tour.failed)
}

struct Tour {
    failed: usize,
}

impl Tour {
    /// Runs a step, says whether it held, and shows everything about the cluster the first time one did not.
    fn step(&mut self, lab: &Lab, title: &str, check: impl FnOnce(&Lab) -> Result<()>) {
        if signals::check().is_err() {
            return;
        }
        println!("\n=== {title}");
        match check(lab) {
            Ok(()) => println!("--- held"),
            // What was under way had its processes taken away: that says nothing about Portico.
            Err(_) if signals::check().is_err() => println!("--- interrupted"),
            Err(error) => {
                println!("--- DID NOT HOLD: {error:#}");
                if self.failed == 0 {
                    println!("{}", lab.diagnose());
                }
                self.failed += 1;
            }
        }
    }

    fn services(&mut self, lab: &mut Lab) -> Result<()> {
        println!("\n=== 1. Three nodes, networks, go-demo and its database");
        if lab.state.engine == Engine::Docker {
            print_command("docker node ls");
            println!(
                "{}",
                cmd::text(docker::client("node-1").args(["node", "ls"]))?.trim_end()
            );
        }
        for network in spec::NETWORKS {
            announce(
                lab,
                &docker::network_command(network),
                &format!("network {network}"),
            );
            lab.create_network(network)?;
        }
        create(lab, spec::go_demo_db())?;
        create(lab, spec::go_demo())?;
        println!("\n=== 2. The proxy");
        create(lab, spec::proxy())?;
        lab.wait_agents()?;
        tour::wait_published(lab)?;
        println!("--- held");
        Ok(())
    }

    fn scale(&mut self, lab: &mut Lab, engine: Engine) -> Result<()> {
        println!("\n=== 5. Scale, and nothing else");
        match engine {
            Engine::Docker => print_command(&format!("docker service scale go-demo={}", tour::SCALED)),
            Engine::Embedded => print_command(&format!("cargo xtask lab scale go-demo={}", tour::SCALED)),
        }
        lab.scale("go-demo", tour::SCALED)
    }
}

fn create(lab: &mut Lab, service: spec::Service) -> Result<()> {
    let (name, replicas) = (service.name.clone(), service.replicas);
    announce(
        lab,
        &docker::service_command(&service),
        &format!("service {name}, {replicas} task(s)"),
    );
    lab.create_service(service)?;
    lab.wait_running(&name, replicas)?;
    for task in lab.tasks(&name)? {
        println!("  {} runs on {}", task.name, task.node);
    }
    Ok(())
}

/// With real engines the command; the embedded cluster says what it does instead of it.
fn announce(lab: &Lab, words: &[String], instead: &str) {
    match lab.state.engine {
        Engine::Docker => print_command(&format!("docker {}", words.join(" "))),
        Engine::Embedded => println!("(embedded cluster) {instead}"),
    }
}

fn print_command(command: &str) {
    println!("$ {command}");
}

fn shares(lab: &Lab) -> Result<()> {
    let mut rounds = Vec::new();
    let mut first_error = None;
    for node in NODES {
        match tour::check_shares(lab, node) {
            Ok(round) => rounds.push(round),
            Err(error) => {
                // The table is worth more with what was found than without.
                first_error.get_or_insert(error);
                rounds.push(tour::round(lab, node, tour::REQUESTS).context("second look")?);
            }
        }
    }
    println!(
        "{:<24}{}",
        "replica",
        NODES.map(|node| format!("{node:>18}")).concat()
    );
    for task in lab.tasks("go-demo")? {
        let cells = rounds.iter().map(|round| {
            let count = round.replicas.get(&task.hostname).copied().unwrap_or(0);
            format!("{count:>9} {:>6.1} %", tour::share(round, &task.hostname))
        });
        println!(
            "{:<24}{}",
            format!("{} ({})", task.hostname, task.node),
            cells.collect::<String>()
        );
    }
    first_error.map_or(Ok(()), Err)
}
