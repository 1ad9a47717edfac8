// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tour's questions (DESIGN.md, section 1), asked from the client's namespace. Demo and tests share them.

use std::{
    collections::BTreeMap,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cmd,
    lab::{
        Lab,
        net::{CLIENT, CLIENT_ADDRESS, NODES},
        text_of,
    },
    progress::{Poll, wait},
};

/// The article's call that makes go-demo reachable.
pub const RECONFIGURE: &str =
    "node-1:8080/v1/docker-flow-proxy/reconfigure?serviceName=go-demo&servicePath=/demo&port=8080";
/// Replicas after scaling.
pub const SCALED: usize = 5;
/// Requests of one round through one node.
pub const REQUESTS: usize = 1000;
/// A replica's share in percent: its fifth, give or take four.
const SHARE: std::ops::RangeInclusive<f64> = 16.0..=24.0;
/// curl's exit code for a connection that was refused (a timeout is 28).
const CURL_REFUSED: i32 = 7;

/// Runs curl as the client.
pub fn curl(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    cmd::output(
        lab.inside(CLIENT)?
            .args(["curl", "--silent", "--show-error", "--max-time", "10"])
            .args(arguments),
    )
}

/// Waits until the proxy's API answers on its published port through every node.
pub fn wait_published(lab: &Lab) -> Result<()> {
    for node in NODES {
        wait(
            &format!("port 8080 of {node} answers"),
            Duration::from_secs(60),
            || {
                let output = curl(lab, &[&format!("{node}:8080/v1/docker-flow-proxy/ping")])?;
                Ok(if output.status.success() {
                    Poll::Ready(())
                } else {
                    Poll::Pending(text_of(&output))
                })
            },
        )?;
    }
    Ok(())
}

/// Asks again until it holds: a Swarm tells its nodes of a change one after the other. The error is the last one.
pub fn eventually(what: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    wait(what, Duration::from_secs(15), || {
        Ok(match check() {
            Ok(()) => Poll::Ready(()),
            Err(error) => Poll::Pending(format!("{error:#}")),
        })
    })
}

/// An answer to reconfigure is good when it is a 200.
pub fn check_reconfigured(lab: &Lab) -> Result<String> {
    let answer = text_of(&curl(lab, &["-i", RECONFIGURE])?);
    ensure!(
        status(&answer) == Some(200),
        "expected status 200, found:\n{answer}"
    );
    Ok(answer)
}

/// `curl -i NODE/demo/hello` → 200 and the greeting.
pub fn check_hello(lab: &Lab, node: &str) -> Result<String> {
    let answer = text_of(&curl(lab, &["-i", &format!("{node}/demo/hello")])?);
    let good = status(&answer) == Some(200) && answer.ends_with("hello, world!\n");
    ensure!(good, "expected status 200 and `hello, world!`, found:\n{answer}");
    Ok(answer)
}

fn status(answer: &str) -> Option<u16> {
    answer
        .strip_prefix("HTTP/1.1 ")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Waits until a change of go-demo's tasks has come through: every one of them gets its share. The proxy's kept
/// connections still go to the tasks from before; they age out within seconds.
pub fn wait_shared(lab: &Lab) -> Result<Duration> {
    let start = Instant::now();
    wait(
        "every replica of go-demo has its share",
        Duration::from_secs(15),
        || {
            Ok(match check_shares(lab, NODES[0]) {
                Ok(_) => Poll::Ready(start.elapsed()),
                Err(error) => Poll::Pending(format!("{error:#}")),
            })
        },
    )
}

/// Who answered, and whom they saw.
#[derive(Debug, Default)]
pub struct Round {
    pub replicas: BTreeMap<String, usize>,
    pub clients: BTreeMap<String, usize>,
    pub answers: usize,
}

/// Asks `/demo/whoami` at `NODE[:PORT]`, a new connection for each request.
pub fn round(lab: &Lab, place: &str, requests: usize) -> Result<Round> {
    let url = format!("http://{place}/demo/whoami?request=[1-{requests}]");
    let output = curl(lab, &["-H", "Connection: close", &url])?;
    let mut round = Round::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(answer) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let field = |name: &str| answer[name].as_str().unwrap_or("?").to_owned();
        *round.replicas.entry(field("hostname")).or_default() += 1;
        *round.clients.entry(field("client")).or_default() += 1;
        round.answers += 1;
    }
    Ok(round)
}

