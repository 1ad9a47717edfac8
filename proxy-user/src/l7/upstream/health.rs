// SPDX-License-Identifier: MIT OR Apache-2.0
//! Active health: tasks are asked now and then, and rest when they do not answer as they should.
//!
//! As in HAProxy a task is up until it has been asked, the first failure takes a task down that was never found well,
//! and after that it takes [`Check::fall`] failures or [`Check::rise`] successes in a row to change its state. Every
//! worker asks for itself; a worker that was never asked for the service does not.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Upstream;
use super::group::Group;
use super::task::Task;
use crate::l7::limits;
use crate::l7::worker::Worker;

/// What is asked of each task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// The question.
    pub kind: CheckKind,
    /// Between two questions.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Successes in a row that take a task up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// A connection.
    Tcp,
    /// GET of a path; 2xx and 3xx are well.
    Http(Box<str>),
}

impl Check {
    /// A check with HAProxy's intervals and counts.
    pub fn new(kind: CheckKind) -> Self {
        Check {
            kind,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What checks have found of one task.
pub struct Health {
    is_up: Cell<bool>,
    was_well: Cell<bool>,
    /// Answers in a row that speak against the present state.
    against: Cell<u32>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            is_up: Cell::new(true),
            was_well: Cell::new(false),
            against: Cell::new(0),
        }
    }
}

impl Health {
    /// Whether it may get requests.
    pub fn is_up(&self) -> bool {
        self.is_up.get()
    }

    /// An answer. True when the state has changed.
    pub fn found(&self, is_well: bool, check: &Check) -> bool {
        let was_well = self.was_well.get();
        self.was_well.set(was_well || is_well);
        if is_well == self.is_up.get() {
            self.against.set(0);
            return false;
        }
        let against = self.against.get() + 1;
        let enough = match is_well {
            true => check.rise,
            false if !was_well => 1,
            false => check.fall,
        };
        self.against.set(if against >= enough { 0 } else { against });
        if against >= enough {
            self.is_up.set(is_well);
        }
        against >= enough
    }
}

/// What a worker tells others of its checks, until it asks no more.
pub struct Known {
    /// The worker.
    pub worker: usize,
    /// Whose tasks they are.
    pub upstream: std::sync::Weak<Upstream>,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.checks.ended(self.worker);
        }
    }
}

/// Asks the tasks of a group until the group is given up.
pub async fn watch(group: Weak<Group>, worker: Weak<Worker>, check: Check, known: Known) {
    let known = Rc::new(known);
    loop {
        let interval = {
            let (Some(group), Some(worker)) = (group.upgrade(), worker.upgrade()) else {
                return;
            };
            for task in group.tasks() {
                let (group, worker) = (group.clone(), worker.clone());
                tokio::task::spawn_local(ask(group, worker, task, check.clone(), known.clone()));
            }
            worker.jitter(check.interval)
        };
        tokio::time::sleep(interval).await;
    }
}

async fn ask(group: Rc<Group>, worker: Rc<Worker>, task: Rc<Task>, check: Check, known: Rc<Known>) {
    let began = Instant::now();
    let answer = tokio::time::timeout(check.timeout, question(&group, &task, &check.kind));
    let is_well = answer.await.unwrap_or(false);
    if !is_well {
        worker.counters.health_failures.up();
    }
    let took = began.elapsed();
    if task.health.found(is_well, &check) {
        let host = &group.target.host;
        tracing::info!(host, task = %task.address, up = is_well, "health");
    }
    if let Some(upstream) = known.upstream.upgrade() {
        let any_is_up = group.tasks().iter().any(|task| task.health.is_up());
        upstream.checks.asked(known.worker, is_well, took, any_is_up);
    }
}

async fn question(group: &Group, task: &Task, kind: &CheckKind) -> bool {
    let Ok(stream) = TcpStream::connect(task.address).await else {
        return false;
    };
    let CheckKind::Http(path) = kind else {
        return true;
    };
    let Ok(mut stream) = group.secure(stream).await else {
        return false;
    };
    let host = &group.target.host;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portico-health\r\nConnection: close\r\n\r\n"
    );
    if stream.write_all(request.as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    let mut line = Vec::new();
    while line.len() < limits::HEALTH_ANSWER_BYTES {
        match stream.read_buf(&mut line).await {
            Ok(count) if count > 0 => {}
            _ => return false,
        }
        if let Some(is_well) = status_is_well(&line) {
            return is_well;
        }
    }
    false
}

/// Whether an answer begins with a good status; none while that cannot be known.
fn status_is_well(line: &[u8]) -> Option<bool> {
    let start = b"HTTP/1.1 200";
    if line.len() < start.len() {
        return None;
    }
    let digits = &line[9..12];
    let is_http = line.starts_with(b"HTTP/1.") && line[8] == b' ' && digits.iter().all(u8::is_ascii_digit);
    Some(is_http && matches!(digits[0], b'2' | b'3'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(answers: &[bool]) -> Vec<bool> {
        let (health, check) = (Health::default(), Check::new(CheckKind::Tcp));
        let step = |&is_well: &bool| {
            health.found(is_well, &check);
            health.is_up()
        };
        answers.iter().map(step).collect()
    }

    #[test]
    fn states_change_after_as_many_answers_in_a_row_as_they_should() {
        let (y, n) = (true, false);
        assert_eq!(
            run(&[n, y, y]),
            [n, n, y],
            "down at the first question, up after two"
        );
        assert_eq!(
            run(&[y, n, n, y, n, n, n]),
            [y, y, y, y, y, y, n],
            "down after three in a row"
        );
        assert_eq!(run(&[n, y, n, y, y]), [n, n, n, n, y]);
    }

    #[test]
    fn only_a_good_status_is_well() {
        for (line, well) in [
            ("HTTP/1.1 200 OK", Some(true)),
            ("HTTP/1.0 302 Found", Some(true)),
            ("HTTP/1.1 404 Not", Some(false)),
            ("HTTP/1.1 503 x", Some(false)),
            ("SSH-2.0-OpenSSH", Some(false)),
            ("HTTP/1.1 2", None),
        ] {
            assert_eq!(status_is_well(line.as_bytes()), well, "{line}");
        }
    }
}
