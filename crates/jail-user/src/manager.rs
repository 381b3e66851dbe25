//! systemd's user manager: with libpam-systemd a login starts `user@UID.service` on the host, which runs units from
//! the jailed home, outside of any jail. So its unit is masked, a running one stopped, and lingering ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;

use crate::host::Host;
use crate::record::UserManager;
use crate::text::Text;
use crate::trouble::{Trouble, cannot, quoted};

/// What is asked of the service manager; tests put their own in its place.
pub trait Services {
    /// Reads the unit files again.
    fn reload(&self) -> Result<(), Trouble>;
    /// Stops the user's manager, if it runs.
    fn stop(&self, uid: u32) -> Result<(), Trouble>;
}

/// The host's systemctl, by absolute path and with an empty environment.
#[derive(Debug)]
pub struct Systemctl(pub PathBuf);

impl Services for Systemctl {
    fn reload(&self) -> Result<(), Trouble> {
        self.run(&["daemon-reload"])
    }

    fn stop(&self, uid: u32) -> Result<(), Trouble> {
        self.run(&["stop", &format!("user@{uid}.service")])
    }
}

impl Systemctl {
    fn run(&self, arguments: &[&str]) -> Result<(), Trouble> {
        let output = Command::new(&self.0)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(cannot("run", &self.0))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Trouble::failed(format!(
            "systemctl {} failed: {}",
            arguments.join(" "),
            said.trim().escape_debug()
        )))
    }
}

/// Whether there is a systemd to keep from starting user managers.
#[must_use]
pub fn is_present(host: &Host) -> bool {
    host.systemd_runs || host.systemctl.is_some()
}

fn mask_path(host: &Host, uid: u32) -> PathBuf {
    host.units.join(format!("user@{uid}.service"))
}

fn linger_path(host: &Host, user: &Text) -> PathBuf {
    host.linger.join(user.as_os_str())
}

/// What masking this user would change.
#[must_use]
pub fn plan(host: &Host, uid: u32, user: &Text) -> UserManager {
    UserManager {
        masked: !is_masked(&mask_path(host, uid)),
        lingered: linger_path(host, user).symlink_metadata().is_ok(),
    }
}

/// Whether the user's manager cannot be started and the user does not linger.
#[must_use]
pub fn is_shut(host: &Host, uid: u32, user: &Text) -> bool {
    let planned = plan(host, uid, user);
    !planned.masked && !planned.lingered
}

fn is_masked(unit: &Path) -> bool {
    std::fs::read_link(unit).is_ok_and(|target| target == Path::new("/dev/null"))
}

/// Masks the managers of some users and ends their lingering.
pub fn mask(host: &Host, services: Option<&dyn Services>, users: &[(u32, Text)]) -> Result<(), Trouble> {
    if users.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(&host.units).map_err(cannot("make", &host.units))?;
    for (uid, user) in users {
        let unit = mask_path(host, *uid);
        if !is_masked(&unit) {
            link_to_null(&unit)?;
        }
        remove_file(&linger_path(host, user))?;
    }
    if let Some(services) = services {
        services.reload()?;
        for (uid, _) in users {
            services.stop(*uid)?;
        }
    }
    Ok(())
}

/// Undoes [`mask`], as far as it was we who did it.
pub fn unmask(
    host: &Host,
    services: Option<&dyn Services>,
    users: &[(u32, Text, UserManager)],
) -> Result<(), Trouble> {
    for (uid, user, was) in users {
        let unit = mask_path(host, *uid);
        if was.masked && is_masked(&unit) {
            remove_file(&unit)?;
        }
        if was.lingered {
            std::fs::create_dir_all(&host.linger).map_err(cannot("make", &host.linger))?;
            let path = linger_path(host, user);
            std::fs::File::create(&path).map_err(cannot("make", &path))?;
        }
    }
    match services {
        Some(services) if users.iter().any(|(_, _, was)| was.masked) => services.reload(),
        _ => Ok(()),
    }
}

fn link_to_null(unit: &Path) -> Result<(), Trouble> {
    match rustix::fs::symlink("/dev/null", unit) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(Trouble::failed(format!(
            "{} is there already and is no mask, so the user's systemd manager would run outside of the jail",
            quoted(unit.as_os_str())
        ))
        .hint("look at it and remove it, then try again")),
        Err(errno) => Err(cannot("mask", unit)(errno)),
    }
}

fn remove_file(path: &Path) -> Result<(), Trouble> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        _ => Ok(()),
    }
}
