//! Landlock rights under a list of commands: execute for the listed programs, read for everything but other programs.
//!
//! Landlock only ever adds rights, so "all but these" has to be spelt out: directories that hold no other program as a
//! whole, the rest name by name. Such an entry therefore looks at every file of the jail once; it is for accounts that
//! transfer files, and costs them some milliseconds.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jail_sys::landlock::{Ruleset, fs};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, openat2, statat};
use rustix::io::Errno;

use super::elf::{Kind, kind};
use super::{INTERPRETERS, MORE_DIRECTORIES, base, find_listed, interpreter};
use crate::cell::blueprint::Privilege;
use crate::environment;
use crate::policy::Policy;
use crate::programs;
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};

/// How much of a jail is looked at; one that holds more is no place for a list of commands.
const MOST_FILES: usize = 500_000;
const DEEPEST: usize = 64;
const READ: u64 = fs::READ_FILE | fs::READ_DIR;
/// Not looked into: they have rules of their own, or hold nothing of the jail's.
const SKIPPED: [&str; 6] = ["/proc", "/dev", "/run", "/sys", "/tmp", "/var/tmp"];
/// git starts itself, by one of these names.
const GIT: [&str; 5] = [
    "/usr/bin/git",
    "/usr/local/bin/git",
    "/usr/lib/git-core/git",
    "/usr/libexec/git-core/git",
    "/usr/local/libexec/git-core/git",
];

/// Adds the rights of the listed programs, and of what is no program.
///
/// # Errors
/// A list that would let everything run, or a jail that cannot be looked at.
pub(crate) fn allow(
    ruleset: &Ruleset,
    root: &OwnedFd,
    policy: &Policy,
    home: &[u8],
    privilege: Privilege,
    notes: &mut Vec<String>,
) -> Result<()> {
    let forbidden: Vec<(u64, u64)> = INTERPRETERS
        .iter()
        .filter_map(|name| {
            let directories = environment::PATH.split(':').chain(MORE_DIRECTORIES);
            programs::find(root, name.as_bytes(), directories).map(|found| found.identity)
        })
        .collect();
    for name in &policy.commands {
        let Some(program) = find_listed(root, name) else {
            notes.push(format!("commands: '{name}' is not in the jail"));
            continue;
        };
        if forbidden.contains(&program.identity) {
            return Err(Refusal::new(What::Policy, format!("commands: {}", interpreter(name))));
        }
        allow_program(ruleset, root, name, &program.file)?;
        if base(name.as_bytes()).starts_with(b"git") {
            for path in GIT {
                if let Some(git) = programs::find(root, path.as_bytes(), []) {
                    allow_file(ruleset, &git.file, path)?;
                }
            }
        }
    }
    let skipped = SKIPPED.iter().map(|path| path.as_bytes().to_vec());
    let binds = policy.bind.iter().map(|bind| bind.to.0.clone().into_bytes());
    let mut survey = Survey {
        ruleset,
        skipped: skipped.chain(binds).chain([home.to_vec()]).collect(),
        owner: match privilege {
            Privilege::Root => 0,
            Privilege::UserNamespace => rustix::process::getuid().as_raw(),
        },
        left: MOST_FILES,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(root, ".", flags, Mode::empty())
        .or_refuse(What::Jail, || "list the root of the cell".into())?;
    survey.directory(top.as_fd(), b"", 0).map(drop)
}

fn allow_program(ruleset: &Ruleset, root: &OwnedFd, name: &str, file: &OwnedFd) -> Result<()> {
    let doing = || format!("read the program '{name}' of commands");
    let reading = rustix::fs::open(
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .or_refuse(What::Jail, doing)?;
    match kind(reading.as_fd()).or_refuse(What::Jail, doing)? {
        Kind::Script => {
            return Err(Refusal::new(
                What::Policy,
                format!(
                    "commands: '{name}' is a script: its interpreter would have to be executable, and would run \
                     anything; list a program, or drop the list"
                ),
            ));
        }
        Kind::Dynamic(loader) => {
            let Some(loader) = programs::find(root, &loader, []) else {
                return Err(Refusal::new(
                    What::Jail,
                    format!("commands: the loader '{}' of '{name}' is not in the jail", printable(&loader)),
                ));
            };
            allow_file(ruleset, &loader.file, name)?;
        }
        Kind::Static | Kind::Other => {}
    }
    allow_file(ruleset, file, name)
}

fn allow_file(ruleset: &Ruleset, file: &OwnedFd, name: &str) -> Result<()> {
    ruleset
        .allow_path(file.as_fd(), fs::EXECUTE | fs::READ_FILE)
        .or_refuse(What::Host, || format!("allow '{name}' by Landlock"))
}

/// What a directory turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing that could be started, all the way down: one rule does for it.
    NoPrograms,
    /// Something that may not be read, somewhere; what may be has its rules already.
    Programs,
}

struct Survey<'a> {
    ruleset: &'a Ruleset,
    skipped: Vec<Vec<u8>>,
    /// Whose files are the administrator's.
    owner: u32,
    left: usize,
}

