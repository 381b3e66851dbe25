//! Learning a profile: a real program is recorded, and runs again under what was written.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use jail_confine::learn::{Record, floor, listener_number, record, take_listener};
use jail_confine::seccomp::{Flags, Name, Program, Settings, ask_about_everything, compile, parse};

const KERNEL: (u32, u32) = (6, 18);

/// Runs a shell command in a child: `before` prepares it, right before exec.
fn child(script: &str, before: impl FnOnce()) -> i32 {
    let words = ["/bin/sh", "-c", script].map(|word| CString::new(word).expect("no NUL"));
    let argv: Vec<*const c_char> = words.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect();
    // SAFETY: the child prepares itself and execs; it allocates nothing on the way but two descriptors.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: prctl with constants.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        before();
        // SAFETY: the strings and the vector were made before the fork; ends by _exit.
        unsafe {
            libc::execv(words[0].as_ptr(), argv.as_ptr());
            libc::_exit(127);
        }
    }
    assert!(pid > 0, "fork failed");
    pid
}

fn exit_status(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
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
    let child = rustix::process::Pid::from_raw(pid).expect("a pid");
    let listener = take_listener(child, i32::from_ne_bytes(number)).expect("the listener");
    let seen = record(&listener, &floor(KERNEL).expect("compiles")).expect("recorded");
    (seen, exit_status(pid))
}

fn run_under(json: &str, script: &str) -> i32 {
    let profile = parse(json.as_bytes(), "learnt.json").expect("well-formed");
    let program: Program = compile(&Settings::plain(&profile, KERNEL)).expect("compiles").0;
    exit_status(child(script, || program.load(Flags { log: true, ..Flags::default() }).expect("loads")))
}

#[test]
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

#[test]
fn relative_names_are_made_absolute_and_missing_files_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().canonicalize().expect("a real path");
    let (seen, status) =
        learn(&format!("cd {}; echo 1 >here; true <missing; read x <here", place.to_string_lossy()));
    let has = |name: &str| seen.files.contains(place.join(name).as_os_str());
    assert!(has("here") && !has("missing"), "{status} {:?}", seen.files);
}

#[test]
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