/// 1 000 requests through a node: all answered, each replica with its share.
pub fn check_shares(lab: &Lab, node: &str) -> Result<Round> {
    let round = round(lab, node, REQUESTS)?;
    ensure!(
        round.answers == REQUESTS,
        "expected {REQUESTS} answers through {node}, found {}",
        round.answers
    );
    for task in lab.tasks("go-demo")? {
        let share = share(&round, &task.hostname);
        ensure!(
            SHARE.contains(&share),
            "expected 20 % ± 4 for {} through {node}, found {share:.1} %: {:?}",
            task.hostname,
            round.replicas
        );
    }
    Ok(round)
}

/// A replica's share in percent.
pub fn share(round: &Round, hostname: &str) -> f64 {
    let count = round.replicas.get(hostname).copied().unwrap_or(0);
    count as f64 * 100.0 / REQUESTS as f64
}

/// go-demo saw the client's own address, in its answer and in its log.
pub fn check_client_address(lab: &Lab) -> Result<String> {
    for node in NODES {
        let round = round(lab, node, 10)?;
        let seen: Vec<&String> = round.clients.keys().collect();
        ensure!(
            seen == [CLIENT_ADDRESS],
            "expected only {CLIENT_ADDRESS} as the client through {node}, found {seen:?}"
        );
    }
    let log = lab.service_log("go-demo")?;
    let wanted = format!("client={CLIENT_ADDRESS} ");
    match log
        .lines()
        .rev()
        .find(|line| line.contains("/demo/") && line.contains(&wanted))
    {
        Some(line) => Ok(line.to_owned()),
        None => bail!("expected `{wanted}` in the log of go-demo, found:\n{log}"),
    }
}

/// A TCP connection from a namespace is refused, at once and not by a timeout.
pub fn check_refused_tcp(lab: &Lab, namespace: &str, target: &str) -> Result<()> {
    let mut command = lab.inside_namespace(namespace);
    command.args([
        "curl",
        "--silent",
        "--show-error",
        "--connect-timeout",
        "3",
        "--max-time",
        "5",
    ]);
    let output = cmd::output(command.arg(format!("http://{target}/")))?;
    let refused = output.status.code() == Some(CURL_REFUSED);
    ensure!(
        refused,
        "expected a refused connection to {target}, found {}: {}",
        output.status,
        text_of(&output)
    );
    Ok(())
}

/// One UDP question from a namespace; the answer, or what go-demo's client said instead.
pub fn ask_udp(lab: &Lab, namespace: &str, target: &str) -> Result<Result<String, String>> {
    let mut command = lab.inside_namespace(namespace);
    let output = cmd::output(
        command
            .arg(crate::paths::binary("go-demo"))
            .args(["udp", target, "knock"]),
    )?;
    let text = text_of(&output).trim().to_owned();
    Ok(if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    })
}

/// A UDP question is answered by a task of the service.
pub fn check_udp(lab: &Lab, namespace: &str, target: &str, service: &str) -> Result<()> {
    let answer = ask_udp(lab, namespace, target)?
        .map_err(anyhow::Error::msg)
        .context("no answer")?;
    let known = lab
        .tasks(service)?
        .iter()
        .any(|task| answer == format!("{} knock", task.hostname));
    ensure!(known, "expected `<a task of {service}> knock`, found `{answer}`");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status("HTTP/1.1 200 OK\r\n\r\nhello"), Some(200));
        assert_eq!(status("curl: (7) Failed"), None);
    }

    #[test]
    fn a_replica_that_never_answered_has_no_share() {
        let mut round = Round::default();
        round.replicas.insert("a".to_owned(), 200);
        assert_eq!(share(&round, "a"), 20.0);
        assert_eq!(share(&round, "b"), 0.0);
    }
}
