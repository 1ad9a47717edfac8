// SPDX-License-Identifier: MIT OR Apache-2.0
//! TOML text -> snapshot. Types and unknown keys are checked here, per object; meaning is checked by the Writer.

use std::sync::Arc;

use toml::{Table, Value};

use super::FILE_BYTES_MAX;
use crate::model::{
    Snapshot,
    snapshot::{
        BackendParams, HealthParams, NetworkParams, NodeParams, PolicyParams, PortParams, Problem,
        ServiceParams, TaskParams,
    },
};

/// Why a file as a whole cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is longer than anything sensible.
    #[error("{path}: {bytes} bytes are more than {FILE_BYTES_MAX} (file::FILE_BYTES_MAX)")]
    TooLong {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// It is no TOML.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and what.
        message: String,
    },
}

/// Parses the text of a file. `node` overrides the file's own `node`.
pub fn parse(source: &str, text: &str, node: Option<&str>) -> Result<Snapshot, FileError> {
    let syntax = |message: String| FileError::Syntax {
        path: source.into(),
        message,
    };
    if text.trim().is_empty() {
        // An editor truncates before it writes. A node without services says `services = []`.
        return Err(syntax("the file is empty".into()));
    }
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| syntax(error.to_string()))?;
    Ok(document(source, &table, node))
}

/// Reads a whole document.
pub(super) fn document(source: &str, table: &Table, node: Option<&str>) -> Snapshot {
    let mut snapshot = Snapshot {
        source: source.into(),
        ..Snapshot::default()
    };
    let mut file = Fields::new(table);
    let own = file.optional_text("node");
    snapshot.node = node.map(str::to_owned).or(own).unwrap_or_default();
    let mut partial = false;
    snapshot.nodes = items(&mut file, "nodes", &mut partial, |name, mut fields| {
        let address = fields.text("address");
        NodeParams {
            name,
            address,
            problems: fields.finish(),
        }
    });
    snapshot.networks = items(&mut file, "networks", &mut partial, |name, fields| {
        NetworkParams {
            key: name.clone(),
            name,
            problems: fields.finish(),
        }
    });
    snapshot.tasks = items(&mut file, TASKS, &mut partial, task).into();
    snapshot.services = items(&mut file, SERVICES, &mut partial, service).into();
    snapshot.problems = file.finish();
    snapshot.partial = partial;
    snapshot
}

/// The key of the tasks.
pub(super) const TASKS: &str = "tasks";
/// The key of the services.
pub(super) const SERVICES: &str = "services";

fn task(name: String, mut fields: Fields<'_>) -> Arc<TaskParams> {
    let node = fields.text("node");
    let netns = fields.optional_text("netns").map(Into::into);
    let networks = fields.text_table("networks");
    let weight = fields.optional_number("weight");
    let draining = fields.optional_bool("draining");
    Arc::new(TaskParams {
        name,
        node,
        netns,
        networks,
        weight,
        draining,
        problems: fields.finish(),
    })
}

fn service(name: String, mut fields: Fields<'_>) -> Arc<ServiceParams> {
    let vips = fields.text_table("vips");
    let ports = fields.tables("ports", |port| PortParams {
        published: port.number("published"),
        target: port.number("target"),
        protocol: port.optional_text("protocol").unwrap_or_else(|| "tcp".into()),
        guessed: false,
    });
    let tasks = fields.text_list("tasks");
    let backends = fields.tables("backends", |backend| BackendParams {
        address: backend.text("address"),
        port: backend.number("port"),
        weight: backend.optional_number("weight"),
        draining: backend.optional_bool("draining"),
    });
    let health = fields.table("health", health).map(Box::new);
    let policy = PolicyParams {
        scheduler: fields.optional_text("scheduler"),
        affinity: fields.optional_text("affinity"),
        client: fields.optional_text("client"),
        allow: fields.text_list("allow"),
        deny: fields.text_list("deny"),
        drain: fields.optional_text("drain"),
    };
    Arc::new(ServiceParams {
        name,
        vips,
        ports,
        tasks,
        backends,
        health,
        policy: policy.shared(),
        remembered: false,
        problems: fields.finish(),
    })
}

