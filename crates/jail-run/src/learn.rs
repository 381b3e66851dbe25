//! `--learn FILE`: runs a command on the host's own files, none of which it can change, and writes from what it did a
//! section and a seccomp profile under which it runs again (rulings 25).
//!
//! The caller's process stays outside of all that and writes the two files when the command has ended; what was seen comes
//! to it through one file without a name.

use std::fmt::Write as _;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_confine::admission::{Admission, HomeSource, Jail, identity};
use jail_confine::cell::blueprint::Privilege;
use jail_confine::enter::{self, Bond, Entry, Program, Report};
use jail_confine::invocation::{self, Terminal};
use jail_confine::learn::Record;
use jail_confine::log::Log;
use jail_confine::policy::values::{Isolation, Network, Root, Seccomp};
use jail_confine::policy::{Origin, Policy};
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_confine::rootless;
use jail_provision::{text, toml_text};
use jail_sys::process::{self, Cloned};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::cli::Cli;
use crate::run::{self, Caller};

/// What a cell brings of its own; nothing below is part of a jail.
const OF_THE_CELL: [&str; 6] = ["/dev", "/proc", "/sys", "/tmp", "/var/tmp", "/run"];
/// What every jail or cell has of its own.
const OF_THE_JAIL: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/ld.so.cache"];
/// What the host may lack, or have as a link to what it renews.
const OPTIONAL: &str = "/etc/resolv.conf";

/// The two files that are written.
struct Files {
    section: PathBuf,
    profile: PathBuf,
}

impl Files {
    /// `NAME.toml` and, beside it, `NAME.json`; neither may be there.
    fn plan(section: &Path) -> std::result::Result<Self, String> {
        let shown = section.display();
        let name =
            section.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        if !name.is_some_and(|name| !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)) {
            return Err(format!(
                "--learn '{shown}': a section's file is NAME.toml, the name of letters, digits, '.', '_', '+' and '-'"
            ));
        }
        let files = Self { section: section.to_owned(), profile: section.with_extension("json") };
        for file in [&files.section, &files.profile] {
            if file.symlink_metadata().is_ok() {
                return Err(format!(
                    "--learn: '{}' is there already and would be overwritten; remove it or choose another name",
                    file.display()
                ));
            }
        }
        Ok(files)
    }
}

/// Runs the command and writes what it did.
///
/// # Errors
/// Whatever keeps the command from starting, or its files from being written.
pub(crate) fn run(cli: &Cli, section: &Path) -> std::result::Result<i32, run::Stop> {
    if rustix::process::getuid().is_root() {
        return Err(run::Stop::Usage(
            "--learn is for ordinary users: the command reads what its caller may read; run it as the one it is for".into(),
        ));
    }
    let files = Files::plan(section).map_err(run::Stop::Usage)?;
    let caller = Caller::find(cli)?;
    let policy = policy(cli, &caller)?;
    let doing = || "write down what the command does".to_owned();
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let notebook = rustix::fs::memfd_create("jail-run-learn", flags).or_refuse(What::Host, doing)?;
    let network = policy.network.clone();
    invocation::block_signals()?;
    match process::clone(0).or_refuse(What::Host, doing)? {
        Cloned::Child => process::exit_now(match enter(cli, &caller, policy, &notebook) {
            Ok(status) => status,
            Err(refusal) => enter::complain_as_tool(&refusal),
        }),
        Cloned::Parent { pid, .. } => {
            let status = wait(pid).or_refuse(What::Host, || "wait for the command".into())?;
            let mut seen = Vec::new();
            let mut file = std::fs::File::from(notebook);
            file.rewind().and_then(|()| file.read_to_end(&mut seen)).or_refuse(What::Host, doing)?;
            let record = Record::of_lines(&seen);
            if record.made.is_empty() {
                eprintln!("jail-run: the command did nothing to learn from; no file was written");
                return Ok(status);
            }
            write(&files, cli, &record, &network)?;
            Ok(status)
        }
    }
}

