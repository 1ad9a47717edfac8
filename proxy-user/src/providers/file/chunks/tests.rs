// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading by chunks says what reading the whole says, whatever the text; and what has not changed is not read.

use super::*;

const HEAD: &str =
    "node = \"a\"\n\n[[nodes]]\nname = \"a\"\naddress = \"192.0.2.1\"\n\n[[networks]]\nname = \"net\"\n";

fn task(name: &str, last: u8) -> String {
    format!("[[tasks]]\nname = \"{name}\"\nnode = \"a\"\nnetworks = {{ net = \"10.0.0.{last}\" }}\n")
}

fn service(name: &str, tasks: &str) -> String {
    format!("[[services]]\nname = \"{name}\"\nvips = {{ net = \"10.1.0.1\" }}\ntasks = [{tasks}]\n")
}

fn whole(text: &str) -> Result<Snapshot, String> {
    parse("p.toml", text, None).map_err(|error| error.to_string())
}

fn reader() -> Reader {
    Reader::new("p.toml".into(), None)
}

fn is_cut(text: &str) -> bool {
    reader().by_chunks(text).is_some()
}

#[test]
fn every_text_means_what_it_means_as_a_whole() {
    let (t, s) = (task("t", 1), service("s", "\"t\""));
    let good = format!("{HEAD}{t}{s}");
    let texts = [
        (good.clone(), true),
        (good.replace('\n', "\r\n"), true),
        (format!("{t}{s}"), true),
        (format!("{t}{HEAD}"), false),
        (
            format!("{HEAD}# [[tasks]]\n{t}[[nodes]]\nname = \"b\"\naddress = \"192.0.2.2\"\n{s}"),
            true,
        ),
        (
            format!("{HEAD}[[tasks]] # first\nname = \"t\"\n[tasks.networks]\nnet = \"10.0.0.9\"\n{s}"),
            true,
        ),
        (
            format!("{HEAD}{s}[[services.ports]]\npublished = 80\ntarget = 8080\n{t}"),
            true,
        ),
        (format!("{HEAD}{t}unknown = 1\n{s}{t}"), true),
        // No name, or not one object.
        (format!("{HEAD}{t}[[tasks]]\nnode = \"a\"\n{s}"), false),
        (format!("{HEAD}{t}  [[tasks]]\n  name = \"u\"\n{s}"), false),
        (format!("{HEAD}{t}[services.vips]\nnet = \"10.1.0.1\"\n"), true),
        (format!("{HEAD}{t}[[\"tasks\"]]\nname = \"u\"\n"), false),
        (format!("{HEAD}{t}[[ tasks ]]\nname = \"u\"\n"), false),
        (format!("tasks = []\n{HEAD}{t}"), false),
        (format!("tasks = []\n{HEAD}{s}"), true),
        (format!("{HEAD}services = [\n[[tasks]]\n]\n{t}"), false),
        (
            format!("{HEAD}[[tasks]]\nname = \"t\"\nnode = [\n[[services]]\n]\n{s}"),
            false,
        ),
        // A text over several lines.
        (
            format!("{HEAD}{t}[[tasks]]\nname = \"\"\"\n[[services]]\nname = \"x\"\n\"\"\"\n"),
            false,
        ),
        (
            format!("{HEAD}{t}[[tasks]]\nname = '''\n[[tasks]]\nname = \"x\"\n'''\n"),
            false,
        ),
        // Errors, with their lines.
        (format!("{HEAD}{t}[[tasks]\nname = \"u\"\n"), false),
        (format!("{HEAD}{t}name = \"t\"\n"), false),
        (format!("node = \n{t}"), false),
        (HEAD.into(), false),
        ("".into(), false),
        (" \n".into(), false),
        ("node = \"a\"\nservices = []\n".into(), false),
    ];
    for (text, cut) in &texts {
        assert_eq!(is_cut(text), *cut, "{text}");
        let read = reader().read(text.clone()).map_err(|error| error.to_string());
        assert_eq!(read, whole(text), "{text}");
    }
    // One reader for all of them, forth and back: nothing is left over from an earlier text.
    let mut one = reader();
    for (text, _) in texts.iter().chain(texts.iter().rev()) {
        let read = one.read(text.clone()).map_err(|error| error.to_string());
        assert_eq!(read, whole(text), "{text}");
    }
}

#[test]
fn what_stays_is_the_same_allocation() {
    let tasks: Vec<String> = (0..9).map(|n| task(&format!("t{n}"), n + 1)).collect();
    let text = |tasks: &[String]| format!("{HEAD}{}{}", tasks.concat(), service("s", "\"t1\""));
    let mut reader = reader();
    let before = reader.read(text(&tasks)).unwrap();

    let mut changed = tasks.clone();
    changed[4] = task("t4", 99);
    let after = reader.read(text(&changed)).unwrap();
    for (index, (old, new)) in before.tasks.iter().zip(&after.tasks).enumerate() {
        assert_eq!(Arc::ptr_eq(old, new), index != 4, "{index}");
    }
    assert!(Arc::ptr_eq(&before.services[0], &after.services[0]));

    let mut fewer = changed.clone();
    fewer.remove(2);
    let fewer = reader.read(text(&fewer)).unwrap();
    assert_eq!(fewer.tasks.len(), 8);
    assert!(Arc::ptr_eq(&fewer.tasks[1], &after.tasks[1]));
    assert!(Arc::ptr_eq(&fewer.tasks[2], &after.tasks[3]));
    assert_eq!(
        Ok(fewer),
        whole(&{
            let mut texts = changed.clone();
            texts.remove(2);
            text(&texts)
        })
    );
}

#[test]
fn an_error_does_not_make_it_forget() {
    let mut reader = reader();
    let good = format!("{HEAD}{}", task("t", 1));
    let before = reader.read(good.clone()).unwrap();
    assert!(reader.read(format!("{good}[[tasks]\n")).is_err());
    let after = reader.read(good).unwrap();
    assert!(Arc::ptr_eq(&before.tasks[0], &after.tasks[0]));
}
