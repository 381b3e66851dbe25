//! How an account says that it is jailed: jailkit's convention, so that both tools understand both.
//!
//! The home in passwd reads `/home/jail/./home/dave`; the last `/./` splits the jail from the home inside it.

/// The home of a jailed account, split at its last `/./`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JailedHome<'a> {
    /// The jail's path, without a trailing slash.
    pub jail: &'a [u8],
    /// The home as the jailed user sees it; begins with a slash.
    pub inner: &'a [u8],
}

/// Splits a passwd home at its last `/./`; `None` if the account is not jailed.
#[must_use]
pub fn split_home(home: &[u8]) -> Option<JailedHome<'_>> {
    let at = home.windows(3).rposition(|w| w == b"/./")?;
    let (jail, rest) = home.split_at_checked(at)?;
    let inner = rest.get(2..)?;
    if jail.is_empty() || !jail.starts_with(b"/") {
        return None;
    }
    Some(JailedHome { jail, inner })
}

/// A jail's name: its canonical path, escaped as systemd escapes paths (`systemd-escape --path`, systemd.unit(5)).
///
/// A name over 200 bytes is cut and ends in a digest, since it must be one file name below `/var/lib/jailwright`.
#[must_use]
pub fn jail_name(canonical: &[u8]) -> String {
    let mut name = String::new();
    let mut parts = canonical.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
    let mut first = true;
    for part in &mut parts {
        if !first {
            name.push('-');
        }
        for (i, byte) in part.iter().enumerate() {
            match byte {
                b'.' if first && i == 0 => name.push_str("\\x2e"),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b':' => name.push(char::from(*byte)),
                _ => name.push_str(&format!("\\x{byte:02x}")),
            }
        }
        first = false;
    }
    if first {
        name.push('-');
    }
    if name.len() > 200 {
        let digest = fnv1a_64(canonical);
        name.truncate(180);
        name.push_str(&format!("-{digest:016x}"));
    }
    name
}

/// FNV-1a. Not a secret-keeper: the jail's device and inode in entry.toml are what tells two jails apart.
#[must_use]
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dot_splits() {
        let home = split_home(b"/srv/a/./b/./home/dave").expect("jailed");
        assert_eq!((home.jail, home.inner), (&b"/srv/a/./b"[..], &b"/home/dave"[..]));
        assert_eq!(split_home(b"/home/dave"), None);
        assert_eq!(split_home(b"/./home/dave"), None, "a jail of / is no jail");
    }

    #[test]
    fn names_as_systemd_escapes() {
        assert_eq!(jail_name(b"/home/jail"), "home-jail");
        assert_eq!(jail_name(b"/home//jail/"), "home-jail");
        assert_eq!(jail_name(b"/srv/a-b/\xff"), "srv-a\\x2db-\\xff");
        assert_eq!(jail_name(b"/.hidden/.x"), "\\x2ehidden-.x");
        let long = [b"/".as_slice(), &[b'x'; 300]].concat();
        assert!(jail_name(&long).len() <= 200);
        assert_ne!(jail_name(&long), jail_name(&[long.clone(), b"y".to_vec()].concat()));
    }
}
