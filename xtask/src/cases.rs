// SPDX-License-Identifier: MIT OR Apache-2.0
//! The labs' end-to-end cases. Each name is a claim; a lab's cases run in order on one cluster.

mod policies;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    chaos::{self, Event, Pace},
    cmd,
    lab::{
        Engine, Lab, agent, down,
        net::{self, CLIENT, NODES},
        spec, state, text_of,
    },
    paths, signals,
    test::Tally,
    tour,
};

/// Runs all cases of an engine's lab and removes it.
pub fn run(engine: Engine, tally: &mut Tally) {
    let mut cases = Cases {
        prefix: format!("lab::{}", engine.name()),
        tally,
    };
    let mut lab = None;
    cases.check("nodes_agents_and_services_come_up", || {
        lab = Some(Lab::up(engine, false)?);
        lab.as_mut().map_or(Ok(()), services)
    });
    if let Some(lab) = &mut lab
        && cases.tally.failed_with(&cases.prefix) == 0
    {
        all(lab, &mut cases);
    }
    if let Some(lab) = &lab
        && cases.tally.failed_with(&cases.prefix) > 0
    {
        println!("{}", lab.diagnose());
    }
    signals::uninterrupted(|| {
        cases.check("lab_down_leaves_nothing", || {
            down::down(None)?;
            let left = down::leftovers()?;
            ensure!(left.is_empty(), "left behind: {}", left.join(", "));
            Ok(())
        });
    });
}

struct Cases<'a> {
    prefix: String,
    tally: &'a mut Tally,
}

impl Cases<'_> {
    fn check(&mut self, name: &str, case: impl FnOnce() -> Result<()>) {
        let result = signals::check().and_then(|()| case());
        self.tally.case(&format!("{}::{name}", self.prefix), result);
    }
}

fn services(lab: &mut Lab) -> Result<()> {
    for network in spec::NETWORKS {
        lab.create_network(network)?;
    }
    let go_demo = chaos::site::go_demo(spec::REPLICAS);
    for service in [spec::go_demo_db(), go_demo, spec::proxy(), spec::echo()] {
        let (name, replicas) = (service.name.clone(), service.replicas);
        lab.create_service(service)?;
        lab.wait_running(&name, replicas)?;
    }
    lab.wait_agents()?;
    tour::wait_published(lab)
}

fn all(lab: &mut Lab, cases: &mut Cases) {
    cases.check("reconfigure_answers_200", || {
        tour::check_reconfigured(lab).map(|_| ())
    });
    for node in NODES {
        cases.check(&format!("hello_answers_through_{node}"), || {
            tour::check_hello(lab, node).map(|_| ())
        });
    }
    cases.check(
        "a_person_put_through_the_proxy_is_read_back_from_the_database",
        || person(lab),
    );
    cases.check(
        "scaling_alone_gives_every_new_replica_its_share_within_seconds",
        || {
            lab.scale("go-demo", tour::SCALED)?;
            tour::wait_shared(lab).map(|_| ())
        },
    );
    for node in NODES {
        cases.check(&format!("replicas_get_their_fifth_through_{node}"), || {
            tour::check_shares(lab, node).map(|_| ())
        });
    }
    cases.check("go_demo_sees_the_clients_address", || {
        tour::check_client_address(lab).map(|_| ())
    });
    cases.check("udp_to_the_vip_is_answered_by_a_task", || {
        let target = format!("{}:8081", lab.vip("echo", "go-demo")?);
        tour::eventually("UDP to the VIP", || {
            tour::check_udp(lab, &task_of_go_demo(lab)?, &target, "echo")
        })
    });
    cases.check("a_vip_answers_ping_in_a_task_and_nowhere_else", || ping(lab));
    for node in NODES {
        cases.check(&format!("published_udp_is_answered_through_{node}"), || {
            let (client, target) = (net::namespace_path(CLIENT), format!("{node}:8081"));
            tour::eventually("published UDP", || tour::check_udp(lab, &client, &target, "echo"))
        });
    }
    for node in NODES {
        cases.check(
            &format!("killed_agent_of_{node}_keeps_forwarding_and_a_restart_changes_nothing"),
            || kill_and_restart(lab, node),
        );
    }
    policies::all(lab, cases);
    cases.check("scaling_down_drops_no_request", || scale_down(lab));
    without_backends(lab, cases);
    under_load(lab, cases);
}

/// What `cargo xtask chaos` does, in short: what an event costs, in failed requests.
fn under_load(lab: &mut Lab, cases: &mut Cases) {
    cases.check("a_load_on_every_way_to_go_demo_loses_nothing_in_calm", || {
        chaos::site::raise(lab)?;
        chaos::check(lab, Event::Calm, Pace::SHORT)
    });
    let engine = lab.state.engine;
    let mut check = |name, event| cases.check(name, || chaos::check(lab, event, Pace::SHORT));
    check("killing_every_agent_each_second_costs_no_request", Event::Kill);
    check(
        "a_rolling_update_of_five_replicas_costs_no_request",
        Event::Update,
    );
    if engine == Engine::Embedded {
        check("a_cut_link_costs_only_its_own_nodes_flows", Event::Link);
        check("a_lost_node_costs_only_its_own_flows", Event::Node);
    }
}

fn task_of_go_demo(lab: &Lab) -> Result<String> {
    Ok(lab
        .tasks("go-demo")?
        .into_iter()
        .next()
        .context("go-demo has no task")?
        .namespace)
}