/// Built in < the user's own file < flags, and over all what makes it learning.
fn policy(cli: &Cli, caller: &Caller) -> Result<Policy> {
    let mut policy = run::policy_of_user(cli, caller, Path::new("/"))?;
    let refuse = |why: &str| Err(Refusal::new(What::Policy, format!("--learn {why}")));
    if policy.isolation != Isolation::Namespaces {
        return refuse("needs isolation = \"namespaces\"");
    }
    if !matches!(policy.network, Network::None | Network::Host) {
        return refuse(
            "knows network = \"none\" and \"host\"; a list of ports is for the run under what was learnt",
        );
    }
    if !policy.commands.is_empty() {
        return refuse(
            "does not go with a list of commands: what the command starts is what is to be learnt",
        );
    }
    if policy.origin("seccomp") == &Origin::Flag || policy.origin("root") == &Origin::Flag {
        return refuse("sets --seccomp and --root itself: the floor alone, and changes that are thrown away");
    }
    policy.seccomp = Seccomp::Off;
    policy.root = Root::Discard;
    Ok(policy)
}

/// The entry, into a cell whose root is the host's own, read-only.
fn enter(cli: &Cli, caller: &Caller, policy: Policy, notebook: &OwnedFd) -> Result<i32> {
    let start = match &cli.chdir {
        Some(directory) => directory.clone(),
        None => std::env::current_dir().or_refuse(What::Call, || "find the working directory".into())?,
    };
    rootless::enter_user_namespace(caller.account.uid, caller.account.gid)?;
    let doing = || "open the host's root".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open("/", flags, Mode::empty()).or_refuse(What::Host, doing)?;
    let stat = rustix::fs::fstat(&directory).or_refuse(What::Host, doing)?;
    let jail = Jail {
        path: PathBuf::from("/"),
        name: "host".to_owned(),
        directory,
        identity: identity(&stat),
        base: None,
    };
    // What the cell's own /tmp would hide of where the command is started.
    let hidden = OF_THE_CELL.iter().any(|top| start.starts_with(top) && start != Path::new(top));
    let brought = if hidden { vec![start.as_os_str().as_bytes().to_vec()] } else { Vec::new() };
    let parts = parts_for_changes(&start)?;
    let admission = Admission {
        host_root: Some(parts.iter().map(|part| part.as_os_str().as_bytes().to_vec()).collect()),
        brought,
        home_source: HomeSource::Empty,
        ..run::admission(caller, jail, policy)
    };
    let environment: Vec<_> = std::env::vars_os().collect();
    let entry = Entry {
        privilege: Privilege::UserNamespace,
        terminal: Terminal::find(),
        directory: start.as_os_str().as_bytes().to_vec(),
        program: Program::Command(&cli.command),
        environment: &environment,
        set: &cli.policy.variables(),
        report: Report::Tool,
        announcement: None,
        bond: Bond::AsUsual,
        notebook: Some(notebook.as_fd()),
    };
    enter::enter(&admission, &entry, &Log::silent("jail-run"))
}

/// The directories at the top that get a layer for changes, and the one that the command starts in. One with something
/// mounted below it gets none, since a layer would hide that: it stays read-only as it is.
fn parts_for_changes(start: &Path) -> Result<Vec<PathBuf>> {
    let doing = || "look for the host's mounts".to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").or_refuse(What::Host, doing)?;
    let points: Vec<PathBuf> = mounts.lines().filter_map(mount_point_in_sight).collect();
    let is_whole = |part: &Path| !points.iter().any(|point| point != part && point.starts_with(part));
    let mut parts = Vec::new();
    for entry in std::fs::read_dir("/").or_refuse(What::Host, doing)? {
        let entry = entry.or_refuse(What::Host, doing)?;
        let (path, kind) = (entry.path(), entry.file_type().or_refuse(What::Host, doing)?);
        let of_cell =
            OF_THE_CELL.iter().any(|top| Path::new(top).starts_with(&path) && path != Path::new("/var"));
        let is_readable = || std::fs::read_dir(&path).is_ok();
        // /var/tmp is the cell's, which comes to lie over the layer.
        if kind.is_dir() && !of_cell && is_whole(&path) && is_readable() {
            parts.push(path);
        }
    }
    let is_covered = parts.iter().any(|part| start.starts_with(part));
    let of_cell = OF_THE_CELL.iter().any(|top| start.starts_with(top));
    if !is_covered && !of_cell && start != Path::new("/") && is_whole(start) {
        parts.push(start.to_owned());
    }
    parts.sort();
    Ok(parts)
}

