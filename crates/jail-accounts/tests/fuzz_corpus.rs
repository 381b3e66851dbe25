//! Every account file that fuzzing kept, through the code that fuzzing ran.

use std::path::Path;

#[path = "../../../fuzz/account_files.rs"]
mod account_files;

fn replay(name: &str, body: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files = 0;
    for entry in std::fs::read_dir(dir).expect("a corpus") {
        body(&std::fs::read(entry.expect("an entry").path()).expect("read"));
        files += 1;
    }
    assert!(files >= 3, "{name}: only {files} files");
}

#[test]
fn passwd() {
    replay("passwd", account_files::passwd_file);
}

#[test]
fn group() {
    replay("group", account_files::group_file);
}
