//! The cell's own /etc/resolv.conf: the host's of now, whatever jail-init copied once (rulings 12).
//!
//! A laptop or a renewed lease changes it under a running cell, so every login writes it again. It lies on the cell's
//! scratch space and is root's, so nobody inside can change it.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat2, stat};
use rustix::io::Errno;

use crate::admission::{BELOW, read_all};
use crate::policy::Policy;
use crate::policy::values::Network;
use crate::refusal::{OrRefuse, Result, What};

/// Where it is in the cell.
pub(crate) const PATH: &str = "etc/resolv.conf";
/// No list of name servers is longer.
const LONGEST: usize = 64 << 10;

/// What the cell shall have: `None` where its network has no use for it, or the host has none.
pub(crate) fn of_host(policy: &Policy) -> Option<Vec<u8>> {
    let tail: &[u8] = match policy.network {
        Network::Host | Network::Private => b"",
        // No datagrams get out under a port list, so names are asked for over TCP (rulings 10).
        Network::Ports { .. } => b"\noptions use-vc\n",
        Network::None => return None,
    };
    // Often a link into /run; both are root's.
    let file = rustix::fs::open(
        "/etc/resolv.conf",
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .ok()?;
    let mut text = read_all(&file).ok().filter(|text| text.len() <= LONGEST)?;
    text.extend_from_slice(tail);
    Some(text)
}

/// Brings the file of the cell that was joined up to date.
///
/// # Errors
/// If it is the cell's own and cannot be written.
pub(crate) fn refresh(text: &[u8]) -> Result<()> {
    let doing = || "bring /etc/resolv.conf of the cell up to date".to_owned();
    // The working directory is the root of the namespace just joined (setns(2)).
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat2(CWD, PATH, flags, Mode::empty(), BELOW) {
        Ok(file) => file,
        // The jail has none, or what it has is no plain file, or the cell was made without one of its own.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ROFS | Errno::ISDIR) => return Ok(()),
        Err(errno) => return Err(errno).or_refuse(What::Host, doing),
    };
    if !is_the_cells_own(&file).or_refuse(What::Host, doing)? {
        return Ok(());
    }
    rustix::fs::ftruncate(&file, 0).or_refuse(What::Host, doing)?;
    rustix::io::write(&file, text).map(drop).or_refuse(What::Host, doing)
}

/// On the scratch space, as /run is, and not a file of the jail's.
fn is_the_cells_own(file: &OwnedFd) -> std::result::Result<bool, Errno> {
    Ok(fstat(file)?.st_dev == stat("/run")?.st_dev)
}
