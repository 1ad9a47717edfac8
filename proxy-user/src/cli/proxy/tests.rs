// SPDX-License-Identifier: MIT OR Apache-2.0
//! Command lines and secrets, and the settings that they mean.

use std::time::Duration;

use clap::Parser;

use super::flags::Flags;
use super::resolve::settings;
use super::*;
use crate::l7::settings::Settings;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn read(line: &[&str], secrets: &Path) -> Result<Settings, Exit> {
    let args = Line::try_parse_from([&["proxy"], line].concat())
        .map_err(|e| Exit::Usage(e.to_string()))?
        .flags;
    let sources = Sources {
        secrets,
        variable: &|_| None,
    };
    settings(args, &sources, 100)
}

fn numbers(settings: &Settings) -> Vec<u16> {
    settings.ports.iter().map(|port| port.number).collect()
}

#[test]
fn defaults_are_the_originals() {
    let settings = read(&[], Path::new("/nonexistent")).unwrap();
    assert_eq!(numbers(&settings), [80, 443]);
    assert_eq!(settings.api.to_string(), "0.0.0.0:8080");
    assert_eq!(settings.connections_max, 100);
    assert_eq!(settings.timeouts.server, Duration::from_secs(20));
}

#[test]
fn a_secret_wins_over_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dfp_timeout_server"), "7\n").unwrap();
    std::fs::write(dir.path().join("dfp_bind_ports"), "81,443\n").unwrap();
    let settings = read(&["--timeout-server", "9"], dir.path()).unwrap();
    assert_eq!(settings.timeouts.server, Duration::from_secs(7));
    assert_eq!(numbers(&settings), [80, 443, 81]);
}

#[test]
fn wrong_values_are_wrong_usage() {
    for line in [
        ["--default-ports", "http"],
        ["--timeout-client", "soon"],
        ["--service-domain-algo", "x"],
        ["--debug", "maybe"],
        ["--allow-ip", "10.0.0.0/33"],
        ["--deny-ip", ","],
    ] {
        assert!(
            matches!(read(&line, Path::new("/nonexistent")), Err(Exit::Usage(_))),
            "{line:?}"
        );
    }
}

#[test]
fn what_protects_is_not_ignored() {
    let error = unsupported::refuse(&|name| (name == "EXTRA_GLOBAL").then(|| "x".into())).unwrap_err();
    assert!(error.to_string().contains("EXTRA_GLOBAL"));
    assert!(unsupported::refuse(&|_| None).is_ok());
}

#[test]
fn an_address_in_use_is_what_the_machine_lacks() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let settings = read(
        &[
            "--listen",
            "127.0.0.1",
            "--ip",
            "127.0.0.1",
            "--port",
            "0",
            "--default-ports",
            &port,
            "--state",
            "/proc/no",
        ],
        Path::new("/nonexistent"),
    );
    let error = Proxy::start(settings.unwrap()).err().map(explain).unwrap();
    assert_eq!(error.code(), 3);
    assert!(error.to_string().contains(&port), "{error}");
}

#[test]
fn users_come_from_the_environment_or_a_secret_and_are_never_said() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &'static str| {
        let flags = Line::try_parse_from(["proxy"]).unwrap().flags;
        let sources = Sources {
            secrets: dir.path(),
            variable: &|name| (name == "USERS").then(|| text.into()),
        };
        settings(flags, &sources, 100)
    };
    let known = read("admin:hunter2, two:x").unwrap();
    let names: Vec<&str> = known
        .defaults
        .users
        .iter()
        .map(|user| user.username.as_str())
        .collect();
    assert_eq!(names, ["admin", "two"]);
    assert!(known.credentials.is_some());
    assert!(!format!("{known:?}").contains("hunter2"));
    assert!(read("").unwrap().credentials.is_none());
    // What was meant to protect and does not is an error.
    assert!(read("admin").is_err_and(|error| error.to_string().contains("USERS")));
    std::fs::write(dir.path().join("dfp_users"), "secret:hunter3\n").unwrap();
    assert_eq!(
        read("admin:hunter2").unwrap().defaults.users[0].username,
        "secret"
    );
    std::fs::write(dir.path().join("dfp_users_pass_encrypted"), "true").unwrap();
    let error = read("").err().unwrap().to_string();
    assert!(error.contains("secret") && !error.contains("hunter3"), "{error}");
}

#[test]
fn what_closes_the_admin_port_is_never_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let admin = |line: &[&str]| read(line, dir.path()).map(|settings| settings.admin);
    assert!(admin(&[]).unwrap().is_open());
    let missing = dir.path().join("missing");
    let error = admin(&["--admin-token-file", &missing.display().to_string()]).unwrap_err();
    assert!(error.to_string().contains("PORTICO_ADMIN_TOKEN_FILE"), "{error}");
    assert!(admin(&["--admin-allow", "somewhere"]).is_err());
    let file = dir.path().join("tokens");
    std::fs::write(&file, "from-file\n").unwrap();
    let line = ["--admin-token-file", &file.display().to_string()];
    assert_eq!(admin(&line).unwrap().tokens[0].reveal(), "from-file");
    std::fs::write(dir.path().join("dfp_admin_token"), "from-secret\n").unwrap();
    assert_eq!(admin(&line).unwrap().tokens[0].reveal(), "from-secret");
    // An empty secret closes nothing, and must not seem to.
    std::fs::write(dir.path().join("dfp_admin_token"), "\n").unwrap();
    assert!(admin(&line).is_err());
}
