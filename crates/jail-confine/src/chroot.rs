//! `isolation = "chroot"`: for a host that gives no namespaces and no mounts (rulings 16).
//!
//! What stands then is capabilities, no_new_privs, Landlock, seccomp and limits; the root changes by chroot(2), which
//! alone holds nobody. What leads out of one is closed one by one: a second chroot(2) and mknod(2) want a capability,
//! a kept directory an open descriptor, and a process, socket or /proc of somebody outside is beyond Landlock's
//! domain. What only a mount or a namespace can give is a refusal where somebody asked for it, and a line in the log
//! where it is merely built in.

use jail_sys::landlock;

use crate::admission::{Admission, HomeSource, Jail};
use crate::policy::Policy;
use crate::policy::values::{Home, Isolation, Network, Root};
use crate::refusal::{OrRefuse, Refusal, Result, What};

/// CAP_NET_BIND_SERVICE: the one capability that leads nowhere in the namespaces of the host.
const NET_BIND_SERVICE: u32 = 10;
/// Landlock's first ABI with TCP rules.
const ABI_WITH_PORTS: u32 = 4;

/// Puts what can be had in the place of built-in values that cannot, and says so for the log. What a person wrote stays,
/// for [`must_be_possible`] to refuse.
pub fn settle(policy: &mut Policy, notes: &mut Vec<String>) {
    if policy.isolation != Isolation::Chroot {
        return;
    }
    notes.push(format!(
        "isolation = \"chroot\" (from {}): the session shares the host's namespaces; jail-sh --explain says what that \
         leaves open",
        policy.origin("isolation")
    ));
    if policy.network == Network::None && !policy.origin("network").is_written() {
        // No ports at all is the nearest to no network that there is without a namespace.
        // Where the kernel does not tell, the rules are asked for, which is refused then.
        policy.network = if landlock::version().map_or(true, |abi| abi >= ABI_WITH_PORTS) {
            Network::Ports { connect: Vec::new(), bind: Vec::new() }
        } else {
            notes.push(
                "this kernel cannot keep a session without namespaces from the network (Linux 6.7 can): it has the host's"
                    .to_owned(),
            );
            Network::Host
        };
    }
}

/// Refuses what no chroot can keep.
///
/// # Errors
/// The first key that was asked for and needs a mount or a namespace, or opens the way out.
pub(crate) fn must_be_possible(policy: &Policy) -> Result<()> {
    let refuse = |key: &str, why: &str| {
        Err(Refusal::new(
            What::Policy,
            format!(
                "isolation = \"chroot\" (from {}) does not go with {key} (from {}): {why}; change one of the two",
                policy.origin("isolation"),
                policy.origin(key.split(' ').next().unwrap_or(key)),
            ),
        ))
    };
    let written = |key: &str| policy.origin(key).is_written();
    match policy.network {
        Network::None => return refuse("network = \"none\"", "that is a network namespace"),
        Network::Private => return refuse("network = \"private\"", "that is a network namespace"),
        Network::Host | Network::Ports { .. } => {}
    }
    let no_landlock = landlock::version() == Ok(0);
    match policy.root {
        Root::Discard => return refuse("root = \"discard\"", "that is a mount"),
        Root::ReadOnly if written("root") && no_landlock => {
            return refuse("root = \"read-only\"", "that is a mount, or Landlock, which this kernel lacks");
        }
        Root::ReadOnly | Root::Writable => {}
    }
    if policy.home == Home::Own && written("home") && no_landlock {
        return refuse("home = \"own\"", "that is a mount, or Landlock, which this kernel lacks");
    }
    if written("session") && policy.session == crate::policy::values::Session::Shared {
        return refuse("session = \"shared\"", "each login has a session of its own there");
    }
    if !policy.commands.is_empty() {
        return refuse("commands", "the list holds only where what the user writes is mounted noexec");
    }
    if !policy.bind.is_empty() {
        return refuse("bind", "that is a mount");
    }
    if policy.agent {
        return refuse("agent", "the agent's socket is mounted into the cell");
    }
    if policy.capabilities.iter().any(|capability| capability.0 != NET_BIND_SERVICE) {
        return refuse("capabilities", "in the host's namespaces only net_bind_service leads nowhere");
    }
    for key in ["tmp", "hostname"] {
        if written(key) {
            return refuse(key, "that is a mount or a namespace");
        }
    }
    Ok(())
}

