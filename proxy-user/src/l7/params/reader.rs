// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values by name and index, with the original's rules for defaults, lists and booleans.
//!
//! Topics read their part of a service through this: [`super::service`], [`super::destination`].

use super::known::{self, Scope};
use super::{Params, Problem, go_bool};
use crate::l7::settings::ServiceDefaults;
use crate::l7::spec::ServiceSpec;

/// Reads a whole service.
pub fn read_service(params: &Params, defaults: &ServiceDefaults) -> (ServiceSpec, Vec<Problem>) {
    let mut reader = Reader {
        params,
        defaults,
        problems: Vec::new(),
    };
    let spec = reader.service();
    (spec, reader.problems)
}

/// A query that is being read.
pub(super) struct Reader<'a> {
    params: &'a Params,
    /// How parameters are read.
    pub defaults: &'a ServiceDefaults,
    /// What was wrong so far.
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The value of a service-wide scalar.
    pub fn scalar(&self, name: &str) -> Option<&str> {
        debug_assert!(known::is(name, Scope::Scalar), "{name} is not in params/known.rs");
        self.params.scalar(name)
    }

    /// The text of a service-wide scalar; empty when absent.
    pub fn text(&self, name: &str) -> String {
        self.scalar(name).unwrap_or_default().to_owned()
    }

    /// A service-wide boolean.
    pub fn flag(&self, name: &str) -> bool {
        debug_assert!(known::is(name, Scope::Scalar), "{name} is not in params/known.rs");
        self.params.flag(name)
    }

    /// A service-wide list.
    pub fn list(&self, name: &str) -> Vec<String> {
        debug_assert!(known::is(name, Scope::List), "{name} is not in params/known.rs");
        self.params
            .first(name)
            .map(|text| self.split(text))
            .unwrap_or_default()
    }

    /// A service-wide list, or its older name.
    pub fn list_or_alias(&self, name: &str, alias: &str) -> Vec<String> {
        let list = self.list(name);
        if list.is_empty() { self.list(alias) } else { list }
    }

    /// The value for an index, else the un-indexed one. Index 0 stands for a query without indexes.
    pub fn dest(&self, name: &str, index: u32) -> Option<&str> {
        debug_assert!(
            known::is(name, Scope::Destination),
            "{name} is not in params/known.rs"
        );
        let indexed = match index {
            0 => None,
            _ => self.params.first(&format!("{name}.{index}")),
        };
        indexed.or_else(|| self.params.first(name))
    }

    /// Whether a destination names this parameter itself: `name.index`, or `name` for index 0.
    pub fn is_given(&self, name: &str, index: u32) -> bool {
        match index {
            0 => self.params.first(name).is_some(),
            _ => self.params.first(&format!("{name}.{index}")).is_some(),
        }
    }

    /// A destination's text; empty when absent.
    pub fn dest_text(&self, name: &str, index: u32) -> String {
        self.dest(name, index).unwrap_or_default().to_owned()
    }

    /// A destination's boolean.
    pub fn dest_flag(&self, name: &str, index: u32) -> bool {
        self.dest(name, index).is_some_and(go_bool)
    }

    /// A destination's list.
    pub fn dest_list(&self, name: &str, index: u32) -> Vec<String> {
        self.dest(name, index)
            .map(|text| self.split(text))
            .unwrap_or_default()
    }

    /// A destination's port; 0 when absent, and a problem when it is none.
    pub fn port_number(&mut self, name: &str, index: u32) -> u16 {
        let Some(text) = self.dest(name, index) else {
            return 0;
        };
        match text.parse() {
            Ok(port) => port,
            Err(_) => {
                let name = if index > 0 && self.is_given(name, index) {
                    format!("{name}.{index}")
                } else {
                    name.to_owned()
                };
                let problem = Problem::new(name, format!("`{text}` is not a port number"));
                self.problems.push(problem);
                0
            }
        }
    }

    /// An empty separator separates nothing (the original splits into characters).
    fn split(&self, text: &str) -> Vec<String> {
        match self.defaults.separator.as_str() {
            "" => vec![text.to_owned()],
            separator => text.split(separator).map(str::to_owned).collect(),
        }
    }
}
