//! The Ansible module on one host, without ssh: honest in check mode, still on a second run, and nothing half done when it fails.
//! `make test-fleet` has the whole of it, over ssh against three hosts.

mod common;

use std::process::Command;

use common::{Run, Scratch, text};
use serde_json::{Value, json};

const MODULE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../share/ansible/roles/jailwright/library/jailwright.py");

/// Ansible's own part of a module, where nobody may read it; `None` if it cannot be had.
fn ansible(scratch: &Scratch) -> Option<()> {
    let venv = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/venv"))
        .args(["ansible", "ansible-core"])
        .output()
        .expect("tests/venv");
    if !venv.status.success() {
        eprintln!("skipped: ansible-core cannot be installed: {}", String::from_utf8_lossy(&venv.stderr));
        return None;
    }
    let venv = String::from_utf8(venv.stdout).expect("ASCII");
    let copy = "mkdir -p \"$2/ansible\" && cd \"$1\"/lib/python3*/site-packages/ansible && \
        cp -r __init__.py release.py _vendor module_utils \"$2/ansible\" && chmod -R a+rX \"$2\"";
    let to = scratch.path("python");
    let done = Command::new("sh").args(["-c", copy, "sh", venv.trim(), text(&to)]).status().expect("sh");
    assert!(done.success());
    std::fs::copy(MODULE, scratch.path("module.py")).expect("copied");
    Some(())
}

fn play(scratch: &Scratch, section: &str, check: bool) -> (Run, Value) {
    let arguments = json!({ "ANSIBLE_MODULE_ARGS": {
        "profiles": { "own": section },
        "jails": [{ "path": scratch.jail(), "sections": ["own"] }],
        "bin_dir": scratch.path("bin"),
        "config_dir": scratch.path("etc"),
        "_ansible_check_mode": check,
        "_ansible_diff": true,
    } });
    std::fs::write(scratch.path("arguments.json"), arguments.to_string()).expect("written");
    let run = scratch
        .command("python3")
        .env("PYTHONPATH", scratch.path("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args([text(&scratch.path("module.py")), text(&scratch.path("arguments.json"))])
        .output();
    let run = Run::of(&run.expect("python3"));
    let answer = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:#?}"));
    (run, answer)
}

fn profile(scratch: &Scratch) -> Option<String> {
    std::fs::read_to_string(scratch.path("etc/profiles/own.toml")).ok()
}

#[test]
fn the_module_says_what_it_does_and_does_what_it_says() {
    let scratch = Scratch::new();
    if ansible(&scratch).is_none() {
        return;
    }
    let before = scratch.everything();
    let (run, answer) = play(&scratch, "commands = [\"cat\"]\n", true);
    assert_eq!((run.status, &answer["changed"]), (Some(0), &json!(true)), "{run:#?}");
    assert!(answer["diff"].to_string().contains("copy /usr/bin/cat"), "{answer:#}");
    assert_eq!(scratch.everything(), before, "check mode writes nothing");
    assert_eq!(profile(&scratch), None);
    let promised = answer["steps"].clone();

    let (run, answer) = play(&scratch, "commands = [\"cat\"]\n", false);
    assert_eq!((run.status, &answer["changed"]), (Some(0), &json!(true)), "{run:#?}");
    assert_eq!(answer["steps"], promised, "what check mode promised is what was done");
    scratch.on_jail("jail-check", &[]).ok();

    let before = scratch.everything();
    for check in [true, false] {
        let (_, answer) = play(&scratch, "commands = [\"cat\"]\n", check);
        assert_eq!((&answer["changed"], &answer["steps"]), (&json!(false), &json!([])), "{answer:#}");
    }
    assert_eq!(scratch.everything(), before, "a second run writes nothing");

    // A section that this host cannot meet: said, and the host is as it was.
    let (_, answer) = play(&scratch, "commands = [\"no-such-program\"]\n", false);
    assert_eq!(answer["failed"], json!(true), "{answer:#}");
    assert!(answer["msg"].as_str().is_some_and(|msg| msg.contains("no-such-program")), "{answer:#}");
    assert_eq!(scratch.everything(), before);
    assert_eq!(profile(&scratch).as_deref(), Some("commands = [\"cat\"]\n"));
}
