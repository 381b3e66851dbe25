//! Every word of a guest and every question for its home that fuzzing kept, through the code that fuzzing ran.

#[path = "../../../fuzz/guests.rs"]
mod guests;
#[path = "../../../fuzz/homes.rs"]
mod homes;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let files: Vec<_> = std::fs::read_dir(dir)
        .expect("a corpus")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("read"))
        .collect();
    assert!(files.len() >= 5, "only {} files", files.len());
    files
}

#[test]
fn hostile_guests() {
    corpus("guest").iter().for_each(|bytes| guests::guest(bytes));
}

#[test]
fn hostile_questions() {
    let dir = tempfile::tempdir().expect("scratch");
    corpus("home").iter().for_each(|bytes| homes::home(dir.path(), bytes));
}
