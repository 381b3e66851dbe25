//! `isolation = "vm"`: what a virtual machine cannot give, and the way from a login into one.
//!
//! The set-uid program does for such a login what it does for every other: it reads the policy, finds jail and home, and
//! holds both by descriptor. Then it *becomes* another program, `jail-machine`, as root and with an empty environment, as it
//! would run getent (rulings 2): what makes images and starts QEMU is not linked into the set-uid program. The two say all
//! they have to say by what was admitted; the caller has a word in neither.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use jail_sys::process::Exec;
use jail_wire::{Accounts, Home, Program, Spec};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::admission::{Admission, HomeSource};
use crate::cell::blueprint::Privilege;
use crate::cell::outside;
use crate::environment;
use crate::invocation::{Invocation, variable};
use crate::policy::values::{Discard, Limit, Limits, Network, Root, Session, Size};
use crate::policy::{Policy, text};
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::trusted::{self, Trust};

/// A guest needs this much for its kernel and ours; below it does not even start.
pub const LEAST_MEMORY: u64 = 96 << 20;
/// Where the program lies, seen from the directory of the login shell.
const PROGRAM: &str = "../libexec/jailwright/jail-machine";

/// Refuses what no machine of this version gives.
///
/// # Errors
/// The first key, with where its value came from and what to write instead.
pub fn must_be_possible(policy: &Policy, privilege: Privilege) -> Result<()> {
    let refuse = |key: &str, value: &dyn std::fmt::Display, why: &str| {
        let origin = policy.origin(key);
        Err(Refusal::new(
            What::Policy,
            format!("{key} = {value} (from {origin}) does not go with isolation = \"vm\": {why}"),
        ))
    };
    match policy.network {
        Network::None | Network::Host => {}
        Network::Private => outside::must_be_there()?,
        Network::Ports { .. } => {
            let why = "a list of ports is not kept around a machine in this version; use \"none\", \"private\" or \"host\"";
            return refuse("network", &policy.network, why);
        }
    }
    if policy.root == Root::Writable {
        let why = "the jail's image is shared and read-only; use \"discard\"";
        return refuse("root", &policy.root, why);
    }
    if policy.discard == Discard::Disk {
        let why = "a machine's changes lie in its memory; use \"memory\"";
        return refuse("discard", &policy.discard, why);
    }
    if policy.session == Session::Shared && policy.origin("session").is_written() {
        let why = "each login has a machine of its own, and they share the home; use \"private\"";
        return refuse("session", &policy.session, why);
    }
    if policy.agent {
        return refuse("agent", &true, "the guest has no way to the host's agent");
    }
    if let Some(bind) = policy.bind.first() {
        let why = "directories of the host but the home are not shown to a guest in this version";
        return refuse("bind", bind, why);
    }
    if let Limit::At(Size(bytes)) = policy.memory {
        if bytes < LEAST_MEMORY {
            return refuse("memory", &policy.memory, "a guest needs 96M at least");
        }
        let host = total_memory();
        if bytes > host {
            return refuse("memory", &policy.memory, &format!("this host has {}M", host >> 20));
        }
    }
    if let (Limit::At(cpus), Privilege::UserNamespace, Limits::Required) =
        (policy.cpus, privilege, policy.limits)
    {
        if cpus.0 % 1000 != 0 {
            let why = "without root a machine has whole processors; use a whole number, or limits = \"best-effort\"";
            return refuse("cpus", &cpus, why);
        }
    }
    Ok(())
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit.max(1)).saturating_mul(info.totalram)
}

