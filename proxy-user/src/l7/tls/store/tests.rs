// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that come, change, break and go.

use std::os::unix::fs::PermissionsExt;

use rustls::SignatureScheme;

use super::super::testing::self_signed;
use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(place.certs()).unwrap();
        fs::create_dir_all(place.secrets()).unwrap();
        place
    }

    fn certs(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    fn secrets(&self) -> PathBuf {
        self.dir.path().join("secrets")
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            dir: self.certs(),
            secrets: self.secrets(),
            ..TlsSettings::default()
        }
    }
}

/// Names of the certificate that a client gets.
fn served(store: &Store, name: &str) -> Vec<String> {
    let index = store.current().0.load_full();
    let found = index.find(Some(name), &[SignatureScheme::ECDSA_NISTP256_SHA256]);
    found.map_or(Vec::new(), |key| {
        super::super::x509::read(&key.cert[0]).unwrap().names
    })
}

#[test]
fn folder_comes_before_secrets_and_globs_before_both() {
    let place = Place::new();
    fs::write(place.certs().join("b.pem"), self_signed(&["b"])).unwrap();
    fs::write(place.certs().join("a.pem"), self_signed(&["a"])).unwrap();
    fs::write(place.certs().join(".hidden"), self_signed(&["hidden"])).unwrap();
    fs::write(place.secrets().join("CERT-x"), self_signed(&["x"])).unwrap();
    fs::write(place.secrets().join("cert_y"), self_signed(&["y"])).unwrap();
    fs::write(place.secrets().join("certificate"), self_signed(&["no"])).unwrap();
    let store = Store::open(place.settings());
    assert_eq!(served(&store, "unknown"), ["a"]);
    for name in ["a", "b", "x", "y"] {
        assert_eq!(served(&store, name), [name]);
    }
    for name in ["hidden", "no"] {
        assert_eq!(served(&store, name), ["a"]);
    }
    for (preferred, want) in [("*_y,b*", "y"), ("none,b.*", "b"), ("nothing", "a")] {
        let store = Store::open(TlsSettings {
            preferred: preferred.split(',').map(Into::into).collect(),
            ..place.settings()
        });
        assert_eq!(served(&store, "unknown"), [want], "{preferred}");
    }
    let strict = Store::open(TlsSettings {
        strict_sni: true,
        ..place.settings()
    });
    assert!(served(&strict, "unknown").is_empty());
    // Secrets are never handed out.
    let names: Vec<String> = store.list().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.pem", "b.pem"]);
}

#[test]
fn a_file_that_breaks_keeps_its_last_good_version_and_one_that_goes_is_gone() {
    let place = Place::new();
    let file = place.certs().join("a.pem");
    fs::write(&file, self_signed(&["one"])).unwrap();
    let store = Store::open(place.settings());
    assert!(!store.rescan());
    fs::write(&file, "garbage").unwrap();
    assert!(!store.rescan());
    assert_eq!(served(&store, "x"), ["one"]);
    fs::write(&file, self_signed(&["two"])).unwrap();
    assert!(store.rescan());
    assert_eq!(served(&store, "x"), ["two"]);
    fs::remove_file(&file).unwrap();
    assert!(store.rescan());
    assert!(store.current().0.load().is_empty());
}

#[test]
fn a_put_is_checked_kept_and_read_again_by_its_owner_alone() {
    let place = Place::new();
    let store = Store::open(place.settings());
    let pem = self_signed(&["a"]);
    store.put("a.pem", pem.as_bytes()).unwrap();
    assert_eq!(served(&store, "a"), ["a"]);
    assert!(!store.rescan(), "what was put is not read again");
    let file = place.certs().join("a.pem");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(store.put("a.pem", b"garbage"), Err(StoreError::Pem(_))));
    assert_eq!(fs::read_to_string(&file).unwrap(), pem);
    assert_eq!(served(&Store::open(place.settings()), "a"), ["a"]);
    assert_eq!(fs::read_dir(place.certs()).unwrap().count(), 1);
}

#[test]
fn names_stay_in_the_folder() {
    let place = Place::new();
    let store = Store::open(place.settings());
    let long = "a".repeat(limits::CERT_NAME_BYTES_MAX + 1);
    for name in [
        "", ".", "..", "../a", "/etc/a", "a/b", "a\\b", ".a", "a\0b", "a\nb", "ä", "a b", &long,
    ] {
        let outcome = store.put(name, self_signed(&["a"]).as_bytes());
        assert!(matches!(outcome, Err(StoreError::Name(_))), "{name:?}");
    }
    assert_eq!(fs::read_dir(place.certs()).unwrap().count(), 0);
    for name in ["acme.com.combined.pem", "*.acme.com", "a_b-c+d@e=f"] {
        store.put(name, self_signed(&["a"]).as_bytes()).unwrap();
    }
}

#[test]
fn a_replica_gives_what_is_missing_or_newer() {
    let place = Place::new();
    let store = Store::open(place.settings());
    let older = self_signed(&["older"]);
    assert!(store.adopt("a", older.as_bytes()).unwrap());
    assert!(!store.adopt("a", self_signed(&["same-date"]).as_bytes()).unwrap());
    let newer = super::super::testing::dated(&["newer"], 2030);
    assert!(store.adopt("a", newer.as_bytes()).unwrap());
    assert_eq!(served(&store, "x"), ["newer"]);
    assert!(!store.adopt("a", older.as_bytes()).unwrap());
}

#[test]
fn a_folder_that_cannot_be_written_is_said_and_a_services_certificate_is_served() {
    let place = Place::new();
    let store = Store::open(TlsSettings {
        dir: "/proc/nothing/here".into(),
        ..place.settings()
    });
    let pem = self_signed(&["a"]);
    assert!(matches!(
        store.put("a", pem.as_bytes()),
        Err(StoreError::Write { .. })
    ));
    assert!(store.current().0.load().is_empty());
    store.put_of_service("a", pem.as_bytes()).unwrap();
    store.rescan();
    assert_eq!(served(&store, "x"), ["a"]);
}

#[test]
fn a_crt_list_alone_decides() {
    let place = Place::new();
    let (one, two, list) = (
        place.certs().join("one"),
        place.dir.path().join("two"),
        place.dir.path().join("list"),
    );
    fs::write(&one, self_signed(&["one"])).unwrap();
    fs::write(&two, self_signed(&["two", "also"])).unwrap();
    fs::write(place.secrets().join("cert-x"), self_signed(&["x"])).unwrap();
    let text = format!(
        "# first\n{} *.acme.com !bad.acme.com\n{}\n",
        two.display(),
        one.display()
    );
    fs::write(&list, text).unwrap();
    let store = Store::open(TlsSettings {
        crt_list: Some(list.clone()),
        ..place.settings()
    });
    assert_eq!(served(&store, "one"), ["one"]);
    assert_eq!(served(&store, "a.acme.com"), ["two", "also"]);
    assert_eq!(served(&store, "x"), ["two", "also"], "the first is the default");
    fs::write(&list, format!("{} [verify none]", one.display())).unwrap();
    assert!(
        !store.rescan(),
        "a list that cannot be honoured is not taken over"
    );
    fs::write(&list, one.display().to_string()).unwrap();
    assert!(store.rescan());
    assert_eq!(served(&store, "x"), ["one"]);
}
