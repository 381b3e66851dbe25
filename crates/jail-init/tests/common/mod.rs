//! A scratch place for the tools: they run as an ordinary user, with state, sections and jail below one temporary directory.

#![allow(dead_code, missing_docs, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// nobody's number; the tests run as him if they are started by root.
const NOBODY: u32 = 65_534;

pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    root: bool,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("scratch");
        let root = std::fs::metadata("/proc/self").expect("proc").uid() == 0;
        let scratch = Self { dir, root };
        std::fs::create_dir(scratch.path("bin")).expect("made");
        for tool in [
            env!("CARGO_BIN_EXE_jail-init"),
            env!("CARGO_BIN_EXE_jail-cp"),
            env!("CARGO_BIN_EXE_jail-update"),
            env!("CARGO_BIN_EXE_jail-check"),
            env!("CARGO_BIN_EXE_jail-list"),
            env!("CARGO_BIN_EXE_jail-export"),
        ] {
            // A copy: the build directory may lie where nobody may not look.
            let to = scratch.path("bin").join(Path::new(tool).file_name().expect("name"));
            std::fs::copy(tool, &to).expect("copied");
        }
        for dir in ["profiles", "host", "state"] {
            std::fs::create_dir(scratch.path(dir)).expect("made");
            scratch.own(&scratch.path(dir));
        }
        scratch.own(scratch.dir.path());
        scratch.section("shell", "description = \"a shell\"\ncommands = [\"sh\", \"cat\"]\n");
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn jail(&self) -> PathBuf {
        self.path("jail")
    }

    pub(crate) fn is_root(&self) -> bool {
        self.root
    }

    pub(crate) fn section(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("profiles").join(format!("{name}.toml"));
        std::fs::write(&path, text).expect("written");
        path
    }

    /// A file of the "host" that a section may name.
    pub(crate) fn host_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("host").join(name);
        std::fs::write(&path, text).expect("written");
        self.own(&path);
        path
    }

    pub(crate) fn own(&self, path: &Path) {
        if self.root {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
    }

    pub(crate) fn mode(&self, path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("XDG_STATE_HOME", self.path("state"))
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin");
        command.current_dir(self.dir.path());
        if self.root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.path("bin").join(name)
    }

    /// Runs a tool; jail-init gets the scratch sections first.
    pub(crate) fn run(&self, tool: &str, arguments: &[&str]) -> Run {
        let mut command = self.command(self.tool(tool));
        command.args(arguments);
        Run::of(&command.output().expect("runs"))
    }

    pub(crate) fn init(&self, sections: &[&str]) -> Run {
        let (jail, profiles) = (self.jail(), self.path("profiles"));
        let mut arguments = vec!["-j", text(&jail), "-c", text(&profiles)];
        arguments.extend(sections);
        self.run("jail-init", &arguments)
    }

    pub(crate) fn on_jail(&self, tool: &str, more: &[&str]) -> Run {
        let jail = self.jail();
        let mut arguments = vec!["-j", text(&jail)];
        arguments.extend(more);
        self.run(tool, &arguments)
    }

    /// Every path below the jail and the state, with inode, size, mtime and ctime.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, (u64, u64, i64, i64, i64, i64)> {
        let mut all = BTreeMap::new();
        let mut todo = vec![self.jail(), self.path("state")];
        while let Some(path) = todo.pop() {
            let Ok(stat) = std::fs::symlink_metadata(&path) else { continue };
            if stat.is_dir() {
                todo.extend(std::fs::read_dir(&path).expect("listed").map(|e| e.expect("entry").path()));
            }
            let state =
                (stat.ino(), stat.size(), stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            all.insert(path, state);
        }
        all
    }
}

/// What a run said and ended with.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn fails(self, status: i32, with: &str) -> Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        assert!(self.err.contains(with), "wanted {with:?} in {self:#?}");
        self
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("ASCII")
}