/// The place of a line of mountinfo (proc_pid_mountinfo(5)), unless something else was mounted over it or above it since.
fn mount_point_in_sight(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(' ');
    let id: u64 = fields.next()?.parse().ok()?;
    let parent: u64 = fields.next()?.parse().ok()?;
    let point = unescape(fields.nth(2)?);
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let mount_at =
        |path: &Path| rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID).map(|there| there.stx_mnt_id);
    let in_sight = match mount_at(&point) {
        Ok(there) => there == id,
        Err(Errno::NOENT | Errno::NOTDIR) => false,
        // The caller may not look: what is above it tells whether it is still where it was mounted.
        Err(_) => point.ancestors().skip(1).find_map(|above| mount_at(above).ok()) == Some(parent),
    };
    in_sight.then_some(point)
}

/// mountinfo writes blanks and backslashes as three octal digits (proc(5)).
fn unescape(point: &str) -> PathBuf {
    PathBuf::from(
        point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"),
    )
}

/// Waits for the process that enters; signals for the command go on to it, but those of a terminal, which it has heard.
fn wait(child: Pid) -> rustix::io::Result<i32> {
    const SIGCHLD: i32 = 17;
    loop {
        let taken = match process::wait_signal() {
            Ok(taken) => taken,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        if taken.signal == SIGCHLD {
            if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? {
                let killed = status.terminating_signal().map(|signal| signal.saturating_add(128));
                if let Some(status) = status.exit_status().or(killed) {
                    return Ok(status);
                }
            }
        } else if !taken.from_kernel && process::kill(child.as_raw_nonzero().get(), taken.signal).is_err() {
            // It has ended meanwhile.
        }
    }
}

fn write(files: &Files, cli: &Cli, record: &Record, network: &Network) -> Result<()> {
    let found = Found::of(record);
    let section = found.section(&cli.command, network);
    for (path, content) in [(&files.section, section), (&files.profile, record.to_json())] {
        let doing = || format!("write '{}'", path.display());
        let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
        made.and_then(|mut file| file.write_all(content.as_bytes())).or_refuse(What::Call, doing)?;
    }
    let (section, profile) = (files.section.display(), files.profile.display());
    eprintln!(
        "jail-run: learnt {} system calls and {} files: wrote '{section}' and '{profile}'; run it under both with\n  \
         jail-run {} --seccomp {} -- …",
        record.made.len(),
        found.paths.len(),
        as_section(&files.section),
        as_section(&files.profile),
    );
    if !record.refused.is_empty() {
        let names: Vec<&str> = record.refused.iter().map(|name| name.as_str()).collect();
        eprintln!("jail-run: refused, and not in the profile: {}", names.join(", "));
    }
    Ok(())
}

/// A name that a section's or a profile's is told from by its slash.
fn as_section(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown.contains('/') { shown } else { format!("./{shown}") }
}

/// What was opened, by what a section can do with it.
#[derive(Debug, Default)]
struct Found {
    paths: Vec<String>,
    optional: Vec<String>,
    directories: Vec<String>,
    /// Only named in comments, with the reason.
    left_out: Vec<String>,
}

impl Found {
    fn of(record: &Record) -> Self {
        let mut found = Self::default();
        for file in &record.files {
            found.sort_in(Path::new(file));
        }
        for list in [&mut found.paths, &mut found.optional, &mut found.directories, &mut found.left_out] {
            list.sort();
            list.dedup();
        }
        found
    }

    /// The run may have made files in its layer: the host's own are looked at.
    fn sort_in(&mut self, file: &Path) {
        let has_dots = file.components().any(|part| part == std::path::Component::ParentDir);
        let plain: PathBuf = if has_dots {
            match file.canonicalize() {
                Ok(plain) => plain,
                Err(_) => return,
            }
        } else {
            file.components().collect()
        };
        let Ok(kind) = plain.symlink_metadata().map(|stat| stat.file_type()) else { return };
        let is_below = |top: &str| plain.starts_with(top);
        if ["/dev", "/proc", "/sys"].iter().any(|top| is_below(top)) || plain == Path::new("/") {
            return;
        }
        let leave_out = |why: &str| format!("{}: {why}", text::encode(&plain));
        let Some(name) =
            plain.to_str().filter(|name| !name.contains(['*', '?', '[', ']', '{', '}', '\\', '\n']))
        else {
            self.left_out.push(leave_out("its name means something else in a section"));
            return;
        };
        if OF_THE_JAIL.contains(&name) {
            return;
        }
        if OF_THE_CELL.iter().any(|top| is_below(top)) {
            if kind.is_file() {
                self.left_out
                    .push(leave_out("the cell has a directory of its own there; bring it by --with"));
            }
        } else if kind.is_dir() {
            self.directories.push(name.to_owned());
        } else if name == OPTIONAL {
            self.optional.push(name.to_owned());
        } else if kind.is_file() || kind.is_symlink() {
            let readable = rustix::fs::access(&plain, rustix::fs::Access::READ_OK).is_ok();
            let runs = rustix::fs::access(&plain, rustix::fs::Access::EXEC_OK).is_ok();
            if readable {
                self.paths.push(name.to_owned());
            } else if runs {
                self.left_out.push(leave_out("it can be run but not read, so it cannot be copied"));
            }
        }
    }

    fn section(&self, command: &[std::ffi::OsString], network: &Network) -> String {
        let line: Vec<String> = command.iter().map(|word| text::encode(Path::new(word))).collect();
        let line = line.join(" ").replace('\n', " ");
        let mut out = format!(
            "# Learnt by jail-run from one run of: {line}\n# What another run would need and this one did not is not here.\n\
             description = {}\n",
            toml_text::string(&format!("learnt from {line}"))
        );
        let mut list = |key: &str, items: &[String]| {
            if !items.is_empty() {
                let items: String =
                    items.iter().map(|item| format!("    {},\n", toml_text::string(item))).collect();
                out.push_str(&format!("{key} = [\n{items}]\n"));
            }
        };
        list("paths", &self.paths);
        list("optional", &self.optional);
        if !self.directories.is_empty() {
            out.push_str("# Directories that were listed or gone to; of what is in them only the paths above are taken.\n");
            let items = self
                .directories
                .iter()
                .map(|path| format!("    {{ path = {} }},\n", toml_text::string(path)));
            let items: String = items.collect();
            out.push_str(&format!("directories = [\n{items}]\n"));
        }
        for item in &self.left_out {
            // The list is complete even if formatting into a String could fail.
            if writeln!(out, "# left out: {item}").is_err() {
                break;
            }
        }
        if *network == Network::Host {
            out.push_str("\n[entry]\nnetwork = \"host\"\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_named_by_its_file() {
        for wrong in ["x", "x.json", ".toml", "a b.toml", "/tmp/", ".x.toml"] {
            assert!(Files::plan(Path::new(wrong)).is_err(), "{wrong}");
        }
        let files = Files::plan(Path::new("/nonexistent/curl.toml")).expect("a name");
        assert_eq!(files.profile, Path::new("/nonexistent/curl.json"));
    }

    #[test]
    fn a_mount_that_another_hides_is_no_mount() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("proc");
        let proc =
            mounts.lines().find(|line| line.split(' ').nth(4) == Some("/proc")).expect("/proc is mounted");
        assert_eq!(mount_point_in_sight(proc), Some("/proc".into()));
        let older = proc.split_once(' ').map(|(_, rest)| format!("1 {rest}")).expect("fields");
        assert_eq!(mount_point_in_sight(&older), None);
        assert_eq!(mount_point_in_sight(&proc.replace(" /proc ", " /no/such/place ")), None);
    }

    #[test]
    fn files_go_where_a_section_can_use_them() {
        let mut record = Record::default();
        for file in ["/etc/hostname", "/etc", "/usr/bin/../bin/env", "/dev/null", "/etc/passwd", "/no/such"] {
            record.files.insert(file.into());
        }
        let found = Found::of(&record);
        assert!(found.paths.contains(&"/etc/hostname".to_owned()), "{found:?}");
        assert!(found.paths.iter().all(|path| !path.contains("..") && !path.contains("passwd")), "{found:?}");
        assert_eq!(found.directories, ["/etc"]);
        let section = found.section(&["x\n[entry]".into()], &Network::None);
        assert!(!section.contains("\n[entry]"), "a command's words stay in their comment: {section}");
    }
}
