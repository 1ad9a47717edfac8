// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two looks at the same numbers, and what happened in between, per second.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};

/// `opened` of a backend begins again after this.
const WRAP: u64 = 1 << 32;

/// Who a number is about: service, frontend, and a backend's number and address.
type Who = [String; 4];

/// The later look with rates: `opened_per_s` beside each `opened`, and what was counted per second instead of in all.
pub fn of(before: &Value, after: &Value, time: Duration) -> Value {
    let seconds = time.as_secs_f64().max(f64::EPSILON);
    let mut known: HashMap<Who, u64> = HashMap::new();
    each_backend(&mut before.clone(), |who, backend| {
        known.insert(who, backend["opened"].as_u64().unwrap_or_default());
        0.0
    });
    let mut shown = after.clone();
    each_backend(&mut shown, |who, backend| {
        // One that was not there had opened nothing.
        let old = known.get(&who).copied().unwrap_or_default();
        let new = backend["opened"].as_u64();
        let rate = new.map(|new| forwards(old, new) as f64 / seconds);
        backend["opened_per_s"] = json!(rate);
        rate.unwrap_or_default()
    });
    for field in ["events", "drops"] {
        for (name, value) in shown[field].as_object_mut().into_iter().flatten() {
            let old = before[field][name].as_u64().unwrap_or_default();
            let steps = value.as_u64().unwrap_or_default().saturating_sub(old);
            *value = json!(steps as f64 / seconds);
        }
    }
    shown["seconds"] = json!(time.as_secs_f64());
    shown
}

/// Steps from one count of a backend to a later one. Half of what it counts to is no step forwards: then it was set
/// back, and has counted from 0.
fn forwards(old: u64, new: u64) -> u64 {
    let steps = new.wrapping_sub(old) % WRAP;
    if steps < WRAP / 2 { steps } else { new }
}

/// Visits every backend, and sums up the rates in its frontend and service.
fn each_backend(stats: &mut Value, mut visit: impl FnMut(Who, &mut Value) -> f64) {
    for service in list(&mut stats["services"]) {
        let name = text(&service["name"]);
        let mut all = 0.0;
        for frontend in list(&mut service["frontends"]) {
            let address = text(&frontend["frontend"]);
            let mut sum = 0.0;
            for backend in list(&mut frontend["backends"]) {
                let id = backend["id"].to_string();
                let who = [name.clone(), address.clone(), id, text(&backend["address"])];
                sum += visit(who, backend);
            }
            frontend["opened_per_s"] = json!(sum);
            all += sum;
        }
        service["opened_per_s"] = json!(all);
    }
}

fn list(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_array_mut().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(backends: Value, drops: u64) -> Value {
        json!({ "services": [{ "name": "web", "opened": 0, "frontends": [
            { "frontend": "*:80/tcp", "opened": 0, "backends": backends }] }],
            "events": {}, "drops": { "flow_unknown": drops } })
    }

    #[test]
    fn what_happened_in_between_is_divided_by_the_time() {
        let backend = |id: u64, opened: Value| json!({ "id": id, "address": "10.0.0.1", "opened": opened });
        let before = look(
            json!([
                backend(1, json!(10)),
                backend(2, json!(4_294_967_290_u64)),
                backend(4, json!(9_000))
            ]),
            3,
        );
        let after = look(
            json!([
                backend(1, json!(30)),
                backend(2, json!(4)),
                backend(3, json!(6)),
                backend(4, json!(2)),
                backend(5, Value::Null),
            ]),
            8,
        );
        let shown = of(&before, &after, Duration::from_secs(2));
        let frontend = &shown["services"][0]["frontends"][0];
        let rates: Vec<&Value> = (0..5).map(|i| &frontend["backends"][i]["opened_per_s"]).collect();
        let expected = [json!(10.0), json!(5.0), json!(3.0), json!(1.0), Value::Null];
        assert_eq!(
            rates,
            expected.iter().collect::<Vec<_>>(),
            "wrapped, new, set back, not there"
        );
        assert_eq!(frontend["opened_per_s"], 19.0);
        assert_eq!(shown["services"][0]["opened_per_s"], 19.0);
        assert_eq!(shown["drops"]["flow_unknown"], 2.5);
        assert_eq!(frontend["backends"][0]["opened"], 30, "what it was in all stays");
        assert_eq!(shown["seconds"], 2.0);
    }
}
