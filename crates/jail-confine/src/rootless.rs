//! Entering without root: a user namespace first, then the same path as with it.
//!
//! It is no boundary against the user himself, who need not use it; it is one against the program he runs.

use jail_sys::process::{self, namespaces};

use crate::refusal::{OrRefuse, Refusal, Result, What};

/// Moves this process into a user namespace in which it has every capability and just its own uid and gid, and into
/// a mount namespace that this user namespace owns.
///
/// # Errors
/// Where the host forbids it: by what, and what to do.
pub fn enter_user_namespace(uid: u32, gid: u32) -> Result<()> {
    process::unshare(namespaces::USER | namespaces::MOUNT).map_err(|errno| {
        Refusal::new(What::Host, format!("cannot make a user namespace: {errno}; {}", forbidden_by()))
    })?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", &format!("{gid} {gid} 1"))
}

fn write(path: &str, text: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .or_refuse(What::Host, || format!("write '{path}'; {}", forbidden_by()))
}

/// The switches that hosts forbid user namespaces by.
#[must_use]
pub fn forbidden_by() -> String {
    let reads =
        |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let switches = [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "an AppArmor profile that allows 'userns' for jail-run, or sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    for (path, forbidding, remedy) in switches {
        if reads(path) == forbidding {
            return format!("'{path}' is {forbidding} on this host; its administrator can set {remedy}");
        }
    }
    "the kernel, a security module or a surrounding container forbids user namespaces on this host".to_owned()
}
