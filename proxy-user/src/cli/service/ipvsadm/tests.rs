// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the format.

use serde_json::{Value, from_value, json};

use super::*;
use crate::providers::api::State;

fn state(services: Value) -> State {
    from_value(json!({ "version": 1, "services": services })).expect("state")
}

/// The specs by name, as JSON.
fn specs(table: &Table) -> Value {
    let named = table
        .services
        .iter()
        .map(|service| (service.name(), json!(service.spec)));
    Value::Object(named.collect())
}

fn texts(remarks: &[Remark]) -> Vec<String> {
    remarks.iter().map(ToString::to_string).collect()
}

#[test]
fn a_table_comes_in_whatever_the_order_and_spelling_of_its_options() {
    let table = read(
        "# saved on Monday\n\
         \n\
         -A -t 10.9.0.1:80 -s wrr -p 600 -M 255.255.255.0\n\
         -a -t 10.9.0.1:80 -r 10.0.0.7:8080 -m -w 3\n\
         \t-w0 --masquerading -r 10.0.0.8:8080 -x 0 -y 0 -t 10.9.0.1:80 -a   # drained\n\
         -s lc -u 10.9.0.1:53 -A\n\
         -a -u 10.9.0.1:53 -r 10.0.0.7:5353 -g\n\
         --real-server=10.0.0.8 --ipip --weight=2 --add-server --udp-service 10.9.0.1:53\n\
         --add-service --tcp-service=10.9.0.2:443 -p\n",
    );
    assert_eq!(texts(&table.refused), [""; 0]);
    assert_eq!(texts(&table.notes), [""; 0]);
    let expected = json!({
        "tcp-10.9.0.1-80": { "vips": ["10.9.0.1:80/tcp"], "scheduler": "wrr", "affinity": "600s/24", "backends": {
            "10.0.0.7:8080": { "weight": 3 }, "10.0.0.8:8080": { "weight": 0 } } },
        "udp-10.9.0.1-53": { "vips": ["10.9.0.1:53/udp"], "scheduler": "lc", "client": "dsr", "backends": {
            "10.0.0.7:53": {}, "10.0.0.8:53": { "weight": 2 } } },
        "tcp-10.9.0.2-443": { "vips": ["10.9.0.2:443/tcp"], "scheduler": "wlc", "affinity": "300s" },
    });
    assert_eq!(specs(&table), expected);
}

#[test]
fn hashing_schedulers_keep_what_they_hash_and_not_their_name() {
    for (given, expected, noted) in [
        ("sh", "sh", false),
        ("sh -b sh-fallback", "sh", false),
        ("sh -b sh-fallback,sh-port", "mh", true),
        ("mh -b mh-fallback,mh-port", "mh", false),
        ("mh -b flag-2", "mh", false),
        ("mh", "sh", true),
    ] {
        let table = read(&format!("-A -t 10.9.0.1:80 -s {given}\n"));
        let scheduler = table
            .services
            .first()
            .and_then(|service| service.spec.scheduler.as_deref());
        assert_eq!(
            (scheduler, table.notes.len()),
            (Some(expected), usize::from(noted)),
            "{given}"
        );
    }
    let table = read("-A -t 10.9.0.1:80 -s mh\n");
    assert_eq!(
        texts(&table.notes),
        ["line 1: the client's address alone decides, which is Portico's scheduler sh"]
    );
}