/// Refuses a jail or a home that only mounts put together.
///
/// # Errors
/// A jail on a base; a home that lies outside the jail.
pub(crate) fn must_be_whole(admission: &Admission) -> Result<()> {
    let refuse = |what: String| {
        Err(Refusal::new(
            What::Policy,
            format!(
                "isolation = \"chroot\" (from {}) does not go with {what}, which is mounted",
                admission.policy.origin("isolation")
            ),
        ))
    };
    if let Some(base) = &admission.jail.base {
        return refuse(format!("a jail on the base '{}'", base.path.display()));
    }
    if matches!(admission.home_source, HomeSource::Host(_)) {
        return refuse("a home outside the jail".to_owned());
    }
    Ok(())
}

/// Changes this process's root. Its working directory is the new root then, and no descriptor leads elsewhere: all are
/// closed by exec.
///
/// # Errors
/// If the kernel will not.
pub(crate) fn change_root(jail: &Jail) -> Result<()> {
    let doing = || format!("change the root to '{}'", jail.path.display());
    rustix::process::fchdir(&jail.directory).or_refuse(What::Jail, doing)?;
    rustix::process::chroot(".").or_refuse(What::Host, doing)
}

/// What such a session can still see of the host, for `--explain`.
pub(crate) fn leaves_open() -> Vec<String> {
    let abi = landlock::abi();
    let mut lines = vec![
        "chroot: the host's process ids, IPC objects, host name and network devices are shared, and so are /tmp and /dev \
         with all of this jail"
            .to_owned(),
        "chroot: /dev, /proc and /dev/log are what the jail has of them (jail-init --devices makes the nodes)"
            .to_owned(),
        "chroot: of other homes in the jail names can be seen where their modes allow, but no file".to_owned(),
        "chroot: nothing limits the size of /tmp".to_owned(),
    ];
    if abi < 6 {
        lines.push(
            "kernel: processes of the same user outside the session can be signalled (Linux 6.12 closes them)"
                .to_owned(),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Origin;
    use crate::policy::file::PolicyFile;

    fn policy(text: &str) -> Policy {
        let file = PolicyFile::parse(format!("[default]\nisolation='chroot'\n{text}").as_bytes(), "f");
        let mut policy = Policy::default();
        policy.apply(&file.expect("valid").default, &Origin::Table("[default]".to_owned()));
        settle(&mut policy, &mut Vec::new());
        policy
    }

    #[test]
    fn what_needs_a_mount_or_a_namespace_is_refused_where_it_was_asked_for() {
        assert!(must_be_possible(&policy("")).is_ok(), "built-in values give way");
        for key in [
            "network = 'none'",
            "network = 'private'",
            "root = 'discard'",
            "session = 'shared'",
            "commands = ['ls']",
            "bind = [{ from = '/a', to = '/b' }]",
            "agent = true",
            "capabilities = ['sys_chroot']",
            "tmp = '1M'",
            "hostname = 'x'",
        ] {
            let refused = must_be_possible(&policy(key)).expect_err(key);
            let name = key.split(' ').next().expect("a key");
            assert!(
                refused.why.contains(name)
                    && refused.why.contains("chroot")
                    && refused.why.contains("[default]"),
                "{key}: {}",
                refused.why
            );
        }
        for key in ["network = 'host'", "capabilities = ['net_bind_service']", "session = 'private'"] {
            assert!(must_be_possible(&policy(key)).is_ok(), "{key}");
        }
    }

    #[test]
    fn no_network_becomes_no_ports_where_nobody_asked() {
        let network = policy("").network;
        if landlock::abi() >= ABI_WITH_PORTS {
            assert_eq!(network, Network::Ports { connect: Vec::new(), bind: Vec::new() });
        } else {
            assert_eq!(network, Network::Host);
        }
    }
}
