// SPDX-License-Identifier: MIT OR Apache-2.0
//! Command lines and secrets, and the settings that they mean.

use std::collections::BTreeSet;
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

/// Settings of an environment.
fn environment_of(variables: &[(&str, &str)]) -> Result<Settings, Exit> {
    let get = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let sources = Sources {
        secrets: Path::new("/nonexistent"),
        variable: &get,
    };
    unsupported::refuse(&sources)?;
    settings(Line::try_parse_from(["proxy"]).unwrap().flags, &sources, 100)
}

#[test]
fn what_cannot_be_honoured_ends_the_start_and_names_what_to_use_instead() {
    for (name, value, instead) in [
        (
            "EXTRA_FRONTEND",
            "http-request deny if { src 1.2.3.4 },option x",
            "denyIp",
        ),
        ("EXTRA_GLOBAL", "tune.bufsize 1", "nothing here does"),
        ("CFG_TEMPLATE_PATH", "/own.tmpl", "leave it out"),
        ("DEFAULT_REQ_MODE", "tcp", "reqMode=tcp"),
        ("CONNECTION_MODE", "http-tunnel", "http-keep-alive"),
        ("RESOLVERS", "nameserver dns nowhere", "has no address"),
        ("COMPRESSION_ALGO", "zstd", "gzip"),
    ] {
        let error = environment_of(&[(name, value)]).expect_err(name);
        assert_eq!(error.code(), 2, "{name}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(instead), "{text}");
    }
    // What the original's image sets is nobody's wish.
    let image = [
        ("CFG_TEMPLATE_PATH", "/cfg/tmpl/haproxy.tmpl"),
        ("CHECK_RESOLVERS", "false"),
        ("CONNECTION_MODE", "http-keep-alive"),
        ("DEFAULT_REQ_MODE", "http"),
        ("EXTRA_FRONTEND", ""),
        ("RESOLVERS", "nameserver dns 127.0.0.11:53"),
    ];
    let settings = environment_of(&image).unwrap();
    assert_eq!(settings.nameservers, ["127.0.0.11:53".parse().unwrap()]);
}

#[test]
fn services_of_the_environment_are_read_and_what_is_wrong_is_named() {
    let service = |more| {
        let base = [
            ("DFP_SERVICE_1_SERVICE_NAME", "a"),
            ("DFP_SERVICE_1_SERVICE_PATH", "/"),
            ("DFP_SERVICE_1_PORT", "1"),
            more,
        ];
        environment_of(&base)
    };
    assert_eq!(service(("X", "y")).unwrap().services[0].spec.service_name, "a");
    let error = service(("DFP_SERVICE_1_HTTPS_PORT", "x")).err().unwrap();
    assert!(error.to_string().contains("DFP_SERVICE_1_HTTPS_PORT"), "{error}");
    // What only compiling finds ends the start as well.
    let dir = tempfile::tempdir().unwrap();
    let mut settings = service(("DFP_SERVICE_1_BACKEND_EXTRA", "timeout server 9s")).unwrap();
    (settings.ports, settings.state_dir) = (Vec::new(), dir.path().to_owned());
    let error = Proxy::start(settings).err().map(explain).unwrap();
    assert_eq!(error.code(), 2);
    let text = error.to_string();
    assert!(
        text.contains("DFP_SERVICE_1_BACKEND_EXTRA") && text.contains("timeoutServer"),
        "{text}"
    );
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
    // TLS: an authority alone would ask nobody, and files that cannot be used are named.
    let file = dir.path().join("pem");
    std::fs::write(&file, "garbage").unwrap();
    let path = file.display().to_string();
    for (flags, named) in [
        (&["--admin-ca-file", path.as_str()][..], "PORTICO_ADMIN_CA_FILE"),
        (&["--admin-cert-file", path.as_str()], "PORTICO_ADMIN_CERT_FILE"),
    ] {
        let error = admin(flags).unwrap_err().to_string();
        assert!(error.contains(named) && !error.contains("garbage"), "{error}");
    }
    std::fs::write(&file, crate::l7::tls::testing::self_signed(&["a"])).unwrap();
    let error = admin(&["--admin-ca-file", &path]).unwrap_err().to_string();
    assert!(error.contains("PORTICO_ADMIN_CERT_FILE"), "{error}");
    let with_tls = admin(&["--admin-cert-file", &path]).unwrap();
    assert!(with_tls.tls.is_some());
    let with_both = admin(&["--admin-cert-file", &path, "--admin-ca-file", &path]).unwrap();
    assert!(with_both.needs_certificate() && !with_both.is_open());
    // An empty secret closes nothing, and must not seem to.
    std::fs::write(dir.path().join("dfp_admin_token"), "\n").unwrap();
    assert!(admin(&line).is_err());
}

#[test]
fn every_variable_stands_in_the_table_and_does_what_it_says() {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    let table = crate::compatibility::rows("Every variable");
    let command = Line::command();
    let flags: BTreeMap<&str, &str> = (command.get_arguments())
        .filter_map(|flag| Some((flag.get_env()?.to_str()?, flag.get_long()?)))
        .collect();
    let refused = unsupported::REFUSED.iter().map(|(name, _)| *name);
    // What the log is set up with, before anything else.
    let known: BTreeSet<&str> = (flags.keys().copied())
        .chain(environment::VARIABLES.iter().copied())
        .chain(unsupported::NO_EFFECT.iter().copied())
        .chain(refused.chain(["PORTICO_LOG"]))
        .collect();
    let documented: BTreeSet<&str> = (table.iter())
        .filter(|row| row.status != "not yet")
        .map(|row| row.name.as_str())
        .collect();
    let wrong: Vec<_> = documented.symmetric_difference(&known).collect();
    assert!(
        wrong.is_empty(),
        "only in one of docs/compatibility.md (Every variable) and the code: {wrong:?}"
    );
    for row in &table {
        let name = row.name.as_str();
        assert_eq!(
            row.status == "no effect",
            unsupported::NO_EFFECT.contains(&name),
            "{name}"
        );
        if row.status == "not yet" {
            assert!(!known.contains(name), "{name} is read now");
        }
        if row.example.is_empty() || row.status == "not yet" {
            continue;
        }
        let outcome = match flags.get(name) {
            Some(long) => read(&[&format!("--{long}={}", row.example)], Path::new("/nonexistent")),
            None => environment_of(&[(name, &row.example)]),
        };
        match (row.status.as_str(), outcome) {
            ("refused", Ok(_)) => panic!("{name} is refused in the table and taken by the code"),
            ("refused", Err(error)) => {
                assert!(error.code() == 2 && error.to_string().contains(name), "{error}");
            }
            ("same" | "better" | "own" | "no effect", Ok(_)) => {}
            (status, Ok(_)) => panic!("{name}: `{status}` is no status"),
            (_, Err(error)) => panic!("{name}={}: {error}", row.example),
        }
    }
}

#[test]
fn the_statistics_page_needs_a_user_or_an_explicit_none() {
    let page = |variables: &[(&str, &str)]| environment_of(variables).map(|settings| settings.stats);
    assert!(page(&[]).unwrap().is_none());
    assert!(page(&[("STATS_USER", "a")]).unwrap().is_none());
    let both = [("STATS_USER", "a"), ("STATS_PASS", "b")];
    let stats = page(&both).unwrap().unwrap();
    assert!(stats.credentials.is_some() && stats.uri == "/admin?stats" && stats.port.is_none());
    let open = page(&[("STATS_USER", "none")]).unwrap().unwrap();
    assert!(open.credentials.is_none());
    let named = [
        ("STATS_USER_ENV", "MY_USER"),
        ("MY_USER", "a"),
        ("STATS_PASS", "b"),
        ("STATS_URI", "/s"),
    ];
    assert_eq!(page(&named).unwrap().unwrap().uri, "/s");
    let settings = environment_of(&[both[0], both[1], ("STATS_PORT", "8404")]).unwrap();
    assert_eq!(numbers(&settings), [80, 443, 8404]);
    assert!(settings.stats.unwrap().port_is_own);
    for wrong in [("STATS_PORT", "x"), ("STATS_PORT", "0"), ("STATS_URI", "stats")] {
        assert!(
            matches!(page(&[both[0], both[1], wrong]), Err(Exit::Usage(_))),
            "{wrong:?}"
        );
    }
}
