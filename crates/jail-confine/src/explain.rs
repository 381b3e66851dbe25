//! `jail-sh --explain USER`: the merged policy of an account with where each value came from, and what this kernel can
//! and cannot give. For root, who wants to know before a user does.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jail_accounts::{group, passwd};
use jail_sys::landlock;

use crate::admission::{self, Admission, STATE_DIRECTORY, read_root_file};
use crate::chroot;
use crate::directory;
use crate::enter::must_be_possible;
use crate::invocation::{Call, Invocation, Terminal};
use crate::policy::Policy;
use crate::policy::values::{Discard, Isolation, Network, Root};
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};
use crate::trusted::{Top, Trust};

/// Prints what holds for a user.
///
/// # Errors
/// What would keep the user from logging in, in full: root may know.
pub(crate) fn explain(user: &OsStr) -> Result<()> {
    let text = describe(&admission_of(user)?);
    std::io::stdout().write_all(text.as_bytes()).or_refuse(What::Host, || "write the answer".into())
}

/// What a login of a user would be admitted to. For root.
///
/// # Errors
/// What would keep the user from logging in.
pub(crate) fn admission_of(user: &OsStr) -> Result<Admission> {
    let etc = Top::root(Trust::Root)
        .and_then(|root| root.below(Path::new("etc")))
        .map_err(|why| Refusal::new(What::Host, why.to_string()))?;
    let file = read_root_file(&etc, "passwd")?;
    let groups = read_root_file(&etc, "group")?;
    let from_directory = passwd::by_name(&file, user.as_bytes()).is_none();
    let file = if from_directory { directory::ask("passwd", &[user.as_bytes().to_vec()])? } else { file };
    let Some(entry) = passwd::by_name(&file, user.as_bytes()) else {
        return Err(Refusal::new(
            What::Account,
            format!("no user '{}' in /etc/passwd or the host's directory", printable(user.as_bytes())),
        ));
    };
    let invocation = Invocation {
        call: Call { login: true, command: None, explain: None },
        uid: entry.uid,
        gid: entry.gid,
        groups: if from_directory {
            groups_of(&directory::ask("initgroups", &[entry.name.to_vec()])?)
        } else {
            group::groups_of(&groups, entry.name)
        },
        environment: vec![(OsString::from("LOGNAME"), user.to_owned())],
        terminal: Terminal::None,
        parent: None,
    };
    admission::decide(&invocation)
}

/// `NAME GID GID…`, as getent writes it.
fn groups_of(answer: &[u8]) -> Vec<u32> {
    let words = answer.split(|b| b.is_ascii_whitespace()).skip(1);
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok()).collect()
}

fn describe(admission: &Admission) -> String {
    let mut out = format!(
        "jail   {}\nhome   {}\nshell  {}\n\n",
        admission.jail.path.display(),
        printable(&admission.home),
        printable(&admission.shell)
    );
    out.push_str(&table(&admission.policy));
    out.push('\n');
    for line in abilities(&admission.policy) {
        out.push_str(&line);
        out.push('\n');
    }
    for note in &admission.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    if let Err(refusal) = must_be_possible(&admission.policy) {
        out.push_str(&format!("every login is refused: {}\n", refusal.why));
    }
    out
}

/// The policy as it could stand in the file, each value with its origin.
#[must_use]
pub fn table(policy: &Policy) -> String {
    let mut out = String::new();
    for (key, value, origin) in policy.rows() {
        out.push_str(&format!("{key:<12} = {value:<28} # {origin}\n"));
    }
    out
}

/// What this kernel can and cannot give of it.
fn abilities(policy: &Policy) -> Vec<String> {
    let abi = landlock::abi();
    let mut lines = vec![match abi {
        0 => "kernel: no Landlock; mounts and file modes alone protect the files of the cell".to_owned(),
        abi => format!("kernel: Landlock ABI {abi}"),
    }];
    if !Path::new("/dev/log").exists() {
        lines.push("host: no /dev/log, so programs in the session log nowhere".to_owned());
    }
    if abi < 4 {
        lines.push(
            "kernel: no TCP port rules (Linux 6.7): network = { connect, bind } would be refused".to_owned(),
        );
    }
    if policy.network == Network::Private {
        lines.push(
            "network: by pasta, with the user's rights; the host's own addresses and loopback are out of reach, a name \
             server on the host's loopback as well; ping has no way out"
                .to_owned(),
        );
    }
    if matches!(policy.network, Network::Ports { .. }) {
        lines.push(
            "network: the lists hold for connect and bind; a program that listens without either gets a port of the kernel's \
             choice, for which Landlock has no rule: seccomp = \"transfer\" denies it"
                .to_owned(),
        );
    }
    if policy.isolation == Isolation::Chroot {
        lines.extend(chroot::leaves_open());
    }
    if policy.root == Root::Discard {
        lines.push(match policy.discard {
            Discard::Memory => format!(
                "root: changes end with the cell; they and /tmp may take {} together; the home lasts",
                policy.tmp
            ),
            Discard::Disk => format!(
                "root: changes end with the cell, and are removed from '{STATE_DIRECTORY}/.discard' when the next one of \
                 this kind is made or by jail-list --sweep; nothing bounds them but that file system; the home lasts"
            ),
        });
        if !has_file_system("overlay") {
            lines.push(
                "kernel: no overlayfs: root = \"discard\" would be refused (modprobe overlay)".to_owned(),
            );
        }
    }
    if !policy.commands.is_empty() {
        lines.push(
            "commands: no interactive login, no shell; nothing else is executable or readable as a program, and what the \
             user can write is mounted noexec"
                .to_owned(),
        );
        if abi == 0 {
            lines.push("kernel: no Landlock: commands would be refused".to_owned());
        }
    }
    lines.push(if policy.agent {
        "agent: a forwarded ssh agent is there at /dev/agentjN; whoever controls the session can use its keys meanwhile"
            .to_owned()
    } else {
        "agent: none; that none is forwarded at all is for sshd to say (share/ssh, DisableForwarding)".to_owned()
    });
    let shares = matches!(policy.network, Network::Host | Network::Ports { .. });
    if shares && abi < 6 {
        lines.push(
            "kernel: abstract sockets of the host can be reached from the session (Linux 6.12 closes them)"
                .into(),
        );
    }
    lines
}

/// Whether the running kernel has a file system, loaded.
fn has_file_system(name: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.lines().any(|line| line.split_whitespace().last() == Some(name)))
}
