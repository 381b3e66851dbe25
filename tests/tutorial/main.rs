//! Runs every line of `docs/tutorial.md`, in order, and compares what it prints: a document whose commands have stopped
//! working is worse than none.
//!
//! Only blocks marked `console` are run. In them `# ` is root, `$ ` an ordinary user; what follows is what must be
//! printed, on either stream. `…` alone stands for any lines, `…` within a line for any text.

use std::fs;

use jailwright_tests::product::checkout;
use jailwright_tests::{Done, Run, Scratch, Test, test};

const TESTS: &[Test] = &[test!(scratch every_line_does_what_it_says), test!(plain patterns)];

fn main() -> std::process::ExitCode {
    jailwright_tests::suite(&[TESTS])
}

/// One command and what it must print.
#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    root: bool,
    command: String,
    expected: Vec<String>,
}

fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, text) in (1..).zip(document.lines()) {
        if let Some(kind) = text.strip_prefix("```") {
            inside = kind == "console";
            continue;
        }
        if !inside {
            continue;
        }
        let command =
            text.strip_prefix("# ").map(|c| (true, c)).or(text.strip_prefix("$ ").map(|c| (false, c)));
        match (command, steps.last_mut()) {
            (Some((root, command)), _) => {
                steps.push(Step { line: number, root, command: command.to_owned(), expected: Vec::new() });
            }
            (None, Some(step)) if step.command.ends_with('\\') => {
                step.command.pop();
                step.command.push_str(text.trim());
            }
            (None, Some(step)) => step.expected.push(text.to_owned()),
            (None, None) => panic!("line {number}: output before any command"),
        }
    }
    steps
}

/// Whether lines are as expected, `…` standing for anything.
fn fits(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first.trim() == "…" => {
            (0..=lines.len()).any(|skipped| fits(rest, &lines[skipped..]))
        }
        (Some((first, rest)), Some((line, others))) => line_fits(first, line) && fits(rest, others),
        _ => false,
    }
}

fn line_fits(expected: &str, line: &str) -> bool {
    let Some((before, after)) = expected.split_once('…') else {
        return expected.trim_end() == line.trim_end();
    };
    let Some(rest) = line.strip_prefix(before) else { return false };
    rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| line_fits(after, &rest[at..]))
}

fn patterns() -> Done {
    let expected = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(fits(&expected("a\n…\nd"), &["a", "b", "c", "d"]));
    assert!(fits(&expected("a\n…"), &["a"]));
    assert!(!fits(&expected("a"), &["a", "b"]));
    assert!(fits(&expected("uid=…(dave)"), &["uid=1000(dave)"]));
    assert!(!fits(&expected("uid=…(dave)"), &["uid=1000(eve)"]));
    let found = steps("```console\n$ a \\\n  b\nout\n# c\n```\ntext\n```sh\n$ not this\n```\n");
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].command.as_str(), found[0].root, found[1].root), ("a b", false, true));
    assert_eq!(found[0].expected, ["out"]);
    Ok(())
}

fn every_line_does_what_it_says(scratch: &Scratch) -> Done {
    scratch.product();
    let document = fs::read_to_string(checkout().join("docs/tutorial.md")).expect("the tutorial");
    let steps = steps(&document);
    assert!(steps.len() > 10, "the tutorial has lost its commands");
    prepare(scratch);
    for step in steps {
        let line = format!("exec 2>&1; cd; {}", step.command);
        let run = if step.root { Run::new("env") } else { as_you() };
        let root_home = if step.root { "/root" } else { "/home/you" };
        let out = run
            .env("HOME", root_home)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["bash", "-c", &line])
            .run();
        let text = out.text();
        let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
        assert!(
            fits(&step.expected, &lines),
            "docs/tutorial.md:{}: {}\nmust print:\n{}\nprinted (status {}):\n{text}",
            step.line,
            step.command,
            step.expected.join("\n"),
            out.status
        );
    }
    Ok(())
}

fn as_you() -> Run {
    Run::new("runuser").args(["-u", "you", "--"])
}

/// The people of the tutorial: `you`, with a key that dave and erin accept, and a name for this host.
fn prepare(scratch: &Scratch) {
    let sshd = scratch.sshd();
    for (uid, name) in (1_900_001..).zip(["you", "dave", "erin"]) {
        Run::sh(&format!("useradd -m -s /bin/bash -u {uid} {name} && usermod -p '*' {name}")).run().ok();
        let dir = format!("/home/{name}/.ssh");
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(format!("{dir}/authorized_keys"), sshd.public_key()).expect("write");
        if name == "you" {
            let config = fs::read_to_string(sshd.client_config()).expect("client's configuration");
            let key = sshd.dir().join("client_key");
            fs::copy(&key, format!("{dir}/key")).expect("copy the key");
            let config = config
                .replace("Host jail", "Host host")
                .replace(&*key.to_string_lossy(), &format!("{dir}/key"));
            fs::write(format!("{dir}/config"), config).expect("write");
        }
        Run::sh(&format!("chown -R {name}: {dir}; chmod -R go= {dir}")).run().ok();
    }
}
