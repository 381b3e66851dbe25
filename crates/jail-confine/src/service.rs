//! A process of ours that serves one directory to somebody who is not trusted: a home to a virtual machine.
//!
//! It is no session and executes nothing, so it needs no cell: with that directory as its root, the user's rights on it, no
//! capability, Landlock and a filter, there is nothing else that it could be talked into.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use jail_sys::landlock::{self, Ruleset, fs};
use jail_sys::process::{self, Exec, namespaces};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admission::Account;
use crate::confined::{self, Identity};
use crate::filter;
use crate::policy::Policy;
use crate::refusal::{OrRefuse, Result, What};

/// Shuts this process into a directory, as a user, for good; gives the directory back as it is seen then. Needs root.
///
/// What is open stays open, so that has to be put in order before. `files` is how many it may have open.
///
/// # Errors
/// Whatever could not be put in force; the process must end then.
pub fn shut_into(directory: &OwnedFd, account: &Account, files: u64) -> Result<OwnedFd> {
    let doing = || "shut a process into the home".to_owned();
    let bound = getrlimit(Resource::Nofile).maximum.map_or(files, |most| most.max(files));
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(bound) })
        .or_refuse(What::Host, doing)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).or_refuse(What::Host, doing)?;
    process::new_session_keyring().or_refuse(What::Host, doing)?;
    process::unshare(namespaces::NET | namespaces::IPC | namespaces::UTS).or_refuse(What::Host, doing)?;
    // Nothing is executed: what the filter knows of a program is never used.
    let nothing = Exec::new(CString::default(), Vec::new(), Vec::new());
    let filter = filter::compile(&Policy::default(), &None, &nothing, &mut Vec::new())?;
    rustix::process::fchdir(directory).or_refuse(What::Home, doing)?;
    rustix::process::chroot(".").or_refuse(What::Host, doing)?;
    confined::drop_bounding_set(&[])?;
    let identity = Identity::Change { uid: account.uid, gid: account.gid, groups: account.groups.clone() };
    confined::give_up_rights(&identity, &[])?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).or_refuse(What::Home, doing)?;
    let abi = landlock::abi();
    if abi > 0 {
        let known = fs::known(abi);
        let ruleset = Ruleset::new(known, 0, 0).or_refuse(What::Host, doing)?;
        let allowed = known & !(fs::EXECUTE | fs::IOCTL_DEV);
        ruleset.allow_path(root.as_fd(), allowed).or_refuse(What::Host, doing)?;
        ruleset.restrict_self().or_refuse(What::Host, doing)?;
    }
    process::block_all_signals(false).or_refuse(What::Host, doing)?;
    filter.load(filter.flags()).or_refuse(What::Host, doing)?;
    Ok(root)
}
