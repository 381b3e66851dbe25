//! The environment of the user's program: a fixed part of ours, and what the policy lets through.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Where the jailed user's programs are looked for.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the fixed part is made of.
#[derive(Debug, Clone, Copy)]
pub struct Fixed<'a> {
    /// The home as seen inside.
    pub home: &'a [u8],
    /// The user's name.
    pub user: &'a [u8],
    /// The shell inside.
    pub shell: &'a [u8],
    /// The name of the terminal inside, if there is one.
    pub terminal: Option<&'a [u8]>,
    /// The name of the ssh agent inside, if there is one.
    pub agent: Option<&'a [u8]>,
}

/// Builds the environment, `NAME=value` strings for exec.
///
/// `let_through` are the policy's names, each a whole name or a prefix with `*`.
#[must_use]
pub fn build(
    caller: &[(OsString, OsString)],
    set: &[(OsString, OsString)],
    let_through: &[String],
    fixed: Fixed<'_>,
) -> Vec<CString> {
    let mut variables: Vec<Vec<u8>> = Vec::with_capacity(16);
    let mut put = |name: &[u8], value: &[u8]| variables.push([name, b"=", value].concat());
    put(b"PATH", PATH.as_bytes());
    put(b"HOME", fixed.home);
    put(b"USER", fixed.user);
    put(b"LOGNAME", fixed.user);
    put(b"SHELL", fixed.shell);
    if let Some(terminal) = fixed.terminal {
        // The caller's name for it does not exist inside.
        if caller.iter().any(|(name, _)| name == "SSH_TTY") {
            put(b"SSH_TTY", terminal);
        }
    }
    if let Some(agent) = fixed.agent {
        put(b"SSH_AUTH_SOCK", agent);
    }
    for (name, value) in caller {
        if passes(name, value, let_through) {
            put(name.as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in set {
        // What a person sets on the command line wins over ours too, PATH for one.
        let prefix = [name.as_bytes(), b"="].concat();
        variables.retain(|variable| !variable.starts_with(&prefix));
        variables.push([&prefix, value.as_bytes()].concat());
    }
    variables.into_iter().filter_map(|variable| CString::new(variable).ok()).collect()
}

/// The caller's variables that the policy lets through, for a session whose environment is built elsewhere.
#[must_use]
pub fn let_through(caller: &[(OsString, OsString)], names: &[String]) -> Vec<(OsString, OsString)> {
    caller.iter().filter(|(name, value)| passes(name, value, names)).cloned().collect()
}

fn passes(name: &OsStr, value: &OsStr, let_through: &[String]) -> bool {
    let bytes = name.as_bytes();
    let ours: [&[u8]; 7] = [b"PATH", b"HOME", b"USER", b"LOGNAME", b"SHELL", b"SSH_TTY", b"SSH_AUTH_SOCK"];
    if ours.contains(&bytes) {
        return false;
    }
    let named = let_through.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => bytes.starts_with(prefix.as_bytes()),
        None => bytes == pattern.as_bytes(),
    });
    named && is_plain(bytes) && is_plain(value.as_bytes())
}

/// Valid UTF-8 without control characters: nothing that could start an escape sequence where it is printed.
fn is_plain(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_and_plain_gets_through() {
        use std::os::unix::ffi::OsStringExt;
        let caller = [
            ("TERM", "xterm-256color"),
            ("LC_TIME", "de_DE.UTF-8"),
            ("LD_PRELOAD", "/home/x/evil.so"),
            ("PATH", "/evil"),
            ("BASH_ENV", "/evil"),
            ("SSH_AUTH_SOCK", "/tmp/a"),
            ("SSH_TTY", "/dev/pts/7"),
            ("LANG", "x\x1b[2J"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let mut caller = caller.to_vec();
        caller.push(("LC_ALL".into(), OsString::from_vec(vec![0xff])));
        let names: Vec<String> = ["TERM", "LANG", "LC_*", "SSH_*", "PATH"].map(str::to_owned).to_vec();
        let fixed = Fixed {
            home: b"/home/d",
            user: b"d",
            shell: b"/bin/bash",
            terminal: Some(b"/dev/ttyj0"),
            agent: None,
        };
        let built = build(&caller, &[], &names, fixed);
        let built: Vec<_> = built.iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(
            built,
            [
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "HOME=/home/d",
                "USER=d",
                "LOGNAME=d",
                "SHELL=/bin/bash",
                "SSH_TTY=/dev/ttyj0",
                "TERM=xterm-256color",
                "LC_TIME=de_DE.UTF-8"
            ]
        );
    }
}
