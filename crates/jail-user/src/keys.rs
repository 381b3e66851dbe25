//! `--key`: public keys that let an account in. The home is the account's own, so each name in it is opened below the
//! last descriptor and never through a link.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::dir;
use crate::trouble::{Trouble, cannot, quoted};

const FILE: &str = "authorized_keys";
const TEMPORARY: &str = ".authorized_keys.jailwright";
/// A file of keys longer than this is none.
const LONGEST: u64 = 1 << 20;

/// Lines of an authorized_keys file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<Vec<u8>>);

impl Keys {
    /// Reads public keys from a file, or from standard input for `-`.
    pub fn read(file: &Path) -> Result<Self, Trouble> {
        let bytes = if file == Path::new("-") {
            read_whole(std::io::stdin().lock(), file)?
        } else {
            read_whole(std::fs::File::open(file).map_err(cannot("read", file))?, file)?
        };
        Self::parse(&bytes).ok_or_else(|| {
            let found = if is_private(&bytes) {
                "holds a private key"
            } else {
                "holds no public key, or something else too"
            };
            Trouble::usage(format!("{} {found}", quoted(file.as_os_str())))
                .hint("name the file that ends in .pub: one key a line, as in authorized_keys")
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let lines: Vec<Vec<u8>> = bytes
            .split(|b| *b == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .map(<[u8]>::to_vec)
            .collect();
        (!lines.is_empty() && lines.iter().all(|line| is_public_key(line))).then_some(Self(lines))
    }

    /// Puts the keys that are not there yet into a home. Says whether there were any.
    pub fn put(&self, home: &OwnedFd, shown: &Path, uid: u32, gid: u32) -> Result<bool, Trouble> {
        let ssh = open_ssh(home, shown, uid, gid)?;
        let shown = shown.join(".ssh").join(FILE);
        let old = read_own(&ssh, &shown, uid)?;
        let has = |key: &Vec<u8>| old.split(|b| *b == b'\n').any(|line| line.trim_ascii() == key.as_slice());
        let missing: Vec<&Vec<u8>> = self.0.iter().filter(|key| !has(key)).collect();
        if missing.is_empty() {
            return Ok(false);
        }
        let mut new = old.clone();
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        for key in missing {
            new.extend_from_slice(key);
            new.push(b'\n');
        }
        write_own(&ssh, &new, uid, gid).map_err(cannot("write", &shown))?;
        Ok(true)
    }
}

fn is_private(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"PRIVATE KEY")
}

/// A type, then the key in base64; options may stand before them, a comment behind (sshd(8)).
fn is_public_key(line: &[u8]) -> bool {
    let words: Vec<&[u8]> =
        line.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
    let is_type =
        |word: &[u8]| [&b"ssh-"[..], b"ecdsa-sha2-", b"sk-"].iter().any(|start| word.starts_with(start));
    let printable = line.iter().all(|byte| *byte >= b' ' && *byte != 0x7f || *byte == b'\t');
    printable && words.windows(2).any(|pair| is_type(pair[0]) && pair[1].starts_with(b"AAAA"))
}

fn open_ssh(home: &OwnedFd, shown: &Path, uid: u32, gid: u32) -> Result<OwnedFd, Trouble> {
    let shown = shown.join(".ssh");
    let made = match rustix::fs::mkdirat(home, ".ssh", Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(cannot("make", &shown)(errno)),
    };
    let ssh = dir::open_single(home.as_fd(), OsStr::new(".ssh"), OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(cannot("open", &shown))?;
    let stat = rustix::fs::fstat(&ssh).map_err(cannot("look at", &shown))?;
    if made && stat.st_uid == 0 {
        rustix::fs::fchown(&ssh, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(cannot("give away", &shown))?;
    } else if stat.st_uid != uid {
        return Err(Trouble::unsafe_to(format!(
            "{} belongs to uid {}, not to the account",
            quoted(shown.as_os_str()),
            stat.st_uid
        )));
    }
    Ok(ssh)
}

/// The keys that are there; nobody else's file, under whatever name it appears here.
fn read_own(ssh: &OwnedFd, shown: &Path, uid: u32) -> Result<Vec<u8>, Trouble> {
    let file = match dir::open_single(ssh.as_fd(), OsStr::new(FILE), OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(cannot("open", shown)(errno)),
    };
    let stat = rustix::fs::fstat(&file).map_err(cannot("look at", shown))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || stat.st_uid != uid
        || stat.st_nlink != 1
    {
        return Err(Trouble::unsafe_to(format!(
            "{} is not a plain file of the account's own",
            quoted(shown.as_os_str())
        )));
    }
    read_whole(std::fs::File::from(file), shown)
}

/// What was cut off a file would be lost when it is written again.
fn read_whole(file: impl Read, shown: &Path) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    let length = file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(cannot("read", shown))?;
    if length as u64 > LONGEST {
        return Err(Trouble::failed(format!("{} is longer than {LONGEST} bytes", quoted(shown.as_os_str())))
            .hint("a file of keys is not that long: look what is in it"));
    }
    Ok(bytes)
}

fn write_own(ssh: &OwnedFd, bytes: &[u8], uid: u32, gid: u32) -> std::io::Result<()> {
    use std::io::Write;
    match rustix::fs::unlinkat(ssh, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(ssh, TEMPORARY, flags, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    file.sync_all()?;
    rustix::fs::renameat(ssh, TEMPORARY, ssh, FILE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_keys() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB dave@laptop";
        for good in [key.to_owned(), format!("# mine\n\nno-pty,command=\"a b\" {key}\r\n{key}\n")] {
            assert!(Keys::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "",
            "# nothing\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\n",
            "dave",
            "ssh-rsa",
            "x\x1b ssh-rsa AAAA",
        ] {
            assert!(Keys::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