#[test]
fn what_has_no_equal_is_refused_with_line_and_reason() {
    const SERVICE: &str = "-A -t 10.9.0.1:80 -s rr\n";
    for (line, expected) in [
        ("-A -f 3 -s rr", "-f: a firewall mark is no address"),
        (
            "-A --sctp-service 10.9.0.1:81 -s rr",
            "--sctp-service: SCTP is not balanced",
        ),
        ("-A -t [fe80::1]:80 -s rr", "'fe80::1' is a link-local address"),
        (
            "-A -t fd00::1:80 -s rr",
            "'fd00::1' stands in brackets before a port",
        ),
        (
            "-A -t 10.9.0.2:0 -s rr -p 60",
            "port 0 is every port of one protocol",
        ),
        (
            "-A -t 10.9.0.2:http -s rr",
            "'http' is not a port; write numbers with ipvsadm -S -n",
        ),
        ("-A -t web:80 -s rr", "'web' is not an address"),
        ("-A -t 10.9.0.2 -s rr", "'10.9.0.2' is not ADDRESS:PORT"),
        ("-A -s rr", "names no service, or more than one"),
        (
            "-A -t 10.9.0.2:80 -u 10.9.0.2:80",
            "names no service, or more than one",
        ),
        (
            "-A -t 10.9.0.2:80 -s sed",
            "scheduler 'sed' is none of rr, wrr, lc, wlc, sh, mh",
        ),
        ("-A -t 10.9.0.2:80 -s random", "scheduler 'random' is none of"),
        (
            "-A -t 10.9.0.2:80 -s rr -b flag-1",
            "scheduler rr has no flag 'flag-1'",
        ),
        (
            "-A -t 10.9.0.2:80 -s sh -b mh-port",
            "scheduler sh has no flag 'mh-port'",
        ),
        ("-A -u 10.9.0.2:80 -s rr -o", "-o: one-packet scheduling"),
        ("-A -u 10.9.0.2:80 -s rr --ops", "--ops: one-packet scheduling"),
        (
            "-A -u 10.9.0.2:80 -s rr -p 60 --pe sip",
            "--pe: Portico has no persistence engine",
        ),
        (
            "-A -t 10.9.0.2:80 -s rr -p 0",
            "-p: '0' is not a number of seconds",
        ),
        (
            "-A -t 10.9.0.2:80 -s rr -p 3000000",
            "limits::AFFINITY_SECONDS_MAX",
        ),
        (
            "-A -t 10.9.0.2:80 -s rr -p 60 -M 255.0.255.0",
            "-M: '255.0.255.0' is not a prefix",
        ),
        (
            "-A -t 10.9.0.2:80 -s rr -p 60 -M 64",
            "-M: '64' is not an IPv4 mask",
        ),
        ("-A -t 10.9.0.2:80 -s rr -M 255.0.0.0", "-M belongs to -p"),
        ("-A -t 10.9.0.2:80 -s rr -w 3", "belong to -a"),
        (
            "-A -t 10.9.0.2:80 -s rr -s lc",
            "-s: this, or another of its kind",
        ),
        ("-A -t 10.9.0.2:80 -s", "-s needs a value"),
        ("-A -t 10.9.0.1:80 -s rr", "line 1 has this service already"),
        (
            "-a -t 10.9.0.2:80 -r 10.0.0.7:80 -m",
            "no line before it adds its service",
        ),
        (
            "-a -u 10.9.0.1:80 -r 10.0.0.7:80 -m",
            "no line before it adds its service",
        ),
        ("-a -t 10.9.0.1:80 -m", "names no server"),
        (
            "-a -t 10.9.0.1:80 -r [fd00::2]:80 -m",
            "fd00::2 and 10.9.0.1 are of two kinds",
        ),
        (
            "-a -t 10.9.0.1:80 -r fd00::2 -m",
            "fd00::2 and 10.9.0.1 are of two kinds",
        ),
        (
            "-a -t 10.9.0.1:80 -r 10.0.0.7:80 -m -w 256",
            "weight '256' is none of 0 to 255",
        ),
        (
            "-a -t 10.9.0.1:80 -r 10.0.0.7:80 -m -x 10",
            "-x: Portico has no limit of connections",
        ),
        (
            "-a -t 10.9.0.1:80 -r 10.0.0.7:80 -i --tun-type gue",
            "--tun-type: Portico's tunnel",
        ),
        (
            "-a -t 10.9.0.1:80 -r 10.0.0.7:80 -m -p 60",
            "-s, -b, -p and -M belong to -A",
        ),
        (
            "-a -t 10.9.0.1:80 -r 10.0.0.7:80 -mw5",
            "write one option at a time",
        ),
        (
            "-a -t 10.9.0.1:80 -r 10.0.0.7:80 --speed 3",
            "'--speed' is no option",
        ),
        (
            "-E -t 10.9.0.1:80 -s lc",
            "-E: a saved table has -A and -a lines only",
        ),
        ("-C", "-C: a saved table has"),
        ("-t 10.9.0.1:80", "a saved table has"),
        ("hello", "'hello' is no option"),
    ] {
        let table = read(&format!("{SERVICE}{line}\n"));
        let refused = texts(&table.refused);
        let [text] = &refused[..] else {
            panic!("{line}: {refused:?}");
        };
        assert!(
            text.starts_with("line 2: ") && text.contains(expected),
            "{line}: {text}"
        );
        let name = |service: &Imported| (service.name(), service.spec.backends.len());
        let left: Vec<_> = table.services.iter().map(name).collect();
        assert_eq!(left, [("tcp-10.9.0.1-80".to_owned(), 0)], "{line}");
    }
}

