// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which tasks the engine's own DNS still names.
//!
//! A Swarm takes a task out of its load balancing two seconds before it is told to end. The verbose answer about a
//! network does not say so: the task is listed until it has ended. The engine's DNS does: `tasks.SERVICE.NETWORK` is
//! answered from the same state, without the tasks that are on their way out. It listens on 127.0.0.11 in the namespace
//! of every container on a network that Swarm manages, so a worker asks there, through a container of its own. Managers
//! read it in `/tasks`.
//!
//! An answer is believed only as far as it goes: no answer, an error or an empty one says nothing, because an engine
//! without records for a name asks the resolvers of its machine. The ingress network has no names; a task that also is
//! on another network is recognised by its name there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::translate::{Container, Engine};
use crate::kernel::netns;

/// (network id, service) -> addresses of the tasks that take new connections.
pub type Enabled = BTreeMap<(String, String), BTreeSet<String>>;

/// Where an engine answers names, in a container's namespace.
const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// All questions of one look together. The engine answers from memory, in less than a millisecond each; a name that it
/// does not know waits for the machine's resolvers, and then the rest is not asked in this look.
const PATIENCE: Duration = Duration::from_millis(500);
/// Questions of one look: at a millisecond each they take half of [`PATIENCE`].
const QUESTIONS_MAX: usize = 256;

/// One question.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    netns: PathBuf,
    name: String,
    /// Network id and service.
    about: (String, String),
}

/// Asks about every service that is listed on a network where this node has a container.
pub async fn ask(networks: &[Value], containers: &[Container]) -> Enabled {
    let questions = questions(networks, containers);
    let mut enabled = Enabled::new();
    let asked = ask_all(&questions, &mut enabled);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the engine's DNS"),
        Err(_) => tracing::debug!("the engine's DNS does not answer in time"),
    }
    enabled
}

/// In the order of namespaces, so that those of one need one connection.
fn questions(networks: &[Value], containers: &[Container]) -> Vec<Question> {
    let mut questions = BTreeSet::new();
    for network in networks.iter().filter(|network| network["Ingress"] != true) {
        let (Some(id), Some(name)) = (network["Id"].as_str(), network["Name"].as_str()) else {
            continue;
        };
        let Some(netns) = containers.iter().find_map(|container| on(container, id)) else {
            continue;
        };
        let services = network["Services"].as_object().into_iter().flatten();
        for (service, entry) in services.filter(|(service, _)| !service.is_empty()) {
            // One of one that leaves is not answered any more, and with none there is nothing to ask.
            if entry["Tasks"].as_array().is_some_and(|tasks| tasks.len() > 1) {
                questions.insert(Question {
                    netns: netns.into(),
                    name: format!("tasks.{service}.{name}."),
                    about: (id.to_owned(), service.clone()),
                });
            }
        }
    }
    questions.into_iter().take(QUESTIONS_MAX).collect()
}

/// The namespace of a container that runs on a network.
fn on<'a>(container: &'a Container, network: &str) -> Option<&'a Path> {
    let inspect = &container.inspect;
    let mut attached = inspect["NetworkSettings"]["Networks"].as_object()?.values();
    let runs = inspect["State"]["Pid"].as_u64().is_some_and(|pid| pid != 0);
    let there = runs && attached.any(|one| one["NetworkID"] == network);
    container.netns.as_deref().filter(|_| there)
}

async fn ask_all(questions: &[Question], enabled: &mut Enabled) -> io::Result<()> {
    for of_one in questions.chunk_by(|a, b| a.netns == b.netns) {
        let Some(first) = of_one.first() else { continue };
        let mut stream = match connect(&first.netns).await {
            Ok(stream) => stream,
            // A container that has just ended must not keep the others from being asked about.
            Err(error) => {
                tracing::debug!(netns = %first.netns.display(), %error, "the engine's DNS");
                continue;
            }
        };
        for question in of_one {
            let found = ask_one(&mut stream, &question.name).await?;
            if !found.is_empty() {
                enabled.insert(question.about.clone(), found);
            }
        }
    }
    Ok(())
}

/// A socket belongs to the namespace that it was made in, whoever uses it later. TCP, because a datagram has no room
/// for more than thirty tasks.
async fn connect(netns: &Path) -> io::Result<TcpStream> {
    let path = netns.to_owned();
    let made = tokio::task::spawn_blocking(move || netns::tcp_socket(Some(&path))).await;
    let socket = TcpSocket::from_std_stream(made.map_err(io::Error::other)??);
    // Closed with RST: a look every second would leave a connection in TIME_WAIT each.
    socket.set_zero_linger()?;
    socket.connect(RESOLVER.into()).await
}

