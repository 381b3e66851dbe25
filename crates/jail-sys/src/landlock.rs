//! Landlock: the three system calls and the numbers of linux/landlock.h, up to ABI 7 (Linux 6.15).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, check};

/// Rights to files (`LANDLOCK_ACCESS_FS_*`).
pub mod fs {
    /// Execute a file.
    pub const EXECUTE: u64 = 1 << 0;
    /// Open a file for writing.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Open a file for reading.
    pub const READ_FILE: u64 = 1 << 2;
    /// List a directory.
    pub const READ_DIR: u64 = 1 << 3;
    /// All rights of ABI 1.
    pub const ABI1: u64 = (1 << 13) - 1;
    /// Link or rename into another directory (ABI 2).
    pub const REFER: u64 = 1 << 13;
    /// Truncate (ABI 3).
    pub const TRUNCATE: u64 = 1 << 14;
    /// ioctl on a device (ABI 5).
    pub const IOCTL_DEV: u64 = 1 << 15;
    /// Those of the rights above that make sense for a file that is no directory.
    pub const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

    /// Every right to files that an ABI knows.
    #[must_use]
    pub const fn known(abi: u32) -> u64 {
        let mut all = 0;
        if abi >= 1 {
            all |= ABI1;
        }
        if abi >= 2 {
            all |= REFER;
        }
        if abi >= 3 {
            all |= TRUNCATE;
        }
        if abi >= 5 {
            all |= IOCTL_DEV;
        }
        all
    }
}

/// Rights to TCP ports (`LANDLOCK_ACCESS_NET_*`, ABI 4).
pub mod tcp {
    /// Bind a port.
    pub const BIND: u64 = 1 << 0;
    /// Connect to a port.
    pub const CONNECT: u64 = 1 << 1;
}

/// Scopes (`LANDLOCK_SCOPE_*`, ABI 6).
pub mod scope {
    /// No connection to an abstract socket that was made outside.
    pub const ABSTRACT_SOCKETS: u64 = 1 << 0;
    /// No signal to a process outside.
    pub const SIGNALS: u64 = 1 << 1;
}

/// The kernel's ABI version; 0 where Landlock is missing or switched off, or is not to be asked.
#[must_use]
pub fn abi() -> u32 {
    version().unwrap_or(0)
}

/// The kernel's ABI version; 0 where Landlock is missing or switched off.
///
/// # Errors
/// Any answer but the two that a kernel gives without Landlock: what stands between it and us hides what it has.
pub fn version() -> Result<u32, Errno> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no attributes and answers with a number.
    let answer = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    });
    match answer {
        Ok(version) => u32::try_from(version).map_err(|_| Errno::RANGE),
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(0),
        Err(errno) => Err(errno),
    }
}

/// A set of rules under construction. What it handles and no rule allows is denied once it is in force.
#[derive(Debug)]
pub struct Ruleset {
    fd: OwnedFd,
    handled_fs: u64,
}

impl Ruleset {
    /// landlock_create_ruleset(2). Pass 0 for what the kernel's ABI does not know.
    ///
    /// # Errors
    /// `E2BIG` or `EINVAL` if the ABI does not know a bit, `ENOSYS`, `EOPNOTSUPP`.
    pub fn new(handled_fs: u64, handled_net: u64, scoped: u64) -> Result<Self, Errno> {
        let attr = [handled_fs, handled_net, scoped];
        // An older kernel takes the longer structure only if its unknown end is zero, which is what we promise.
        // SAFETY: `attr` has the layout of struct landlock_ruleset_attr (three u64) and lives through the call.
        let fd = check(unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, attr.as_ptr(), size_of_val(&attr), 0_u32)
        })?;
        let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
        // SAFETY: the kernel has just made it and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, handled_fs })
    }

    /// Allows `access` to what lies at and below `path` (an `O_PATH` descriptor will do). A right that the set does not
    /// handle is left out: nobody takes it away, and an older kernel refuses a rule that names it.
    ///
    /// # Errors
    /// `EINVAL` if `access` has a right that a file cannot have.
    pub fn allow_path(&self, path: BorrowedFd<'_>, access: u64) -> Result<(), Errno> {
        const PATH_BENEATH: u32 = 1;
        #[repr(C, packed)]
        struct PathBeneath {
            access: u64,
            parent: i32,
        }
        let attr = PathBeneath { access: access & self.handled_fs, parent: path.as_raw_fd() };
        // SAFETY: the structure has the packed layout that linux/landlock.h asks for and lives through the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.fd.as_raw_fd(),
                PATH_BENEATH,
                std::ptr::from_ref(&attr),
                0_u32,
            )
        })
        .map(drop)
    }

    /// Allows binding or connecting TCP at one port.
    ///
    /// # Errors
    /// `EINVAL` if the set does not handle it.
    pub fn allow_port(&self, port: u16, access: u64) -> Result<(), Errno> {
        const NET_PORT: u32 = 2;
        let attr: [u64; 2] = [access, u64::from(port)];
        // SAFETY: struct landlock_net_port_attr is two u64; it lives through the call.
        check(unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.fd.as_raw_fd(), NET_PORT, attr.as_ptr(), 0_u32)
        })
        .map(drop)
    }

    /// Puts the rules in force for this thread and all it starts, for good. Needs no_new_privs.
    ///
    /// # Errors
    /// `EPERM` without no_new_privs, `E2BIG` with 16 sets in force already.
    pub fn restrict_self(self) -> Result<(), Errno> {
        // SAFETY: touches no memory.
        check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0_u32) })
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Linux 6.1, which Debian 12 has, knows neither TRUNCATE nor IOCTL_DEV; a rule for /dev names both.
    #[test]
    fn a_rule_may_name_more_than_an_older_kernel_handles() {
        if abi() == 0 {
            return;
        }
        let ruleset = Ruleset::new(fs::known(2), 0, 0).or_else(|_| Ruleset::new(fs::known(1), 0, 0));
        let dev = std::fs::File::open("/dev").expect("/dev");
        let rights = fs::READ_FILE | fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV;
        ruleset.expect("a set of rules").allow_path(dev.as_fd(), rights).expect("a rule for /dev");
    }
}