fn ping(lab: &Lab) -> Result<()> {
    let vip = lab.vip("echo", "go-demo")?;
    let ping = |namespace: &str| {
        let mut command = lab.inside_namespace(namespace);
        cmd::output(command.args(["ping", "-n", "-c", "1", "-W", "1", &vip]))
    };
    let task = task_of_go_demo(lab)?;
    tour::eventually("ping", || {
        let output = ping(&task)?;
        ensure!(
            output.status.success(),
            "no answer from {vip}: {}",
            text_of(&output)
        );
        Ok(())
    })?;
    // The address is inside its network only.
    let output = ping(&net::namespace_path(CLIENT))?;
    ensure!(!output.status.success(), "{vip} answers the client outside");
    Ok(())
}

fn person(lab: &Lab) -> Result<()> {
    let url = "node-2/demo/person?name=ada";
    let put = text_of(&tour::curl(
        lab,
        &["--request", "PUT", "--data", "first programmer", url],
    )?);
    let got = text_of(&tour::curl(lab, &[url])?);
    ensure!(
        got.contains("first programmer"),
        "PUT answered `{put}`, GET answered `{got}`"
    );
    Ok(())
}

/// A keep-alive connection of the client that lives through what happens meanwhile.
struct Held {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Held {
    fn open(lab: &Lab, node: &str) -> Result<Held> {
        let mut command = lab.inside(CLIENT)?;
        command
            .arg(paths::binary("go-demo"))
            .args(["hold", &format!("{node}:80"), "/demo/hello"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("stdout")?);
        let mut held = Held { child, answers };
        held.ask()?;
        Ok(held)
    }

    fn ask(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin")?;
        stdin.write_all(b"\n").context("the held connection has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(
            answer.trim() == "200 OK",
            "expected 200 OK on the held connection, found `{}`",
            answer.trim()
        );
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended already; it must not be left as a zombie.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill_and_restart(lab: &mut Lab, node: &str) -> Result<()> {
    let mut held = Held::open(lab, node)?;
    let before = facts(lab, node)?;
    let name = agent::process_name(node);
    lab.state.processes.get(&name).context("no agent")?.kill()?;
    let round = |lab: &Lab, when: &str| {
        let answers: usize = tour::round(lab, node, 50)?.replicas.values().sum();
        ensure!(
            answers == 50,
            "expected 50 answers through {node} {when}, found {answers}"
        );
        Ok(())
    };
    held.ask().context("after SIGKILL")?;
    round(lab, "after SIGKILL")?;
    agent::start(&mut lab.state, node)?;
    held.ask().context("while the agent starts")?;
    agent::wait_ready(&lab.state, node)?;
    held.ask().context("after the restart")?;
    round(lab, "after the restart")?;
    let after = facts(lab, node)?;
    ensure!(
        before == after,
        "expected the same services and pins after the restart, found\n{before}\nand\n{after}"
    );
    Ok(())
}

/// What an agent's restart must not change: its services, and the names of its pins.
fn facts(lab: &Lab, node: &str) -> Result<String> {
    let services = cmd::text(&mut agent::verb(
        lab.state.engine,
        node,
        &["service", "ls", "--json"],
    ))?;
    let mut pins = Vec::new();
    pinned(
        &state::folder(lab.state.engine).join("bpffs").join(node),
        &mut pins,
    )?;
    pins.sort();
    Ok(format!("{}\n{}", services.trim(), pins.join("\n")))
}

fn pinned(folder: &std::path::Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            pinned(&path, found)?;
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Requests run while tasks go away; each is answered.
fn scale_down(lab: &mut Lab) -> Result<()> {
    let url = "http://node-1/demo/whoami?request=[1-3000]";
    let mut command = lab.inside(CLIENT)?;
    command.args([
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        "-H",
        "Connection: close",
        url,
    ]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let scaled = lab.scale("go-demo", spec::REPLICAS);
    let output = cmd::output_within(child, Duration::from_secs(180))?;
    scaled?;
    let good = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("hostname"))
        .count();
    ensure!(
        good == 3000,
        "expected 3000 answers, found {good}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn without_backends(lab: &mut Lab, cases: &mut Cases) {
    let vip = lab.vip("echo", "go-demo");
    cases.check("a_service_can_be_scaled_to_nothing", || {
        lab.scale("echo", 0)?;
        lab.wait_agents()
    });
    let Ok(vip) = vip else { return };
    cases.check("tcp_to_a_vip_without_backends_is_refused_at_once", || {
        refused_tcp(lab, &task_of_go_demo(lab)?, &format!("{vip}:8080"))
    });
    cases.check("udp_to_a_vip_without_backends_is_refused_at_once", || {
        refused_udp(lab, &task_of_go_demo(lab)?, &format!("{vip}:8081"))
    });
    for node in NODES {
        let client = net::namespace_path(CLIENT);
        cases.check(
            &format!("published_tcp_without_backends_is_refused_through_{node}"),
            || refused_tcp(lab, &client, &format!("{node}:8082")),
        );
        cases.check(
            &format!("published_udp_without_backends_is_refused_through_{node}"),
            || refused_udp(lab, &client, &format!("{node}:8081")),
        );
    }
    cases.check("a_service_without_backends_takes_no_other_with_it", || {
        tour::check_hello(lab, NODES[0]).map(|_| ())
    });
}

fn refused_tcp(lab: &Lab, namespace: &str, target: &str) -> Result<()> {
    tour::eventually("refused", || tour::check_refused_tcp(lab, namespace, target))
}

fn refused_udp(lab: &Lab, namespace: &str, target: &str) -> Result<()> {
    tour::eventually("refused", || {
        let answer = tour::ask_udp(lab, namespace, target)?;
        let refused = matches!(&answer, Err(message) if message.contains("refused"));
        ensure!(
            refused,
            "expected `Connection refused` from {target}, found {answer:?}"
        );
        Ok(())
    })
}
