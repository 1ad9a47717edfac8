// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a table means for what is there already. Pure; the agent judges again what comes out.

use serde_json::Value;

use super::super::ipvsadm::{Imported, Remark, Table, block, of_vip};
use crate::{
    model::snapshot::HOST,
    providers::api::{Edit, KIND, State, trial},
};

/// What an import does.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Services to add.
    pub edits: Vec<Edit>,
    /// Services that are there as they are.
    pub unchanged: Vec<Remark>,
    /// Lines that cannot be carried over.
    pub refused: Vec<Remark>,
    /// What is carried over under another name.
    pub notes: Vec<Remark>,
}

/// Compares a table with what the verbs have said and with what all providers have in force.
pub(super) fn plan(table: Table, kept: &State, in_force: &Value) -> Plan {
    let mut plan = Plan {
        refused: table.refused,
        notes: table.notes,
        ..Plan::default()
    };
    let mut wanted = Vec::new();
    for imported in table.services {
        let line = imported.line;
        match found(&imported, kept, in_force) {
            Found::Nothing => wanted.push(imported),
            Found::Same(text) => plan.unchanged.push(Remark { line, text }),
            Found::Other(text) => plan.refused.push(Remark { line, text }),
        }
    }
    // Each turn takes at least one away, or is the last.
    loop {
        plan.edits = wanted.iter().map(edit).collect();
        let wrong = trial(kept, &plan.edits);
        if wrong.is_empty() {
            break;
        }
        let mut position = 0;
        wanted.retain(|imported| {
            let why = wrong.get(&position);
            position += 1;
            plan.refused.extend(why.map(|text| Remark {
                line: imported.line,
                text: text.clone(),
            }));
            why.is_none()
        });
    }
    plan.refused.sort_by_key(|remark| remark.line);
    plan
}

fn edit(imported: &Imported) -> Edit {
    Edit::AddService {
        service: imported.name(),
        spec: Box::new(imported.spec.clone()),
    }
}

enum Found {
    Nothing,
    Same(String),
    Other(String),
}

/// Whether the address or the name is used, and by whom.
fn found(imported: &Imported, kept: &State, in_force: &Value) -> Found {
    let at = imported.at;
    for (name, spec) in &kept.services {
        if spec.vips.iter().any(|text| of_vip(text) == Ok(at)) {
            // The same lines mean the same.
            let same = block(at, spec)
                .is_ok_and(|(old, _)| block(at, &imported.spec).is_ok_and(|(new, _)| old == new));
            return if same {
                Found::Same(format!("service {name}: is there as it is"))
            } else {
                Found::Other(format!(
                    "service '{name}' has this address and is different; change it with `portico service set {name}`"
                ))
            };
        }
    }
    let foreign = in_force.as_array().into_iter().flatten();
    for service in foreign.filter(|service| service["owner"] != KIND) {
        let [name, owner] = ["name", "owner"].map(|field| service[field].as_str().unwrap_or_default());
        if name == imported.name() {
            return Found::Other(format!("'{name}' is a service of the provider '{owner}'"));
        }
        let has = |vip: &Value| {
            let port = &vip["port"];
            let same_port = port["port"] == at.1.port && port["protocol"] == at.1.protocol.as_str();
            vip["network"] == HOST && vip["address"] == at.0.to_string() && (port.is_null() || same_port)
        };
        if service["vips"].as_array().into_iter().flatten().any(has) {
            return Found::Other(format!(
                "the address belongs to service '{name}' of the provider '{owner}'"
            ));
        }
    }
    Found::Nothing
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::{super::super::ipvsadm, *};

    fn state(services: Value) -> State {
        from_value(json!({ "version": 1, "services": services })).expect("state")
    }

    #[test]
    fn what_is_there_as_it_is_is_no_edit_and_what_differs_is_refused() {
        let kept = state(json!({
            "same": { "vips": ["10.9.0.1:80", "10.9.0.1:53/udp"], "affinity": "5m", "backends": {
                "10.0.0.7:80": {}, "10.0.0.8:80": { "weight": 9, "draining": true } } },
            "different": { "vips": ["10.9.0.2:80"] },
            "whole": { "vips": ["10.9.0.3"] },
            "tcp-10.9.0.4-80": { "vips": ["10.9.0.4:81"] },
        }));
        let in_force = json!([
            { "name": "theirs", "owner": "docker", "vips": [
                { "network": "host", "address": "10.9.0.5", "port": { "port": 80, "protocol": "tcp" } },
                { "network": "other", "address": "10.9.0.6", "port": null } ] },
            { "name": "same", "owner": "api", "vips": [{ "network": "host", "address": "10.9.0.6", "port": null }] },
        ]);
        let text = "-A -t 10.9.0.1:80 -s rr -p 300\n\
            -a -t 10.9.0.1:80 -r 10.0.0.7:80 -m -w 1\n\
            -a -t 10.9.0.1:80 -r 10.0.0.8:80 -m -w 0\n\
            -A -t 10.9.0.2:80 -s wrr\n\
            -A -t 10.9.0.3:80 -s rr\n\
            -A -t 10.9.0.4:80 -s rr\n\
            -A -t 10.9.0.5:80 -s rr\n\
            -A -u 10.9.0.5:80 -s rr\n\
            -A -t 10.9.0.6:80 -s rr\n\
            -a -t 10.9.0.6:80 -r 10.9.0.6:80 -m\n\
            -A -t 10.9.0.7:80 -s rr\n";
        let plan = plan(ipvsadm::read(text), &kept, &in_force);
        let texts = |remarks: &[Remark]| remarks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(&plan.unchanged),
            ["line 1: service same: is there as it is"]
        );
        assert_eq!(
            texts(&plan.refused),
            [
                "line 4: service 'different' has this address and is different; change it with `portico service set \
                 different`",
                "line 5: vips.host: 10.9.0.3:80/tcp is the VIP of service 'whole'",
                "line 6: service 'tcp-10.9.0.4-80' exists and is different; change it with `portico service set \
                 tcp-10.9.0.4-80`",
                "line 7: the address belongs to service 'theirs' of the provider 'docker'",
                "line 9: vips.host: 10.9.0.6 is the address of one of its own backends",
            ]
        );
        let names: Vec<&str> = plan.edits.iter().map(Edit::service).collect();
        assert_eq!(names, ["udp-10.9.0.5-80", "tcp-10.9.0.7-80"]);
    }
}
