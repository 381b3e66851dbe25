// What the fuzz target of a served home does with its bytes, for the fuzzer and for the test that replays its corpus: a
// guest asks whatever it likes, and nothing outside the home is changed, read or reached.

use std::path::Path;

use jail_vm::home::Server;
use rustix::fs::{Mode, OFlags};

/// Requests are cut from the bytes: a length, an operation, a file's number, then the body. `dir` is empty, and is emptied.
pub(crate) fn home(dir: &Path, data: &[u8]) {
    let inside = dir.join("home");
    std::fs::create_dir_all(inside.join("d")).expect("made");
    std::fs::write(dir.join("secret"), "0123456789secret").expect("written");
    std::os::unix::fs::symlink("../secret", inside.join("l")).unwrap_or_default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut server = Server::new(rustix::fs::open(&inside, flags, Mode::empty()).expect("opened"));
    let mut rest = data;
    while let [length, operation, node, after @ ..] = rest {
        let (body, next) = after.split_at(usize::from(*length).min(after.len()));
        rest = next;
        // Room that is really taken would fill the machine that fuzzes.
        if *operation == 43 {
            continue;
        }
        let mut request = u32::try_from(40 + body.len()).expect("short").to_le_bytes().to_vec();
        request.extend_from_slice(&u32::from(*operation).to_le_bytes());
        request.extend_from_slice(&7_u64.to_le_bytes());
        request.extend_from_slice(&u64::from(*node).to_le_bytes());
        request.extend_from_slice(&[0; 16]);
        request.extend_from_slice(body);
        if let Some(answer) = server.answer(&request) {
            assert!(answer.len() >= 16, "an answer has a head");
            let said = u32::from_le_bytes(answer[..4].try_into().expect("four"));
            assert_eq!(usize::try_from(said), Ok(answer.len()), "it says how long it is");
            assert!(!answer.windows(16).any(|part| part == b"0123456789secret"), "the outside is read");
        }
    }
    drop(server);
    let names: Vec<_> =
        std::fs::read_dir(dir).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "something is made or removed outside: {names:?}");
    assert_eq!(std::fs::read(dir.join("secret")).expect("there"), b"0123456789secret");
    // A guest may take rights to its own files away.
    std::process::Command::new("chmod").args(["-R", "u+rwx"]).arg(&inside).status().ok();
    std::fs::remove_dir_all(&inside).expect("removed");
}
