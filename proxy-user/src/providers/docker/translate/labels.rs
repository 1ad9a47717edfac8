// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels `portico.KEY` -> policy of a service.
//!
//! A label of the service itself is seen by managers only. One of its containers (`--container-label`) is seen by
//! every node that runs one of them. Where both are there, key by key the service's counts.

use serde_json::Value;

use crate::model::snapshot::{PolicyParams, Problem};

/// What the labels' names begin with.
const PREFIX: &str = "portico.";
/// The rest of their names.
const KEYS: &str = "scheduler, affinity, client, allow, deny, drain";

/// Adds what an object of labels says to `policy`, where nothing is said yet. `place` is the labels' path.
pub(super) fn read(labels: &Value, place: &str, policy: &mut PolicyParams, problems: &mut Vec<Problem>) {
    for (name, value) in labels.as_object().into_iter().flatten() {
        let (Some(key), Some(text)) = (name.strip_prefix(PREFIX), value.as_str()) else {
            continue;
        };
        let list = || {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
        };
        let one = match key {
            "scheduler" => &mut policy.scheduler,
            "affinity" => &mut policy.affinity,
            "client" => &mut policy.client,
            "drain" => &mut policy.drain,
            "allow" | "deny" => {
                let prefixes = if key == "allow" {
                    &mut policy.allow
                } else {
                    &mut policy.deny
                };
                if prefixes.is_empty() {
                    prefixes.extend(list());
                }
                continue;
            }
            _ => {
                let problem = format!("no label of Portico's has this name (known after '{PREFIX}': {KEYS})");
                problems.push(Problem::new(format!("{place}.{name}"), problem));
                continue;
            }
        };
        one.get_or_insert_with(|| text.trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_word_counts_and_unknown_names_are_told() {
        let (mut policy, mut problems) = (PolicyParams::default(), Vec::new());
        let of_service = json!({ "portico.scheduler": "mh", "portico.allow": "10.0.0.0/8, 192.0.2.1,", "com.df.port": "80" });
        let of_container = json!({
            "portico.scheduler": "rr", "portico.client": "dsr", "portico.allow": "0.0.0.0/0", "portico.afinity": "1h",
        });
        read(&of_service, "services.web.labels", &mut policy, &mut problems);
        read(
            &of_container,
            "containers.web.1.labels",
            &mut policy,
            &mut problems,
        );
        let expected = PolicyParams {
            scheduler: Some("mh".into()),
            client: Some("dsr".into()),
            allow: vec!["10.0.0.0/8".into(), "192.0.2.1".into()],
            ..PolicyParams::default()
        };
        assert_eq!(policy, expected);
        let fields: Vec<&str> = problems.iter().map(|problem| &problem.field[..]).collect();
        assert_eq!(fields, ["containers.web.1.labels.portico.afinity"]);
    }
}
