//! Rules that a reader could check by grep, checked by grep.

use std::path::{Path, PathBuf};

use jailwright_tests::product::checkout;
use jailwright_tests::{Done, Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(plain unsafe_only_in_jail_sys),
    test!(plain every_room_but_jail_sys_forbids_unsafe),
    test!(plain each_file_says_why_it_exists),
    test!(plain the_privileged_path_never_panics),
    test!(plain the_table_of_faults_names_tests_that_are_there),
];

fn sources(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![checkout().join(below)];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no source below {below}");
    found.sort();
    found
}

/// A file's code before its own tests, without comments: line number and text.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).expect("read");
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    lines
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(i, line)| (i, line.split(" // ").next().unwrap_or(line).to_owned()))
        .collect()
}

fn places(files: &[PathBuf], is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in code(file) {
            if is_bad(&line) {
                let file = file.strip_prefix(checkout()).unwrap_or(file);
                found.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    found
}

fn unsafe_only_in_jail_sys() -> Done {
    let mut files = sources("crates");
    // A crate's own tests may attack with raw system calls.
    files.retain(|file| {
        !file.starts_with(checkout().join("crates/jail-sys"))
            && !file.components().any(|part| part.as_os_str() == "tests")
    });
    let uses = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"];
    let found = places(&files, |line| uses.iter().any(|word| line.contains(word)));
    assert!(found.is_empty(), "unsafe outside jail-sys:\n{}", found.join("\n"));
    Ok(())
}

fn every_room_but_jail_sys_forbids_unsafe() -> Done {
    let roots = sources("crates").into_iter().filter(|path| {
        path.ends_with("src/lib.rs")
            || path.ends_with("src/main.rs")
            || path.parent().is_some_and(|p| p.ends_with("src/bin"))
    });
    for root in roots.filter(|path| !path.starts_with(checkout().join("crates/jail-sys"))) {
        let text = std::fs::read_to_string(&root).expect("read");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{} lacks #![forbid(unsafe_code)]", root.display());
    }
    Ok(())
}

fn each_file_says_why_it_exists() -> Done {
    for file in sources("crates").into_iter().chain(sources("tests")) {
        let text = std::fs::read_to_string(&file).expect("read");
        assert!(text.starts_with("//!"), "{} does not open with //!", file.display());
    }
    Ok(())
}

/// In the set-uid program a panic is a message from a half-built state; every failure there is a refusal instead.
fn the_privileged_path_never_panics() -> Done {
    let mut files = Vec::new();
    for room in ["crates/jail-sh", "crates/jail-confine", "crates/jail-accounts", "crates/jail-sys"] {
        files.extend(sources(room).into_iter().filter(|file| {
            !file.components().any(|part| part.as_os_str() == "tests")
                && file.file_name().is_none_or(|name| name != "tests.rs")
        }));
    }
    let panics = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "assert!(", "assert_eq!(", "todo!("];
    let found = places(&files, |line| {
        panics.iter().any(|word| line.contains(word))
            && !line.contains("const ")
            && !line.contains("debug_assert")
    });
    assert!(found.is_empty(), "in the set-uid path:\n{}", found.join("\n"));
    Ok(())
}

fn the_table_of_faults_names_tests_that_are_there() -> Done {
    let table = std::fs::read_to_string(checkout().join("docs/faults.md")).expect("docs/faults.md");
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let tests = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        for name in tests.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
            let (file, function) = name.split_once("::").expect("has it");
            let path = checkout().join("crates/jail-init/tests").join(file).with_extension("rs");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(text.contains(&format!("\nfn {function}()")), "{name} is not there");
            named += 1;
        }
    }
    assert!(named > 30, "only {named} tests are named");
    Ok(())
}
