// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which users a service has, and whom they let in.

use super::credentials::Credentials;
use super::users::{Wanted, resolve};
use super::*;
use crate::l7::settings::ServiceDefaults;
use crate::l7::spec::User;
use crate::l7::tests::settings;

/// `name:password` of everybody, with `usersSecret` s holding a and b, and USERS g.
fn users(listed: &str, secret: Option<&str>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dfp_users_s"), "a:of-secret\nb: spaced ,c\n").unwrap();
    let defaults = ServiceDefaults {
        secrets: dir.path().to_owned(),
        users: vec![User::new("g", "of-env", true)],
        ..settings(dir.path()).defaults
    };
    let wanted = Wanted {
        listed,
        secret,
        encrypted: false,
    };
    resolve(&wanted, &defaults)
        .unwrap()
        .iter()
        .map(|user| match user.is_nobody {
            true => "nobody".into(),
            false => format!("{}:{}", user.username, user.password.reveal()),
        })
        .collect()
}

#[test]
fn users_get_their_passwords_from_where_the_original_finds_them() {
    let some = Some("s");
    for (listed, secret, want) in [
        ("", None, vec![]),
        ("u:p", None, vec!["u:p"]),
        ("u:p:q, v : w \nx:", None, vec!["u:p:q", "v:w"]),
        (":p", None, vec!["nobody"]),
        (",", None, vec!["nobody"]),
        ("", some, vec!["a:of-secret", "b:spaced"]),
        ("A", some, vec!["A:of-secret"]),
        ("A,u:p,c,g", some, vec!["A:of-secret", "u:p"]),
        ("c", some, vec!["nobody"]),
        ("G,u:p", None, vec!["G:of-env", "u:p"]),
        ("a", None, vec!["nobody"]),
        ("", Some("missing"), vec!["nobody"]),
        ("u:p", Some("missing"), vec!["u:p"]),
    ] {
        assert_eq!(users(listed, secret), want, "{listed:?} {secret:?}");
    }
}

#[test]
fn a_secret_cannot_be_a_path() {
    let defaults = settings(std::path::Path::new("/nonexistent")).defaults;
    for name in ["../shadow", "a/b", "a b"] {
        let wanted = Wanted {
            listed: "",
            secret: Some(name),
            encrypted: false,
        };
        assert_eq!(resolve(&wanted, &defaults).unwrap_err().name, "usersSecret");
    }
}

/// Whether a login passes a list of one user.
fn passes(guard: &Guard, list: &Arc<Credentials>, login: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(login))).unwrap();
    headers.insert(header::AUTHORIZATION, value);
    let lists = [list.clone()];
    let outcome = runtime.unwrap().block_on(guard.check(&lists, &mut headers));
    match outcome {
        Ok(user) => {
            assert_eq!(login.split_once(':').unwrap().0.as_bytes(), user);
            assert!(!headers.contains_key(header::AUTHORIZATION));
            true
        }
        Err(Denied::Challenge(challenge)) => {
            assert_eq!(challenge, "Basic realm=\"aRealm\"");
            false
        }
        Err(Denied::Refused(refusal)) => panic!("{refusal:?}"),
    }
}

fn list(password: &str, encrypted: bool) -> Result<Arc<Credentials>, String> {
    Credentials::new("aRealm", &[User::new("u", password, encrypted)]).map(Arc::new)
}

#[test]
fn plain_passwords_and_hashes_of_crypt_let_in_who_knows_them() {
    const PASSWORD: &str = "p+&<>\"ä";
    for (stored, encrypted) in [
        (PASSWORD, false),
        ("$1$saltsalt$IWhwSiKI4VWWE37qi4gHC1", true),
        ("$5$saltsalt$jV/LIWc0hk/3G7Xjtj67uyWO/8NAuVLhceRk5PaGSK8", true),
        (
            "$6$saltsalt$EsFl2NeXf7cGr8De53xMXQkdJVzoEJ5XFl7ZxVqoYpM.2A7EEBELI.D/1IcHrvRBx5P0ZcWf/x7J6/Z/bMGcT.",
            true,
        ),
    ] {
        let (guard, list) = (Guard::default(), list(stored, encrypted).unwrap());
        // The second time the hash is not computed again.
        for _ in 0..2 {
            assert!(passes(&guard, &list, &format!("u:{PASSWORD}")), "{stored}");
            for wrong in ["u:", "u:x", "U:x", "", "u", &format!("v:{PASSWORD}")] {
                assert!(!passes(&guard, &list, wrong), "{stored} {wrong}");
            }
        }
        assert_eq!(guard.verified.borrow().len(), usize::from(encrypted));
    }
    let long = format!("u:{}", "p".repeat(limits::AUTH_PASSWORD_BYTES_MAX + 1));
    assert!(!passes(
        &Guard::default(),
        &list(&long[2..], false).unwrap(),
        &long
    ));
}

#[test]
fn what_was_verified_for_one_list_counts_for_no_other() {
    let guard = Guard::default();
    let old = list(
        "$6$saltsalt$EsFl2NeXf7cGr8De53xMXQkdJVzoEJ5XFl7ZxVqoYpM.2A7EEBELI.D/1IcHrvRBx5P0ZcWf/x7J6/Z/bMGcT.",
        true,
    )
    .unwrap();
    assert!(passes(&guard, &old, "u:p+&<>\"ä"));
    let new = list(
        "$6$saltsalt$EsFl2NeXf7cGr8De53xMXQkdJVzoEJ5XFl7ZxVqoYpM.2A7EEBELI.D/1IcHrvRBx5P0ZcWf/x7J6/Z/bMGcT.",
        true,
    )
    .unwrap();
    let other = list(&pwhash::sha512_crypt::hash("other").unwrap(), true).unwrap();
    assert!(passes(&guard, &new, "u:p+&<>\"ä"), "compiled again");
    assert!(!passes(&guard, &other, "u:p+&<>\"ä"));
}

#[test]
fn what_crypt_does_not_know_or_takes_too_long_is_refused() {
    for hash in [
        "plain",
        "$y$j9T$x$y",
        "$6$rounds=999999999$salt$x",
        "$6$rounds=x$salt$x",
        "$2y$31$abc",
        "$6$salt",
        "",
    ] {
        let error = list(hash, true).unwrap_err();
        assert!(
            error.contains("`u`") && (hash.len() < 5 || !error.contains(hash)),
            "{error}"
        );
    }
    assert!(list("xOAFZqRz5RduI", true).is_ok());
}
