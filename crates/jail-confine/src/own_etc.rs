//! Files of /etc that a cell has of its own, whatever the jail's say (rulings 12): which modules look names up, the names
//! of hosts, the name servers, and the accounts where the jail does not know the user.
//!
//! The jail's nsswitch.conf may name modules, and its copies of hosts and resolv.conf are as old as the last jail-update.
//! The cell's lie on its scratch space, are root's and are mounted over the jail's. The host renaming a new file over one
//! of the jail's takes such a mount away, and a laptop's network changes under a running cell: so each login puts back
//! what is missing and covers what has changed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat2, stat, unlinkat};
use rustix::io::Errno;

use crate::admission::{Admission, BELOW, read_all};
use crate::cell::root;
use crate::policy::Policy;
use crate::policy::values::Network;
use crate::refusal::{OrRefuse, Result, What};

/// No such file of the host's that is longer is taken over.
const LONGEST: usize = 64 << 10;

/// As `profiles/uidbasics.toml` has it: the host's may name modules (systemd, sss, ldap) that nobody inside should load.
const ACCOUNTS_FROM_FILES: &str = "passwd:    files\ngroup:     files\nshadow:    files\n";
const OTHERS_FROM_FILES: &str =
    "networks:  files\nprotocols: files\nservices:  files\nethers:    files\nrpc:       files\n";
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// A file that the cell shows instead of the jail's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnFile {
    /// Its name in /etc.
    pub(crate) name: &'static str,
    pub(crate) content: Vec<u8>,
}

/// What the cell shall have, as of now.
pub(crate) fn files(admission: &Admission) -> Vec<OwnFile> {
    let policy = &admission.policy;
    let mut files = vec![
        OwnFile { name: "nsswitch.conf", content: name_service(&policy.network) },
        OwnFile { name: "hosts", content: hosts(policy) },
    ];
    if let Some(accounts) = &admission.account_files {
        files.push(OwnFile { name: "passwd", content: accounts.passwd.clone() });
        files.push(OwnFile { name: "group", content: accounts.group.clone() });
    }
    files.extend(name_servers(policy).map(|content| OwnFile { name: "resolv.conf", content }));
    files
}

fn name_service(network: &Network) -> Vec<u8> {
    let hosts = if *network == Network::None { "files" } else { "files dns" };
    format!("{ACCOUNTS_FROM_FILES}hosts:     {hosts}\n{OTHERS_FROM_FILES}").into_bytes()
}

/// The host's names where its network is to be had, this machine's alone where none is; and the cell's own.
fn hosts(policy: &Policy) -> Vec<u8> {
    let known = match policy.network {
        Network::None => None,
        Network::Host | Network::Private | Network::Ports { .. } => of_host("/etc/hosts"),
    };
    let mut text = known.unwrap_or_else(|| LOCALHOST.into());
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("127.0.1.1\t{}\n", policy.hostname).as_bytes());
    text
}

/// `None` where the cell's network has no use for them, or the host has none.
fn name_servers(policy: &Policy) -> Option<Vec<u8>> {
    let tail: &[u8] = match policy.network {
        Network::Host | Network::Private => b"",
        // No datagrams get out under a port list, so names are asked for over TCP (rulings 10).
        Network::Ports { .. } => b"\noptions use-vc\n",
        Network::None => return None,
    };
    let mut text = of_host("/etc/resolv.conf")?;
    text.extend_from_slice(tail);
    Some(text)
}

/// Often a link into /run; both are root's.
fn of_host(path: &str) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    read_all(&file).ok().filter(|text| text.len() <= LONGEST)
}

/// Brings the files of a cell that was found running, and has been joined, up to date.
///
/// # Errors
/// If one is missing or old and cannot be mounted.
pub(crate) fn refresh(files: &[OwnFile]) -> Result<()> {
    for file in files {
        let doing = || format!("bring the cell's own /etc/{} up to date", file.name);
        refresh_one(file).or_refuse(What::Host, doing)?;
    }
    Ok(())
}

/// The working directory is the root of the namespace just joined (setns(2)).
fn refresh_one(file: &OwnFile) -> std::result::Result<(), Errno> {
    let path = format!("etc/{}", file.name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let there = match openat2(CWD, &path, flags, Mode::empty(), BELOW) {
        Ok(there) => there,
        // The jail has none, or what it has is no plain file: there was nothing to mount the cell's own on.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    if !is_the_cells_own(&there)? {
        return put_back(file);
    }
    match read_all(&there) {
        Ok(text) if text == file.content => Ok(()),
        // The mount is read-only, so a newer one goes on top; nobody ever reads half a file.
        _ => put_back(file),
    }
}

/// On the scratch space, as /run is, and not a file of the jail's.
fn is_the_cells_own(file: &OwnedFd) -> std::result::Result<bool, Errno> {
    Ok(fstat(file)?.st_dev == stat("/run")?.st_dev)
}

/// Makes the file again and mounts it; its name on the scratch space is not needed after that.
fn put_back(file: &OwnFile) -> std::result::Result<(), Errno> {
    let directory = |path: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(CWD, path, flags, Mode::empty(), BELOW)
    };
    let (run, etc) = (directory("run")?, directory("etc")?);
    // Only root writes to /run; two logins at once have two numbers.
    let name = format!(".{}-{}", file.name, std::process::id());
    root::own_file(run.as_fd(), &name, etc.as_fd(), file)?;
    unlinkat(&run, name.as_str(), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_files_and_by_dns_where_there_is_a_network() {
        let lines = |network| String::from_utf8(name_service(&network)).expect("text");
        assert!(lines(Network::None).contains("\nhosts:     files\n"));
        assert!(lines(Network::Host).contains("\nhosts:     files dns\n"));
        for network in [Network::None, Network::Host, Network::Private] {
            let modules = lines(network);
            let named = modules.lines().flat_map(|line| line.split_whitespace().skip(1));
            assert!(named.into_iter().all(|module| module == "files" || module == "dns"), "{modules}");
        }
    }

    #[test]
    fn a_cell_without_a_network_knows_this_machine_alone() {
        let mut policy = Policy::default();
        policy.hostname = "here".to_owned();
        let text = String::from_utf8(hosts(&policy)).expect("text");
        assert_eq!(text, format!("{LOCALHOST}127.0.1.1\there\n"));
    }
}