/// Becomes the program that starts a machine and stays at its side. Nothing but the descriptors of jail and home and what
/// was admitted goes along.
///
/// # Errors
/// Whatever keeps it from being started.
pub(crate) fn hand_over(admission: &Admission, invocation: &Invocation) -> Result<Infallible> {
    must_be_possible(&admission.policy, Privilege::Root)?;
    if let Some(base) = &admission.jail.base {
        let why = "the image of a jail on a base is not made in this version";
        return Err(Refusal::new(
            What::Jail,
            format!("isolation = \"vm\" does not go with the base '{}': {why}", base.path.display()),
        ));
    }
    let doing = || "hand the login over to jail-machine".to_owned();
    let home = match &admission.home_source {
        HomeSource::Jail(home) | HomeSource::Host(home) => home,
        HomeSource::Empty => {
            return Err(Refusal::new(What::Home, "a login without a home; this is a defect"));
        }
    };
    let program = find()?;
    let told = rustix::fs::memfd_create("login", MemfdFlags::CLOEXEC).or_refuse(What::Host, doing)?;
    let bytes = spec(admission, invocation).to_bytes();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let count =
            rustix::io::retry_on_intr(|| rustix::io::write(&told, rest)).or_refuse(What::Host, doing)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    let mut argv = vec![b"jail-machine".to_vec()];
    for fd in [told.as_fd(), admission.jail.directory.as_fd(), home.as_fd()] {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).or_refuse(What::Host, doing)?;
        argv.push(fd.as_raw_fd().to_string().into_bytes());
    }
    argv.push(admission.jail.path.as_os_str().as_bytes().to_vec());
    let c_string = |bytes: &[u8]| CString::new(bytes).or_refuse(What::Host, doing);
    let argv = argv.iter().map(|word| c_string(word)).collect::<Result<Vec<_>>>()?;
    // It is that program's parent from here on, which asks who it is: who is gone by now cannot be asked for.
    if rustix::process::getppid() != invocation.parent {
        return Err(Refusal::new(What::Host, "the connection was cut before the machine was there"));
    }
    let exec = Exec::new(c_string(program.as_os_str().as_bytes())?, argv, Vec::new());
    let errno = exec.run();
    Err(Refusal::new(What::Host, format!("cannot execute '{}': {errno}", program.display())))
}

/// The program that is believed must be root's, and so must be everything above it: whoever gives the login shell another
/// name (a hard link somewhere) does not get to say what is started.
fn find() -> Result<PathBuf> {
    let own = rustix::fs::readlink("/proc/self/exe", Vec::new())
        .or_refuse(What::Host, || "find this program's own file".to_owned())?;
    let mut path = Path::new(OsStr::from_bytes(own.as_bytes())).to_owned();
    path.pop();
    for part in Path::new(PROGRAM).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    trusted::open_file(&path, Trust::Root).map_err(|why| {
        Refusal::new(
            What::Host,
            format!("isolation = \"vm\" needs jail-machine, which belongs to this program: {why}; run make install"),
        )
    })?;
    Ok(path)
}

fn spec(admission: &Admission, invocation: &Invocation) -> Spec {
    let bytes = |(name, value): &(OsString, OsString)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let (policy, account, call) = (&admission.policy, &admission.account, &invocation.call);
    let let_through = environment::let_through(&invocation.environment, &policy.env);
    // The caller's name for its terminal does not exist in the guest; this is the first one of a cell.
    let terminal =
        variable(&invocation.environment, "SSH_TTY").map(|_| (&b"SSH_TTY"[..], &b"/dev/ttyj0"[..]));
    Spec {
        policy: text::write(policy),
        program: Program::Shell {
            login: call.login,
            command: call.command.as_ref().map(|command| command.as_bytes().to_vec()),
        },
        directory: admission.home.clone(),
        environment: let_through.iter().map(bytes).collect(),
        set: terminal.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        user: account.name.clone(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        home: admission.home.clone(),
        home_from: Home::Served,
        shell: admission.shell.clone(),
        brought: Vec::new(),
        accounts: admission
            .account_files
            .as_ref()
            .map(|files| Accounts { passwd: files.passwd.clone(), group: files.group.clone() }),
        terminal: None,
        profile: admission.profile.clone(),
        clock: 0,
    }
}
