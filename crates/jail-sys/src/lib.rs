//! The doors to the kernel: safe wrappers around the system calls the other crates need.
//!
//! This is the only crate with `unsafe`. It holds no policy and prints nothing; what rustix and nix already wrap
//! safely is called from there directly and is not wrapped a second time.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod clock;
#[allow(unsafe_code)]
pub mod disk;
#[allow(unsafe_code)]
pub mod fsuid;
#[allow(unsafe_code)]
pub mod inherit;
#[allow(unsafe_code)]
pub mod landlock;
#[allow(unsafe_code)]
pub mod mount;
#[allow(unsafe_code)]
pub mod net;
#[allow(unsafe_code)]
pub mod notify;
#[allow(unsafe_code)]
pub mod process;
#[allow(unsafe_code)]
pub mod seccomp;
#[allow(unsafe_code)]
pub mod tty;

pub use rustix::io::Errno;

/// Turns the result of a libc call into a value or the errno it left behind.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 {
        Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
    } else {
        Ok(result)
    }
}
