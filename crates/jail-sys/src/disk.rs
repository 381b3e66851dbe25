//! The disk: having it begin to write before anybody waits for it.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, check};

/// Has the kernel start to write a file's content to disk, and waits for nothing (sync_file_range(2)). It promises nothing
/// either: what must be durable still takes a sync, which then finds less left to do.
///
/// # Errors
/// The file system does not do that, or cannot write.
pub fn begin_writing(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: integers only; the descriptor is open while it is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    check(result.into()).map(drop)
}
