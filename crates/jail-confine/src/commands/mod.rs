//! `commands = […]`: an account that may run these programs and nothing else (rulings 9).
//!
//! Three things together make it hold. The command line is split here, not by a shell, and only a listed program is
//! executed. Landlock gives execute and read rights to no other program, so a helper of a listed one (`rsync -e`,
//! `scp -S`, a hook of git's) cannot start anything else. And since the loader of a dynamic program must be executable,
//! and runs any file that it can read and map: programs that are not listed cannot be read, and whatever the user can
//! write lies on mounts that nothing can be mapped for execution from.

mod elf;
pub(crate) mod reach;
pub mod split;

use crate::admission::Jail;
use crate::environment;
use crate::policy::Policy;
use crate::policy::values::Root;
use crate::programs::{self, Found};
use crate::refusal::{Refusal, Result, What, printable};

/// Programs that run what a file, a variable or an argument says: listing one is listing everything.
const INTERPRETERS: [&str; 33] = [
    "sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "csh", "tcsh", "fish", "rbash", "busybox", "toybox",
    "env", "perl", "python", "python2", "python3", "ruby", "lua", "node", "nodejs", "php", "tclsh", "expect",
    "awk", "gawk", "mawk", "nawk", "gdb", "guile", "java", "ld.so",
];

/// Where a bare name of the list is looked for, besides the session's own `$PATH`.
const MORE_DIRECTORIES: [&str; 6] = [
    "/usr/sbin",
    "/usr/lib/openssh",
    "/usr/lib/ssh",
    "/usr/libexec/openssh",
    "/usr/lib/git-core",
    "/usr/libexec/git-core",
];

/// What can be said against the list without looking into the jail.
///
/// # Errors
/// A list that could not hold, with the reason.
pub(crate) fn must_be_possible(policy: &Policy) -> Result<()> {
    if policy.commands.is_empty() {
        return Ok(());
    }
    let refuse = |why: String| {
        Err(Refusal::new(What::Policy, format!("commands (from {}): {why}", policy.origin("commands"))))
    };
    if policy.root != Root::ReadOnly {
        return refuse(format!(
            "root = \"{}\" (from {}) lets the user write beside the programs, so a list of them would not hold; \
             set root = \"read-only\"",
            policy.root,
            policy.origin("root")
        ));
    }
    for name in &policy.commands {
        if name.is_empty()
            || name.contains('/') && !name.starts_with('/')
            || name.contains(char::is_whitespace)
        {
            return refuse(format!("'{name}' is neither a program's name nor its absolute path in the jail"));
        }
        if is_interpreter(base(name.as_bytes())) {
            return refuse(interpreter(name));
        }
    }
    Ok(())
}

fn interpreter(name: &str) -> String {
    format!(
        "'{name}' runs whatever it is told to, so listing it is listing everything; list the programs themselves, \
         or drop the list"
    )
}

/// Also with a version behind it, as in `python3.11`, and loaders.
fn is_interpreter(base: &[u8]) -> bool {
    let stem = base.split(|b| *b == b'.').next().unwrap_or(base);
    let unnumbered = {
        let end = stem.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |at| at.saturating_add(1));
        stem.get(..end).unwrap_or(stem)
    };
    let is = |name: &[u8]| INTERPRETERS.iter().any(|known| known.as_bytes() == name);
    is(base) || is(stem) || is(unnumbered) || base.starts_with(b"ld-") && base.windows(3).any(|w| w == b".so")
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn find_listed(root: impl std::os::fd::AsFd, name: &str) -> Option<Found> {
    programs::find(root, name.as_bytes(), environment::PATH.split(':').chain(MORE_DIRECTORIES))
}

/// The program and the arguments that a login under a list of commands gets.
///
/// # Errors
/// No command, one that a shell would have to interpret, or one that is not listed.
pub(crate) fn of_login(
    policy: &Policy,
    jail: &Jail,
    command: Option<&[u8]>,
) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let Some(line) = command else {
        return Err(Refusal::new(
            What::Command,
            format!("no interactive login: only {} may be run ({})", list(policy), policy.origin("commands")),
        ));
    };
    let words = split::split(line).map_err(|why| {
        Refusal::new(
            What::Command,
            format!("'{}': {why}; under commands = […] there is no shell", printable(line)),
        )
    })?;
    of_words(policy, jail, words)
}

/// The same for a command that comes as words.
///
/// # Errors
/// One that is not listed.
pub(crate) fn of_words(policy: &Policy, jail: &Jail, words: Vec<Vec<u8>>) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let word = words.first().map_or(&b""[..], Vec::as_slice);
    // Known by the name as well as by the file: one file may be many programs (git, busybox).
    let named = jail.layers().find_map(|layer| programs::find(layer, word, environment::PATH.split(':')));
    let allowed = policy.commands.iter().find_map(|name| {
        if base(name.as_bytes()) != base(word) {
            return None;
        }
        let listed = jail.layers().find_map(|layer| find_listed(layer, name))?;
        let same = match &named {
            Some(named) => named.identity == listed.identity,
            None => !word.contains(&b'/'),
        };
        same.then_some(listed)
    });
    match allowed {
        Some(program) => Ok((program.path, words)),
        None => Err(Refusal::new(
            What::Command,
            format!(
                "'{}' is not one of {} ({}), or not in the jail",
                printable(word),
                list(policy),
                policy.origin("commands")
            ),
        )),
    }
}

fn list(policy: &Policy) -> String {
    policy.commands.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_by_any_of_their_names() {
        for name in [
            "sh",
            "python3",
            "python3.11",
            "perl5.36.0",
            "ld-linux-x86-64.so.2",
            "ld-musl-x86_64.so.1",
            "ld.so",
        ] {
            assert!(is_interpreter(name.as_bytes()), "{name}");
        }
        for name in ["rsync", "scp", "sftp-server", "git-upload-pack", "ld", "shred", "ssh", "md5sum"] {
            assert!(!is_interpreter(name.as_bytes()), "{name}");
        }
    }
}
