//! The table of tasks, read and held against the sections.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jailwright_tests::command::have;
use jailwright_tests::{Done, Test, product, test};
use serde::Deserialize;

pub(crate) const TESTS: &[Test] = &[
    test!(plain every_program_has_a_task),
    test!(plain every_section_is_tested),
    test!(plain a_task_expects_something),
];

/// One task. The keys are explained at the head of the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Task {
    pub(crate) run: String,
    #[serde(default)]
    pub(crate) out: Option<String>,
    #[serde(default)]
    pub(crate) has: Vec<String>,
    #[serde(default)]
    pub(crate) with: Vec<String>,
    #[serde(default)]
    pub(crate) talk: Option<Vec<(String, String)>>,
    #[serde(default)]
    pub(crate) status: Option<Status>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
}

/// How a task ends, if not with 0.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Status {
    /// With this.
    Code(i32),
    /// A word for "it does not matter": programs that end by a key.
    Word(String),
}

/// What this suite reads of a section.
#[derive(Debug, Deserialize)]
pub(crate) struct Section {
    #[serde(default)]
    include: Vec<String>,
    package: Option<String>,
    #[serde(default)]
    hints: BTreeMap<String, String>,
    #[serde(default)]
    commands: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    optional: Vec<String>,
}

impl Task {
    /// Whether it talks to the servers of `services.rs`.
    pub(crate) fn needs_servers(&self) -> bool {
        ["{http}", "{https}", "{dns}"].iter().any(|name| self.run.contains(name))
    }
}

/// A program that this host has not, and the Debian package that has it.
pub(crate) struct Lacks {
    pub(crate) program: String,
    pub(crate) package: Option<String>,
}

impl Section {
    /// The first program of it, or of what it includes, that this host has not.
    pub(crate) fn lacks(&self) -> Option<Lacks> {
        let included = self.include.iter().find_map(|name| section(name).lacks());
        included.or_else(|| {
            let program = self.commands.iter().find(|program| !have(program))?.clone();
            let package = self.hints.get(&program).or(self.package.as_ref()).cloned();
            Some(Lacks { program, package })
        })
    }

    /// Programs a user of the section may call: its commands, and what it takes from the directories of programs.
    fn programs(&self) -> BTreeSet<String> {
        let named = self.commands.iter().cloned();
        let taken = self.paths.iter().chain(&self.optional).filter_map(|path| program_name(path));
        named.chain(taken).collect()
    }

    /// Programs that the section can do without.
    pub(crate) fn optional_programs(&self) -> BTreeSet<String> {
        self.optional.iter().filter_map(|path| program_name(path)).collect()
    }
}

/// `/usr/bin/vim` and a bare `vim` are programs, `/etc/vim` is not; neither is a pattern (its matches differ from host to host).
fn program_name(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some(path.to_owned());
    }
    let (dir, name) = path.rsplit_once('/')?;
    let is_program_dir = matches!(dir, "/bin" | "/sbin" | "/usr/bin" | "/usr/sbin");
    (is_program_dir && !name.contains(['*', '?', '['])).then(|| name.to_owned())
}

fn profiles() -> PathBuf {
    product::checkout().join("profiles")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One shipped section.
pub(crate) fn section(name: &str) -> Section {
    read(&profiles().join(format!("{name}.toml")))
}

/// Section → program or property → task.
pub(crate) fn tasks() -> BTreeMap<String, BTreeMap<String, Task>> {
    read(&product::checkout().join("tests/fixtures/programs.toml"))
}

fn shipped() -> BTreeSet<String> {
    let files = std::fs::read_dir(profiles()).expect("profiles/").map(|entry| entry.expect("entry").path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| path.file_stem().and_then(|s| s.to_str()).expect("a UTF-8 name").to_owned())
        .collect()
}

fn every_program_has_a_task() -> Done {
    let tasks = tasks();
    for name in shipped() {
        let programs = section(&name).programs();
        // A key with a space names a property of the section.
        let rows: BTreeSet<String> = tasks
            .get(&name)
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .filter(|key| !key.contains(' '))
            .collect();
        let without: Vec<_> = programs.difference(&rows).collect();
        assert!(without.is_empty(), "section {name}: programs without a task: {without:?}");
        let strays: Vec<_> = rows.difference(&programs).collect();
        assert!(strays.is_empty(), "section {name}: tasks of programs it does not have: {strays:?}");
    }
    Ok(())
}

fn every_section_is_tested() -> Done {
    let tested: BTreeSet<String> =
        crate::NAMES.iter().map(|name| name.replace("mysql_client", "mysql-client")).collect();
    assert_eq!(shipped(), tested, "left: profiles/, right: the tests of this suite");
    let without: Vec<_> = shipped().into_iter().filter(|name| !tasks().contains_key(name)).collect();
    assert!(without.is_empty(), "sections without a single task: {without:?}");
    Ok(())
}

fn a_task_expects_something() -> Done {
    for (section, tasks) in tasks() {
        for (name, task) in tasks {
            let says =
                task.out.is_some() || !task.has.is_empty() || matches!(task.status, Some(Status::Code(1..)));
            assert!(says, "[{section}] {name}: neither output nor status is checked");
            assert!(!task.run.contains("--version"), "[{section}] {name}: a version is no task");
            let word = match &task.status {
                Some(Status::Word(word)) => word.as_str(),
                _ => "any",
            };
            assert_eq!(word, "any", "[{section}] {name}: status is a number or \"any\"");
        }
    }
    Ok(())
}
