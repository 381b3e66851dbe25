//! Looking at files as somebody else: setfsuid(2).

use crate::Errno;

/// Does something with the file rights of a user, then takes root's back. Also the capabilities over files are gone
/// meanwhile (capabilities(7), "effect of user ID changes").
///
/// # Errors
/// `EPERM` if the rights could not be changed, or not be taken back.
pub fn with_file_rights_of<T>(uid: u32, act: impl FnOnce() -> T) -> Result<T, Errno> {
    let before = set(uid);
    if current() != uid {
        return Err(Errno::PERM);
    }
    let result = act();
    set(before);
    if current() == before { Ok(result) } else { Err(Errno::PERM) }
}

/// The call has no way to fail but to change nothing; it returns what held before.
fn set(uid: u32) -> u32 {
    // SAFETY: touches no memory.
    let before = unsafe { libc::setfsuid(uid) };
    u32::from_ne_bytes(before.to_ne_bytes())
}

/// -1 is nobody's uid: a change to it is refused, and tells what holds.
fn current() -> u32 {
    set(u32::MAX)
}
