//! A login that jail-sh has admitted and handed over: `jail-machine TOLD JAIL HOME PATH`, the first three as numbers of
//! descriptors.
//!
//! jail-sh executes this as root, with an empty environment and after it has decided everything. Called by anyone else it
//! is an ordinary program without any rights, and refuses: there is nothing here to be talked into.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use jail_accounts::convention::jail_name;
use jail_confine::admission::{Account, Jail, identity};
use jail_confine::cell::blueprint::Privilege;
use jail_confine::enter;
use jail_confine::invocation;
use jail_confine::log::Log;
use jail_confine::policy::{Origin, Policy, text};
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_confine::trusted::Trust;
use jail_sys::clock::Mark;
use jail_wire::Spec;

use crate::launch::{self, Bond, Order};

/// Where root keeps what is made once.
const CACHE: &str = "/var/cache/jailwright";

/// The program; returns the exit status.
#[must_use]
pub fn main() -> i32 {
    let begun = Mark::now();
    let mut uid = rustix::process::getuid().as_raw();
    let descriptors = take_descriptors();
    // Connected before anything is closed over it, and before the rights to it are gone.
    let log = Log::open("jail-sh");
    let status = descriptors.and_then(|(told, jail, home, path)| {
        let spec = read(told)?;
        uid = spec.uid;
        log_in(&log, begun, spec, jail, home, path)
    });
    status.unwrap_or_else(|refusal| enter::refuse(&refusal, &log, format!("uid {uid}").as_bytes()))
}

fn log_in(
    log: &Log,
    begun: Option<Mark>,
    spec: Spec,
    directory: OwnedFd,
    home: OwnedFd,
    path: PathBuf,
) -> Result<i32> {
    invocation::tidy_up_but_descriptors()?;
    invocation::block_signals()?;
    let layer = text::read(&spec.policy).or_refuse(What::Policy, || "read what was admitted".to_owned())?;
    let mut policy = Policy::default();
    policy.apply(&layer, &Origin::Table(jail_confine::admission::POLICY_FILE.to_owned()));
    let stat = rustix::fs::fstat(&directory).or_refuse(What::Jail, || "look at the jail".to_owned())?;
    let name = jail_name(path.as_os_str().as_bytes());
    let jail = Jail { path, name, directory, identity: identity(&stat), base: None };
    let account =
        Account { name: spec.user.clone(), uid: spec.uid, gid: spec.gid, groups: spec.groups.clone() };
    if account.uid == 0 || account.gid == 0 {
        return Err(Refusal::new(What::Account, "no machine runs for root"));
    }
    let order = Order {
        account: &account,
        privilege: Privilege::Root,
        trust: Trust::Root,
        cache: PathBuf::from(CACHE),
        jail: &jail,
        policy: &policy,
        home: Some(home),
        keep: None,
        name: "jail-sh",
        log,
        begun,
        bond: Bond::WithCaller,
    };
    launch::run(order, spec)
}

/// What jail-sh left open, and nothing else.
fn take_descriptors() -> Result<(OwnedFd, OwnedFd, OwnedFd, PathBuf)> {
    let refuse = || {
        Refusal::new(What::Call, "jail-machine is started by jail-sh, for an account with isolation = \"vm\"")
    };
    if !rustix::process::getuid().is_root() || !rustix::process::geteuid().is_root() {
        return Err(refuse());
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [told, jail, home, path] = words.as_slice() else { return Err(refuse()) };
    let number =
        |word: &OsString| word.to_str().and_then(|word| word.parse::<RawFd>().ok()).ok_or_else(refuse);
    let numbers = [number(told)?, number(jail)?, number(home)?];
    let [told, jail, home] = jail_sys::inherit::close_all_but_these(numbers)
        .or_refuse(What::Call, || "take over what jail-sh has opened".to_owned())?;
    Ok((told, jail, home, PathBuf::from(path)))
}

fn read(told: OwnedFd) -> Result<Spec> {
    let doing = || "read what was admitted".to_owned();
    let told = File::from(told);
    let length = told.metadata().or_refuse(What::Host, doing)?.len();
    let mut bytes = vec![0; usize::try_from(length).or_refuse(What::Host, doing)?];
    told.read_exact_at(&mut bytes, 0).or_refuse(What::Host, doing)?;
    Spec::from_bytes(&bytes).or_refuse(What::Host, doing)
}
