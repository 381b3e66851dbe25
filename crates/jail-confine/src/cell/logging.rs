//! `/dev/log` of a cell: served by its first process, so that there is no daemon of ours to keep alive (rulings 15).
//!
//! The host's own socket bound into the cell would die with the host's logger, and would let a user write lines that look
//! like another program's. Here each line is marked `USER@JAIL`, its control characters are taken out, its facility is
//! one that a user may have, and a flood is cut. The way to the host's logger is its directory, taken at admission as
//! a descriptor: after a restart of the logger the name in it is another socket, and is connected to anew.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jail_sys::process;
use rustix::fs::{CWD, Mode, OFlags, open, readlinkat};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Where programs send their lines.
const SOCKET: &str = "/dev/log";
/// Longer lines are cut; syslog(3) says 1024, loggers send a little more.
const LONGEST: usize = 2048;
/// So many lines at once, and so many a second in the long run, per cell.
const BURST: u32 = 200;
const PER_SECOND: u32 = 20;

/// What the first process needs for it, taken while the host is still there.
#[derive(Debug)]
pub(crate) struct HostLog {
    directory: OwnedFd,
    name: PathBuf,
    /// `USER@JAIL: `
    mark: Vec<u8>,
}

impl HostLog {
    /// Takes hold of the host's log directory; `None` if the host logs nowhere.
    pub(crate) fn find(user: &[u8], jail: &str) -> Option<Self> {
        let path = match readlinkat(CWD, SOCKET, Vec::new()) {
            // systemd: /dev/log -> /run/systemd/journal/dev-log
            Ok(target) => {
                let path = Path::new("/dev").join(std::ffi::OsStr::from_bytes(target.to_bytes()));
                rustix::fs::stat(&path).ok()?;
                path
            }
            Err(Errno::INVAL) => PathBuf::from(SOCKET),
            Err(_) => return None,
        };
        let (parent, name) = (path.parent()?, path.file_name()?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty()).ok()?;
        let plain =
            |bytes: &[u8]| bytes.iter().map(|b| if is_tag(*b) { *b } else { b'_' }).collect::<Vec<u8>>();
        let mark = [&plain(user), b"@".as_slice(), &plain(jail.as_bytes()), b": "].concat();
        Some(Self { directory, name: name.into(), mark })
    }

    /// Makes the cell's socket, for everybody inside to write to; called there, as root and with an empty umask.
    pub(crate) fn serve(self) -> Result<Relay, Errno> {
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let inside = UnixDatagram::bind(SOCKET).map_err(errno)?;
        inside.set_nonblocking(true).map_err(errno)?;
        // The one thing of the host's that stays: a working directory, which nobody but this process can walk from.
        rustix::process::fchdir(&self.directory)?;
        Ok(Relay {
            inside: process::leak(inside.into()),
            host: None,
            name: self.name,
            mark: self.mark,
            allowance: Allowance::new(),
        })
    }
}

/// The relay, for the life of the cell.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Open for the life of the first process.
    inside: BorrowedFd<'static>,
    host: Option<UnixDatagram>,
    name: PathBuf,
    mark: Vec<u8>,
    allowance: Allowance,
}

impl Relay {
    /// The socket, to be waited for.
    pub(crate) fn socket(&self) -> BorrowedFd<'static> {
        self.inside
    }

    /// Passes on what has come, a bounded number of lines.
    pub(crate) fn pass_on(&mut self) {
        let mut line = [0_u8; LONGEST];
        for _ in 0..BURST {
            let Ok(length) = rustix::io::read(self.inside, &mut line) else { return };
            match self.allowance.take() {
                Take::Dropped => continue,
                Take::Allowed { dropped: 0 } => {}
                Take::Allowed { dropped } => {
                    let note = format!("<12>{dropped} lines were dropped: more than {PER_SECOND} a second");
                    self.send(&marked(note.as_bytes(), &self.mark));
                }
            }
            let text = line.get(..length).unwrap_or_default();
            let text = marked(text, &self.mark);
            self.send(&text);
        }
    }

    /// A logger that is gone or has been started again is looked for once; if there is none, the line is lost.
    fn send(&mut self, line: &[u8]) {
        for _ in 0..2 {
            if self.host.is_none() {
                self.host = UnixDatagram::unbound().ok().filter(|socket| {
                    socket.set_nonblocking(true).is_ok() && socket.connect(&self.name).is_ok()
                });
            }
            // By send(2): the filter of this process has no write(2), which the standard library would use.
            match self.host.as_ref().map(|host| rustix::net::send(host, line, SendFlags::NOSIGNAL)) {
                // Its queue is full: it has enough to do.
                Some(Err(Errno::AGAIN)) => {
                    self.allowance.dropped = self.allowance.dropped.saturating_add(1);
                    return;
                }
                Some(Ok(_)) | None => return,
                Some(Err(_)) => self.host = None,
            }
        }
    }
}