fn health(fields: &mut Fields<'_>) -> HealthParams {
    let usual = HealthParams::default();
    HealthParams {
        kind: fields.optional_text("kind").unwrap_or(usual.kind),
        port: fields.optional_number("port").unwrap_or(usual.port),
        path: fields.optional_text("path").unwrap_or(usual.path),
        host: fields.optional_text("host").unwrap_or(usual.host),
        expect: fields.optional_text("expect").unwrap_or(usual.expect),
        service: fields.optional_text("service").unwrap_or(usual.service),
        interval_ms: fields.optional_number("interval_ms").unwrap_or(usual.interval_ms),
        timeout_ms: fields.optional_number("timeout_ms").unwrap_or(usual.timeout_ms),
        rise: fields.optional_number("rise").unwrap_or(usual.rise),
        fall: fields.optional_number("fall").unwrap_or(usual.fall),
    }
}

/// Reads a text that is nothing but one task with a name.
pub(super) fn one_task(text: &str) -> Option<Arc<TaskParams>> {
    one(TASKS, text, task)
}

/// Reads a text that is nothing but one service with a name.
pub(super) fn one_service(text: &str) -> Option<Arc<ServiceParams>> {
    one(SERVICES, text, service)
}

fn one<T>(key: &str, text: &str, read: impl FnOnce(String, Fields<'_>) -> T) -> Option<T> {
    let document: Table = text.parse().ok()?;
    let [item] = &document.get(key)?.as_array()?[..] else {
        return None;
    };
    if document.len() != 1 {
        return None;
    }
    let item = item.as_table()?;
    let mut fields = Fields::new(item);
    let name = fields.take("name")?.as_str()?.to_owned();
    Some(read(name, fields))
}

/// Reads an array of tables whose items have a name. `partial` is set when one has none, because then nobody
/// can tell which object it was.
fn items<T>(
    file: &mut Fields<'_>,
    key: &str,
    partial: &mut bool,
    mut read: impl FnMut(String, Fields<'_>) -> T,
) -> Vec<T> {
    let Some(value) = file.take(key) else {
        return Vec::new();
    };
    let Some(array) = value.as_array() else {
        file.problem(
            key,
            format!("must be an array of tables ([[{key}]]), not {}", kind(value)),
        );
        *partial = true;
        return Vec::new();
    };
    let mut found = Vec::new();
    for (i, value) in array.iter().enumerate() {
        let Some(table) = value.as_table() else {
            file.problem(
                &format!("{key}[{i}]"),
                format!("must be a table, not {}", kind(value)),
            );
            *partial = true;
            continue;
        };
        let mut fields = Fields::new(table);
        let problem = match fields.take("name") {
            Some(Value::String(name)) => {
                found.push(read(name.clone(), fields));
                continue;
            }
            Some(other) => format!("must be a string, not {}", kind(other)),
            None => {
                let keys: Vec<&str> = table.keys().map(String::as_str).collect();
                format!("is missing (keys: {})", keys.join(", "))
            }
        };
        file.problem(&format!("{key}[{i}].name"), problem);
        *partial = true;
    }
    found
}

/// Reads the fields of one table, remembers what was wrong and what nobody asked for.
struct Fields<'a> {
    table: &'a Table,
    asked: Vec<String>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    fn new(table: &'a Table) -> Self {
        Self {
            table,
            asked: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.asked.push(key.into());
        self.table.get(key)
    }

    fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(field, message));
    }

    fn wrong(&mut self, key: &str, wanted: &str, value: &Value) {
        self.problem(key, format!("must be {wanted}, not {}", kind(value)));
    }

    fn optional_text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text.clone()),
            other => {
                self.wrong(key, "a string", other);
                None
            }
        }
    }

    fn text(&mut self, key: &str) -> String {
        if !self.table.contains_key(key) {
            self.asked.push(key.into());
            self.problem(key, "is missing");
            return String::new();
        }
        self.optional_text(key).unwrap_or_default()
    }

    fn number(&mut self, key: &str) -> i64 {
        match self.take(key) {
            Some(Value::Integer(number)) => return *number,
            Some(other) => self.wrong(key, "a number", other),
            None => self.problem(key, "is missing"),
        }
        // Any valid number: the problem that was just noted is the one to tell.
        1
    }

    fn optional_number(&mut self, key: &str) -> Option<i64> {
        match self.take(key)? {
            Value::Integer(number) => Some(*number),
            other => {
                self.wrong(key, "a number", other);
                None
            }
        }
    }

    /// One table inside the object.
    fn table<T>(&mut self, key: &str, read: impl Fn(&mut Fields<'a>) -> T) -> Option<T> {
        let value = self.take(key)?;
        let Value::Table(table) = value else {
            self.wrong(key, "a table", value);
            return None;
        };
        let mut fields = Fields::new(table);
        let found = read(&mut fields);
        for problem in fields.finish() {
            self.problem(&format!("{key}.{}", problem.field), problem.message);
        }
        Some(found)
    }

    fn optional_bool(&mut self, key: &str) -> bool {
        match self.take(key) {
            Some(Value::Boolean(value)) => return *value,
            Some(other) => self.wrong(key, "true or false", other),
            None => {}
        }
        false
    }

    fn text_table(&mut self, key: &str) -> Vec<(String, String)> {
        let table = match self.take(key) {
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.wrong(key, "a table (network = \"address\", or an array of them)", other);
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut found = Vec::with_capacity(table.len());
        for (name, value) in table {
            match value {
                Value::String(text) => found.push((name.clone(), text.clone())),
                Value::Array(list) => {
                    for (i, value) in list.iter().enumerate() {
                        match value {
                            Value::String(text) => found.push((name.clone(), text.clone())),
                            other => self.wrong(&format!("{key}.{name}[{i}]"), "a string", other),
                        }
                    }
                }
                other => self.wrong(
                    &format!("{key}.{name}"),
                    "a string, or several in an array",
                    other,
                ),
            }
        }
        found
    }

    fn list(&mut self, key: &str) -> &'a [Value] {
        match self.take(key) {
            Some(Value::Array(array)) => array,
            Some(other) => {
                self.wrong(key, "an array", other);
                &[]
            }
            None => &[],
        }
    }

    fn text_list(&mut self, key: &str) -> Vec<String> {
        let list = self.list(key);
        let mut found = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            match value {
                Value::String(text) => found.push(text.clone()),
                other => self.wrong(&format!("{key}[{i}]"), "a string", other),
            }
        }
        found
    }

    fn tables<T>(&mut self, key: &str, read: impl Fn(&mut Fields<'a>) -> T) -> Vec<T> {
        let list = self.list(key);
        let mut found = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            let Value::Table(table) = value else {
                self.wrong(&format!("{key}[{i}]"), "a table", value);
                continue;
            };
            let mut fields = Fields::new(table);
            found.push(read(&mut fields));
            for problem in fields.finish() {
                self.problem(&format!("{key}[{i}].{}", problem.field), problem.message);
            }
        }
        found
    }

    /// What was wrong, unknown keys included.
    fn finish(mut self) -> Vec<Problem> {
        let unknown: Vec<&String> = self
            .table
            .keys()
            .filter(|key| !self.asked.contains(key))
            .collect();
        for key in unknown {
            let known = self.asked.join(", ");
            self.problems
                .push(Problem::new(key, format!("unknown key (known: {known})")));
        }
        self.problems
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests;