#[test]
fn what_needs_a_refused_line_is_refused_with_it() {
    let table = read(
        "-A -t 10.9.0.1:80 -s sed\n\
         -a -t 10.9.0.1:80 -r 10.0.0.7:80 -m\n\
         -A -t 10.9.0.2:80 -s rr\n\
         -a -t 10.9.0.2:80 -r 10.0.0.7:80 -m\n\
         -a -t 10.9.0.2:80 -r 10.0.0.8:80 -g\n\
         -a -t 10.9.0.2:80 -r 10.0.0.7:80 -m -w 2\n",
    );
    assert_eq!(
        texts(&table.refused),
        [
            "line 1: scheduler 'sed' is none of rr, wrr, lc, wlc, sh, mh",
            "line 2: its service (line 1) is refused",
            "line 5: -m and -g (or -i) in one service: Portico has one way for all its backends",
            "line 6: an earlier line has the server 10.0.0.7:80 already",
        ]
    );
    let names: Vec<String> = table.services.iter().map(Imported::name).collect();
    assert_eq!(names, ["tcp-10.9.0.2-80"]);
}

#[test]
fn what_is_written_reads_back_as_it_was() {
    let services = json!({
        "tcp-10.9.0.1-80": { "vips": ["10.9.0.1:80/tcp"], "scheduler": "wrr", "affinity": "600s/24", "backends": {
            "10.0.0.7:8080": { "weight": 3 }, "10.0.0.8:8080": { "weight": 0 } } },
        "tcp-10.9.0.2-80": { "vips": ["10.9.0.2:80/tcp"], "scheduler": "mh", "client": "dsr", "backends": {
            "10.0.0.7:80": {}, "10.0.0.8:80": { "weight": 255 } } },
        "udp-10.9.0.1-53": { "vips": ["10.9.0.1:53/udp"], "scheduler": "sh", "affinity": "60s" },
        "udp-10.9.0.2-53": { "vips": ["10.9.0.2:53/udp"], "scheduler": "rr" },
        "udp-10.9.0.3-53": { "vips": ["10.9.0.3:53/udp"], "scheduler": "lc", "affinity": "60s/1" },
        "udp-10.9.0.4-53": { "vips": ["10.9.0.4:53/udp"], "scheduler": "wlc" },
        "tcp-fd00::1-80": { "vips": ["[fd00::1]:80/tcp"], "scheduler": "rr", "backends": {
            "[fd00::7]:8080": { "weight": 3 } } },
    });
    let (lines, left_out) = write(&state(services.clone()));
    assert_eq!(left_out, [""; 0]);
    let table = read(&lines);
    assert_eq!(
        (texts(&table.refused), texts(&table.notes)),
        (vec![], vec![]),
        "{lines}"
    );
    assert_eq!(specs(&table), services);
    let first: Vec<&str> = lines.lines().take(3).collect();
    assert_eq!(
        first,
        [
            "-A -t 10.9.0.1:80 -s wrr -p 600 -M 255.255.255.0",
            "-a -t 10.9.0.1:80 -r 10.0.0.7:8080 -m -w 3",
            "-a -t 10.9.0.1:80 -r 10.0.0.8:8080 -m -w 0",
        ]
    );
}

#[test]
fn what_the_format_has_no_words_for_is_said() {
    let (lines, left_out) = write(&state(json!({
        "a": { "vips": ["10.9.0.1:80", "net=10.9.0.2:80", "10.9.0.3"], "client": "dsr", "allow": ["10.0.0.0/8"],
            "health": {}, "backends": { "10.0.0.7:8080": {}, "10.0.0.8:8080": { "weight": 9, "draining": true } } },
        "b": { "vips": ["10.9.0.4:80"], "scheduler": "random" },
        "c": { "vips": ["10.9.0.5:80"], "ports": ["80"], "tasks": ["t.1"] },
    })));
    assert_eq!(
        lines,
        "-A -t 10.9.0.1:80 -s rr\n\
         -a -t 10.9.0.1:80 -r 10.0.0.7:8080 -m -w 1\n\
         -a -t 10.9.0.1:80 -r 10.0.0.8:8080 -m -w 0\n"
    );
    assert_eq!(
        left_out,
        [
            "service a: health: IPVS has nothing like it",
            "service a: allow: IPVS has nothing like it",
            "service a: client dsr: IPVS has it only where backends have the VIP's port",
            "service a: VIP net=10.9.0.2:80 is left out: IPVS knows no networks",
            "service a: VIP 10.9.0.3 is left out: IPVS has one port, or all of one protocol",
            "service b: VIP 10.9.0.4:80 is left out: IPVS has no scheduler random",
            "service c: ports: IPVS has nothing like it",
            "service c: is left out: its tasks are known to the other provider only",
        ]
    );
}