/// A bucket of lines that fills with time.
#[derive(Debug)]
struct Allowance {
    left: u32,
    dropped: u32,
    filled: Instant,
}

enum Take {
    /// One line may pass; so many did not since the last that did.
    Allowed {
        dropped: u32,
    },
    Dropped,
}

impl Allowance {
    fn new() -> Self {
        Self { left: BURST, dropped: 0, filled: Instant::now() }
    }

    fn take(&mut self) -> Take {
        let seconds = u32::try_from(self.filled.elapsed().as_secs()).unwrap_or(BURST);
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds.saturating_mul(PER_SECOND)).min(BURST);
            self.filled = Instant::now();
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Take::Allowed { dropped: std::mem::take(&mut self.dropped) }
            }
            None => {
                self.dropped = self.dropped.saturating_add(1);
                Take::Dropped
            }
        }
    }
}

/// What may stand in a mark: nothing that ends a tag or begins another field.
fn is_tag(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'$')
}

/// `<PRI>MARK TEXT`: the priority with a facility that is a user's to have, no time (the logger knows it), the sender's own
/// tag as part of the text, and everything on one line.
fn marked(line: &[u8], mark: &[u8]) -> Vec<u8> {
    let (priority, text) = split_priority(line);
    let mut whole = format!("<{}>", own_facility(priority)).into_bytes();
    whole.extend_from_slice(mark);
    let text = without_time(text);
    let end = text.iter().rposition(|b| !matches!(b, b'\n' | b'\r' | 0)).map_or(0, |at| at.saturating_add(1));
    whole.extend(text.iter().take(end).map(|byte| if *byte < b' ' || *byte == 0x7f { b' ' } else { *byte }));
    whole
}

/// The number in `<…>` at the start, if it is one; user.notice without.
fn split_priority(line: &[u8]) -> (u8, &[u8]) {
    const NOTICE: u8 = 8 | 5;
    let parsed = line.strip_prefix(b"<").and_then(|rest| {
        let end = rest.iter().take(4).position(|b| *b == b'>')?;
        let digits = std::str::from_utf8(rest.get(..end)?).ok()?;
        let priority = digits.parse::<u8>().ok().filter(|priority| *priority < 192)?;
        Some((priority, rest.get(end.saturating_add(1)..)?))
    });
    parsed.unwrap_or((NOTICE, line))
}

/// user, mail, daemon, cron and local0 to local7 stay; kern, auth and the others, which watchers act on, become user.
fn own_facility(priority: u8) -> u8 {
    let (facility, severity) = (priority >> 3, priority & 7);
    let facility = if matches!(facility, 1..=3 | 9 | 16..=23) { facility } else { 1 };
    (facility << 3) | severity
}

/// Without `Nov 24 07:00:00 `, as syslog(3) writes it.
fn without_time(text: &[u8]) -> &[u8] {
    const SHAPE: &[u8; 16] = b"Aaa #0 00:00:00 ";
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'A' => byte.is_ascii_uppercase(),
        b'a' => byte.is_ascii_lowercase(),
        b'#' => byte.is_ascii_digit() || *byte == b' ',
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    };
    match text.split_at_checked(SHAPE.len()) {
        Some((time, rest)) if time.iter().zip(SHAPE).all(fits) => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_marked_and_can_fake_no_other() {
        let mark = b"dave@home-jail: ";
        let cases: [(&[u8], &str); 7] = [
            (b"<13>Nov 24 07:00:00 logger: hello", "<13>dave@home-jail: logger: hello"),
            (b"<13>Nov  4 07:00:00 sshd[1]: hello\n\0", "<13>dave@home-jail: sshd[1]: hello"),
            (
                b"<86>sshd[1]: Accepted password for root",
                "<14>dave@home-jail: sshd[1]: Accepted password for root",
            ),
            (b"<0>kernel: panic", "<8>dave@home-jail: kernel: panic"),
            (b"a\n<10>Nov 24 07:00:00 su: b\x1b[2J", "<13>dave@home-jail: a <10>Nov 24 07:00:00 su: b [2J"),
            (b"<999>x", "<13>dave@home-jail: <999>x"),
            (b"", "<13>dave@home-jail: "),
        ];
        for (line, expected) in cases {
            assert_eq!(String::from_utf8_lossy(&marked(line, mark)), expected);
        }
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut allowance = Allowance::new();
        let passed = (0..1000).filter(|_| matches!(allowance.take(), Take::Allowed { .. })).count();
        assert_eq!(passed, BURST as usize);
        let second = std::time::Duration::from_secs(1);
        allowance.filled = allowance.filled.checked_sub(second).expect("in the past");
        assert!(matches!(allowance.take(), Take::Allowed { dropped: 800 }));
        assert!(matches!(allowance.take(), Take::Allowed { dropped: 0 }));
    }
}
