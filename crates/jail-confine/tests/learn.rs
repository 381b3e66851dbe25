//! Learning a profile: a real program is recorded, and runs again under what was written.
//!
//! Without libtest's harness: its threads would make a fork of this process unsafe, so these tests run one after the other
//! in its only thread.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use jail_confine::learn::{Record, floor, listener_number, record, take_listener};
use jail_confine::seccomp::{Flags, Name, Program, Settings, ask_about_everything, compile, parse};
use jail_sys::process::{Cloned, Exec, clone, exit_now};
use rustix::process::{Pid, WaitOptions, waitpid};

const KERNEL: (u32, u32) = (6, 18);

type Test = (&'static str, fn());
const TESTS: [Test; 3] = [
    (
        "what_was_learnt_is_enough_to_run_again_and_no_more",
        what_was_learnt_is_enough_to_run_again_and_no_more,
    ),
    (
        "relative_names_are_made_absolute_and_missing_files_left_out",
        relative_names_are_made_absolute_and_missing_files_left_out,
    ),
    (
        "the_floor_holds_while_learning_and_is_only_commented",
        the_floor_holds_while_learning_and_is_only_commented,
    ),
];

/// Runs those whose names hold one of the words given, as `cargo test WORD` means it, and sums up in libtest's words.
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let (count, verdict) = match catch_unwind(test) {
            Ok(()) => (&mut passed, "ok"),
            Err(_) => (&mut failed, "FAILED"),
        };
        *count += 1;
        println!("test {name} ... {verdict}");
    }
    let (verdict, status) =
        if failed == 0 { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
    let filtered = TESTS.len() - passed - failed;
    println!(
        "test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out"
    );
    status
}

/// Runs a shell command in a child: `before` prepares it, right before exec.
fn child(script: &str, before: impl FnOnce()) -> Pid {
    let word = |word: &str| CString::new(word).expect("no NUL");
    let argv = ["/bin/sh", "-c", script].map(word).to_vec();
    let environment = std::env::vars().map(|(name, value)| word(&format!("{name}={value}"))).collect();
    let shell = Exec::new(word("/bin/sh"), argv, environment);
    match clone(0).expect("a child") {
        Cloned::Parent { pid, .. } => pid,
        Cloned::Child => {
            let prepare = AssertUnwindSafe(|| {
                rustix::thread::set_no_new_privs(true).expect("no_new_privs");
                before();
            });
            // A child that unwound into main would run the other tests a second time.
            if catch_unwind(prepare).is_ok() {
                eprintln!("cannot execute /bin/sh: {}", shell.run());
            }
            exit_now(127)
        }
    }
}

fn exit_status(pid: Pid) -> i32 {
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).expect("waits").expect("its end");
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).expect("an end")
}

fn learn(script: &str) -> (Record, i32) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let program = ask_about_everything().expect("compiles");
    let pid = child(script, || {
        let number = listener_number().expect("a number");
        writer.write_all(&number.to_ne_bytes()).expect("written");
        let listener = program.load_with_listener().expect("loads");
        assert_eq!(listener.as_raw_fd(), number);
        std::mem::forget(listener);
    });
    let mut number = [0; 4];
    reader.read_exact(&mut number).expect("the child's word");
    let listener = take_listener(pid, i32::from_ne_bytes(number)).expect("the listener");
    let seen = record(&listener, &floor(KERNEL).expect("compiles")).expect("recorded");
    (seen, exit_status(pid))
}

fn run_under(json: &str, script: &str) -> i32 {
    let profile = parse(json.as_bytes(), "learnt.json").expect("well-formed");
    let program: Program = compile(&Settings::plain(&profile, KERNEL)).expect("compiles").0;
    exit_status(child(script, || program.load(Flags { log: true, ..Flags::default() }).expect("loads")))
}

fn what_was_learnt_is_enough_to_run_again_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("f").to_string_lossy().into_owned();
    let script = format!("echo 3 >{file}; test $(cat {file} | wc -l) = 1 && exit 7");
    let (seen, status) = learn(&script);
    assert_eq!(status, 7, "the recorded run works");
    let made = |name: &str| seen.made.contains(&Name::find(name).expect("known"));
    assert!(made("execve") && made("write") && made("exit_group"), "{seen:?}");
    assert!(!made("socket") && !made("mount"), "{seen:?}");
    for used in [file.as_str(), "/bin/sh"] {
        assert!(seen.files.contains(std::ffi::OsStr::new(used)), "{used} is not in {:?}", seen.files);
    }
    assert!(seen.files.iter().any(|f| f.to_string_lossy().contains("libc.so")), "{:?}", seen.files);
    let json = seen.to_json();
    assert_eq!(run_under(&json, &script), 7, "{json}");
    // mkdir was not among what was seen.
    assert_ne!(run_under(&json, &format!("mkdir {file}.d")), 0, "{json}");
    assert!(!dir.path().join("f.d").exists());
}

fn relative_names_are_made_absolute_and_missing_files_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().canonicalize().expect("a real path");
    let (seen, status) =
        learn(&format!("cd {}; echo 1 >here; true <missing; read x <here", place.to_string_lossy()));
    let has = |name: &str| seen.files.contains(place.join(name).as_os_str());
    assert!(has("here") && !has("missing"), "{status} {:?}", seen.files);
}

fn the_floor_holds_while_learning_and_is_only_commented() {
    if !std::path::Path::new("/usr/bin/unshare").exists() {
        eprintln!("skipped: unshare is not installed");
        return;
    }
    let (seen, status) = learn("exec /usr/bin/unshare --mount /bin/true 2>/dev/null");
    assert_ne!(status, 0, "refused while learning");
    assert!(seen.refused.contains(&Name::find("unshare").expect("known")), "{seen:?}");
    let json = seen.to_json();
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(value["syscalls"][0]["comment"].as_str().expect("text").contains("unshare"));
    let names = value["syscalls"][0]["names"].as_array().expect("a list");
    assert!(names.iter().all(|name| name != "unshare"), "{json}");
}
