//! Every word of a guest that fuzzing kept, through the code that fuzzing ran.

#[path = "../../../fuzz/guests.rs"]
mod guests;

#[test]
fn hostile_guests() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/guest");
    let files: Vec<_> =
        std::fs::read_dir(dir).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    assert!(files.len() >= 5, "only {} files", files.len());
    files.iter().for_each(|file| guests::guest(&std::fs::read(file).expect("read")));
}
