// SPDX-License-Identifier: MIT OR Apache-2.0
//! One file, read again and again: only the tasks and services whose text has changed are parsed.
//!
//! Life of a text: it is cut where a line begins with `[[tasks]]` or `[[services]]`, up to the next header of
//! something else; such a chunk means the same wherever it stands. What is not in a chunk (nodes, networks,
//! keys of the file) is put together and parsed as one short document. A chunk that is byte by byte what stood
//! at its place last time, counted from the beginning or from the end, is the object that it was last time.
//!
//! Whenever a chunk is anything but one object with a name, or the cuts could be wrong (a text over several
//! lines), the whole text is parsed as a whole: that way alone is right by definition, and its errors have the
//! line numbers of the file.

use std::{ops::Range, sync::Arc};

use memchr::memmem;
use toml::Table;

use super::parse::{FileError, SERVICES, TASKS, document, one_service, one_task, parse};
use crate::model::{
    Snapshot,
    snapshot::{ServiceParams, TaskParams},
};

/// Reads the texts of one file.
///
/// *Memory:* the last text and the objects in it.
#[derive(Debug)]
pub struct Reader {
    source: String,
    node: Option<String>,
    text: String,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Debug)]
struct Chunk {
    range: Range<usize>,
    item: Item,
}

#[derive(Clone, Debug)]
enum Item {
    Task(Arc<TaskParams>),
    Service(Arc<ServiceParams>),
}

impl Reader {
    /// A reader that has read nothing yet. `node` overrides the file's own `node`.
    pub fn new(source: String, node: Option<String>) -> Self {
        Self {
            source,
            node,
            text: String::new(),
            chunks: Vec::new(),
        }
    }

    /// Reads a text. What has not changed since the last one that was read is the same allocation.
    pub fn read(&mut self, text: String) -> Result<Snapshot, FileError> {
        if let Some((snapshot, chunks)) = self.by_chunks(&text) {
            self.chunks = chunks;
            self.text = text;
            return Ok(snapshot);
        }
        let snapshot = parse(&self.source, &text, self.node.as_deref())?;
        self.chunks.clear();
        self.text = text;
        Ok(snapshot)
    }

    /// The last text that could be read.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn by_chunks(&self, text: &str) -> Option<(Snapshot, Vec<Chunk>)> {
        let cuts = cut(text)?;
        let same = |old: &Chunk, new: &Cut| self.text.get(old.range.clone()) == text.get(new.range.clone());
        let ahead = self.chunks.iter().zip(&cuts.chunks);
        let ahead = ahead.take_while(|(old, new)| same(old, new)).count();
        let behind = self.chunks[ahead..]
            .iter()
            .rev()
            .zip(cuts.chunks[ahead..].iter().rev());
        let behind = behind.take_while(|(old, new)| same(old, new)).count();
        let mut chunks = Vec::with_capacity(cuts.chunks.len());
        for (index, new) in cuts.chunks.iter().enumerate() {
            let from_the_end = cuts.chunks.len() - index;
            let item = if index < ahead {
                self.chunks[index].item.clone()
            } else if from_the_end <= behind {
                self.chunks[self.chunks.len() - from_the_end].item.clone()
            } else {
                let text = text.get(new.range.clone())?;
                match new.kind {
                    Kind::Task => Item::Task(one_task(text)?),
                    Kind::Service => Item::Service(one_service(text)?),
                }
            };
            chunks.push(Chunk {
                range: new.range.clone(),
                item,
            });
        }
        let rest: Table = cuts.rest.parse().ok()?;
        let mut snapshot = document(&self.source, &rest, self.node.as_deref());
        let (mut tasks, mut services) = (Vec::with_capacity(chunks.len()), Vec::new());
        for chunk in &chunks {
            match &chunk.item {
                Item::Task(task) => tasks.push(task.clone()),
                Item::Service(service) => services.push(service.clone()),
            }
        }
        // Both ways to write a list in one file are an error, which only the whole text can tell.
        for (key, empty) in [(TASKS, tasks.is_empty()), (SERVICES, services.is_empty())] {
            if rest.contains_key(key) && !empty {
                return None;
            }
        }
        if !tasks.is_empty() {
            snapshot.tasks = tasks.into();
        }
        if !services.is_empty() {
            snapshot.services = services.into();
        }
        Some((snapshot, chunks))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Task,
    Service,
}

struct Cut {
    kind: Kind,
    range: Range<usize>,
}

struct Cuts {
    chunks: Vec<Cut>,
    rest: String,
}

/// Cuts a text into chunks and the rest; nothing where a cut could be inside a text over several lines, or
/// where there is nothing to cut.
fn cut(text: &str) -> Option<Cuts> {
    let bytes = text.as_bytes();
    if memmem::find(bytes, b"\"\"\"").is_some() || memmem::find(bytes, b"'''").is_some() {
        return None;
    }
    let mut cuts = Cuts {
        chunks: Vec::new(),
        rest: String::new(),
    };
    // What the text since `start` belongs to.
    let (mut start, mut current) = (0, None);
    let mut end_at = |at: usize, next: Option<Kind>| {
        match current {
            Some(kind) => cuts.chunks.push(Cut {
                kind,
                range: start..at,
            }),
            None => cuts.rest.push_str(&text[start..at]),
        }
        (start, current) = (at, next);
    };
    let first = text.starts_with('[').then_some(0);
    let others = memmem::find_iter(bytes, b"\n[").map(|newline| newline + 1);
    let mut inside: Option<Kind> = None;
    for at in first.into_iter().chain(others) {
        let (name, opens) = header(&text[at..]);
        let kind = match name {
            TASKS => Some(Kind::Task),
            SERVICES => Some(Kind::Service),
            _ => None,
        };
        let kind = if opens {
            kind
        } else {
            kind.filter(|_| inside == kind)
        };
        // `[tasks.networks]` belongs to the task above it.
        if opens || kind.is_none() {
            end_at(at, kind);
            inside = kind;
        }
    }
    end_at(text.len(), None);
    (!cuts.chunks.is_empty()).then_some(cuts)
}

/// The first word of a header line, and whether the line is `[[word]]`.
fn header(text: &str) -> (&str, bool) {
    let line = text.split('\n').next().unwrap_or_default();
    let inner = line.trim_start_matches('[');
    let end = inner.find(|c: char| matches!(c, '.' | ']') || c.is_whitespace());
    let (name, after) = inner.split_at(end.unwrap_or(inner.len()));
    let opens = line.starts_with("[[")
        && after
            .strip_prefix("]]")
            .is_some_and(|rest| matches!(rest.trim_start().chars().next(), None | Some('#')));
    (name, opens)
}

#[cfg(test)]
mod tests;
