// What the fuzz targets of jail-sh's callers do with their bytes, for the fuzzer and for the tests that replay its corpus:
// arguments, variables and command lines come from whoever calls the set-uid program.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use jail_confine::commands::split::split;
use jail_confine::environment::{self, Fixed};
use jail_confine::invocation::read_arguments;
use jail_confine::policy::file::{EntryFile, PolicyFile};
use jail_confine::policy::values::Root;
use jail_confine::policy::{Policy, Subject, merge};
use jail_confine::refusal::printable;

/// argv before the first 0xFF byte and the environment after it, each string ended by NUL as the kernel has them.
pub(crate) fn call(data: &[u8]) {
    let at = data.iter().position(|b| *b == 0xff).unwrap_or(data.len());
    let strings = |bytes: &[u8]| -> Vec<OsString> {
        if bytes.is_empty() {
            return Vec::new();
        }
        bytes.split(|b| *b == 0).map(|s| OsString::from_vec(s.to_vec())).collect()
    };
    let argv = strings(&data[..at]);
    match read_arguments(argv.clone().into_iter()) {
        Err(refusal) => assert!(!refusal.why.chars().any(char::is_control), "{:?}", refusal.why),
        Ok(call) => {
            assert!(!argv.is_empty(), "a call without a name is refused");
            if let Some(command) = &call.command {
                assert_eq!(argv.last(), Some(command), "the command is passed on as it came");
                assert!(!printable(command.as_bytes()).chars().any(char::is_control));
            }
            let known: [&[u8]; 4] = [b"-l", b"--login", b"-c", b"--explain"];
            let free = usize::from(call.command.is_some()) + usize::from(call.explain.is_some());
            let others = argv.iter().skip(1).filter(|a| !known.contains(&a.as_bytes())).count();
            assert!(others <= free.max(argv.len().saturating_sub(1) / 2), "an unknown argument was taken");
        }
    }
    variables(&strings(data.get(at + 1..).unwrap_or_default()));
}

fn variables(strings: &[OsString]) {
    let caller: Vec<(OsString, OsString)> = strings
        .iter()
        .filter_map(|s| {
            let at = s.as_bytes().iter().skip(1).position(|b| *b == b'=')? + 1;
            let (name, value) = s.as_bytes().split_at(at);
            Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value[1..].to_vec())))
        })
        .collect();
    let fixed = Fixed {
        home: b"/home/d",
        user: b"d",
        shell: b"/bin/bash",
        terminal: Some(b"/dev/ttyj0"),
        agent: None,
    };
    let policy = Policy::default();
    let built = environment::build(&caller, &[], &policy.env, fixed);
    let ours =
        ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/d", "USER=d", "LOGNAME=d", "SHELL=/bin/bash"];
    for (variable, ours) in built.iter().zip(ours) {
        assert_eq!(variable.to_str(), Ok(ours));
    }
    for variable in built.iter().skip(ours.len()) {
        let text = variable.to_str().expect("only UTF-8 gets through");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let (name, _) = text.split_once('=').expect("NAME=value");
        assert!(
            !name.starts_with("LD_")
                && !["ENV", "BASH_ENV", "PATH", "HOME", "USER", "LOGNAME", "SHELL"].contains(&name)
        );
        assert!(
            policy.env.iter().any(|p| p.strip_suffix('*').map_or(p == name, |start| name.starts_with(start))),
            "{name}"
        );
        assert_ne!(name, "SSH_AUTH_SOCK");
    }
}

/// A command line under a list of commands: never more words than bytes, and none that a shell would have changed.
pub(crate) fn line(data: &[u8]) {
    match split(data) {
        Err(why) => assert!(!why.chars().any(char::is_control), "{why:?}"),
        Ok(words) => {
            assert!(words.iter().map(Vec::len).sum::<usize>() <= data.len());
            assert!(!data.contains(&0) && !data.contains(&b'\n') || words.iter().flatten().all(|b| *b != 0));
            if !data.iter().any(|b| matches!(b, b'\'' | b'"' | b'\\')) {
                let plain: Vec<&[u8]> =
                    data.split(|b| matches!(b, b' ' | b'\t')).filter(|w| !w.is_empty()).collect();
                assert_eq!(words, plain);
            }
        }
    }
}

/// Any bytes as the administrator's policy, and as what jail-init wrote of a jail's sections.
pub(crate) fn policy(data: &[u8]) {
    if let Ok(file) = PolicyFile::parse(data, "f") {
        let names = file.user.keys().map(String::as_str).chain(["dave"]);
        let groups: Vec<Vec<u8>> = file.group.keys().map(|name| name.clone().into_bytes()).collect();
        for name in names {
            let subject = Subject { user: name.as_bytes(), groups: &groups };
            if let Ok(policy) = merge(&file, None, b"/j", subject) {
                drop(policy.rows());
            }
        }
    }
    if let Ok(entry) = EntryFile::parse(data, "f") {
        let subject = Subject { user: b"dave", groups: &[] };
        let policy =
            merge(&PolicyFile::default(), Some(&entry.entry), b"/j", subject).expect("no groups to conflict");
        let built_in = Policy::default();
        assert_eq!(policy.root, Root::ReadOnly, "a section opened the root");
        assert_eq!(policy.seccomp, built_in.seccomp, "a section changed the filter");
        assert!(policy.capabilities.is_empty() && policy.r#unsafe.is_empty() && policy.bind.is_empty());
    }
}