impl Survey<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<Holds> {
        let doing = || format!("look at '{}/' of the jail for programs", printable(path));
        let mut readable: Vec<CString> = Vec::new();
        let mut holds = Holds::NoPrograms;
        for entry in Dir::read_from(directory).or_refuse(What::Jail, doing)? {
            let entry = entry.or_refuse(What::Jail, doing)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else {
                return Err(Refusal::new(
                    What::Jail,
                    format!(
                        "commands: the jail holds more than {MOST_FILES} files, too many to look at for a login"
                    ),
                ));
            };
            self.left = left;
            let whole = [path, b"/", name.to_bytes()].concat();
            if self.skipped.contains(&whole) {
                holds = Holds::Programs;
                continue;
            }
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).or_refuse(What::Jail, doing)?;
            match self.entry(directory, name, &stat, &whole, depth)? {
                Holds::NoPrograms => readable.push(name.to_owned()),
                Holds::Programs => holds = Holds::Programs,
            }
        }
        if holds == Holds::Programs {
            for name in readable {
                self.allow(directory, &name).or_refuse(What::Host, doing)?;
            }
        }
        Ok(holds)
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        stat: &Stat,
        path: &[u8],
        depth: usize,
    ) -> Result<Holds> {
        // What others may write they may fill with programs.
        let others = stat.st_uid != self.owner || stat.st_mode & 0o022 != 0;
        match FileType::from_raw_mode(stat.st_mode) {
            // Its target has rights of its own.
            FileType::Symlink => Ok(Holds::NoPrograms),
            FileType::Directory if others || depth >= DEEPEST => Ok(Holds::Programs),
            FileType::Directory => {
                let doing = || format!("open '{}' of the jail", printable(path));
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(directory, name, flags, Mode::empty()).or_refuse(What::Jail, doing)?;
                self.directory(below.as_fd(), path, depth.saturating_add(1))
            }
            FileType::RegularFile if others || is_program(stat, path) => Ok(Holds::Programs),
            _ => Ok(Holds::NoPrograms),
        }
    }

    fn allow(&self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> std::result::Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(directory, name, flags, Mode::empty(), crate::admission::BELOW);
        let file = match file {
            // A link: nothing is allowed by it.
            Err(Errno::LOOP) => return Ok(()),
            other => other?,
        };
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::Symlink => Ok(()),
            FileType::Directory => self.ruleset.allow_path(file.as_fd(), READ),
            _ => self.ruleset.allow_path(file.as_fd(), fs::READ_FILE),
        }
    }
}

/// An executable file that is no library. Libraries carry the bit on some systems, and every program reads them.
fn is_program(stat: &Stat, path: &[u8]) -> bool {
    let name = base(path);
    let library = name.ends_with(b".so") || name.windows(4).any(|w| w == b".so.");
    stat.st_mode & 0o111 != 0 && !library
}