/// One question and its answer (RFC 1035 section 4.2.2: each with its length before it).
async fn ask_one(stream: &mut TcpStream, name: &str) -> io::Result<BTreeSet<String>> {
    let Some((id, question)) = encode(name) else {
        return Ok(BTreeSet::new());
    };
    stream.write_all(&question).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(addresses(&answer, id))
}

/// None for what is no name, as a service called with other letters than DNS has.
fn encode(name: &str) -> Option<(u16, Vec<u8>)> {
    let mut message = Message::new(QUESTION_ID, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(name).ok()?, RecordType::A));
    let message = message.to_vec().ok()?;
    let length = u16::try_from(message.len()).ok()?;
    Some((QUESTION_ID, [&length.to_be_bytes()[..], &message].concat()))
}

/// On a connection of its own, one question after the other, nobody else answers.
const QUESTION_ID: u16 = 1;

/// The addresses of an answer; none of what is no good answer.
fn addresses(answer: &[u8], id: u16) -> BTreeSet<String> {
    let Ok(message) = Message::from_vec(answer) else {
        return BTreeSet::new();
    };
    let is_whole = !message.metadata.truncation;
    let is_good = message.metadata.response_code == ResponseCode::NoError;
    if message.metadata.id != id || !is_good || !is_whole {
        return BTreeSet::new();
    }
    let records = message.answers.iter();
    let found = records.filter_map(|record| match &record.data {
        RData::A(address) => Some(address.to_string()),
        _ => None,
    });
    found.collect()
}

impl Engine {
    /// Whether the engine's DNS knows a service's tasks on a network, and an address is none of them.
    pub(super) fn is_disabled(&self, network: &str, service: &str, address: &str) -> bool {
        let about = (network.to_owned(), service.to_owned());
        let known = self.enabled.get(&about);
        known.is_some_and(|addresses| !addresses.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_with_tasks_are_asked_for_where_a_container_runs() {
        let two = json!([{ "Name": "web.1.a" }, { "Name": "web.2.b" }]);
        let services = json!({ "": { "Tasks": two }, "web": { "Tasks": two }, "db": { "Tasks": [] } });
        let network = |id: &str, ingress: bool| json!({ "Id": id, "Name": format!("net-{id}"), "Ingress": ingress, "Services": services });
        let container = |pid: u64, network: &str| Container {
            netns: Some(format!("/proc/{pid}/ns/net").into()),
            inspect: json!({ "State": { "Pid": pid },
                "NetworkSettings": { "Networks": { "x": { "NetworkID": network } } } }),
        };
        let networks = [network("a", false), network("b", false), network("i", true)];
        let containers = [container(0, "a"), container(42, "a"), container(43, "i")];
        let asked = questions(&networks, &containers);
        assert_eq!(
            asked,
            [Question {
                netns: "/proc/42/ns/net".into(),
                name: "tasks.web.net-a.".into(),
                about: ("a".into(), "web".into()),
            }]
        );
    }

    #[test]
    fn only_a_whole_good_answer_says_something() {
        let (id, question) = encode("tasks.web.net.").unwrap();
        let mut answer = Message::from_vec(&question[2..]).unwrap().into_response();
        let name = Name::from_str("tasks.web.net.").unwrap();
        for last in [5, 6] {
            let address = RData::A(Ipv4Addr::new(10, 0, 1, last).into());
            answer.add_answer(hickory_resolver::proto::rr::Record::from_rdata(
                name.clone(),
                600,
                address,
            ));
        }
        let found = |answer: &Message, id| addresses(&answer.to_vec().unwrap(), id);
        let both = BTreeSet::from(["10.0.1.5".to_owned(), "10.0.1.6".to_owned()]);
        assert_eq!(found(&answer, id), both);
        assert!(found(&answer, id + 1).is_empty(), "another question's");
        answer.metadata.truncation = true;
        assert!(found(&answer, id).is_empty(), "cut off");
        answer.metadata.truncation = false;
        answer.metadata.response_code = ResponseCode::NXDomain;
        assert!(found(&answer, id).is_empty(), "an error");
        assert!(addresses(b"no message", id).is_empty());
    }
}
