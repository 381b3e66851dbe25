//! Every call, command line and policy that fuzzing kept, through the code that fuzzing ran; and what we make of a command
//! line is held against a shell.

use std::path::Path;
use std::process::Command;

use jail_confine::commands::split::split;

#[path = "../../../fuzz/callers.rs"]
mod callers;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let files: Vec<Vec<u8>> = std::fs::read_dir(dir)
        .expect("a corpus")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("read"))
        .collect();
    assert!(files.len() >= 3, "{name}: only {} files", files.len());
    files
}

#[test]
fn calls() {
    corpus("call").iter().for_each(|data| callers::call(data));
}

#[test]
fn policies() {
    corpus("policy").iter().for_each(|data| callers::policy(data));
}

/// A line that we take apart is taken apart as sh does it: no word that a shell would have made into something else.
#[test]
fn lines_as_a_shell_has_them() {
    use std::os::unix::ffi::OsStrExt;
    let mut compared = 0;
    for data in corpus("line") {
        callers::line(&data);
        let Ok(words) = split(&data) else { continue };
        if words.is_empty() {
            continue;
        }
        // Builtins alone can be found; nothing that is special to a shell gets this far, or the test fails.
        let script = [b"printf '%s\\0' ".as_slice(), &data].concat();
        let out = Command::new("/bin/sh")
            .arg("-c")
            .arg(std::ffi::OsStr::from_bytes(&script))
            .env_clear()
            .env("PATH", "/nonexistent")
            .current_dir("/proc/self/fdinfo")
            .output()
            .expect("sh");
        let expected: Vec<u8> = words.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
        assert_eq!(
            out.stdout.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{}",
            data.escape_ascii()
        );
        compared += 1;
    }
    assert!(compared >= 4, "only {compared} lines were compared");
}
