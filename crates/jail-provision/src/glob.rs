//! `*`, `?` and `[…]` in a section's paths, matched component by component against the host.
//!
//! A hidden name is matched only by a pattern that begins with a dot, as in a shell. Names are bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::Host;

/// Whether a path holds anything to expand.
#[must_use]
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Every path of the host that matches, sorted. A directory that cannot be read matches nothing.
#[must_use]
pub fn expand(host: &dyn Host, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        found = found
            .iter()
            .flat_map(|dir| {
                let mut paths = step(host, dir, part);
                if *part == "*" && !last && LIBRARY_DIRS.iter().any(|lib| dir == Path::new(lib)) {
                    paths.retain(|path| is_multiarch(path));
                }
                paths
            })
            .collect();
    }
    found
}

/// Right below these, a `*` on the way to something stands for the machine's multiarch directories, and not for the
/// private directories of sixty other packages.
const LIBRARY_DIRS: &[&str] = &["/lib", "/usr/lib", "/usr/local/lib"];

/// `x86_64-linux-gnu`, `arm-linux-gnueabihf`, `aarch64-linux-musl`.
fn is_multiarch(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().windows(7).any(|w| w == b"-linux-"))
}

fn step(host: &dyn Host, dir: &Path, part: &str) -> Vec<PathBuf> {
    if !is_pattern(part) {
        let path = dir.join(part);
        return if host.lstat(&path).is_ok() { vec![path] } else { Vec::new() };
    }
    let names = host.read_dir(dir).unwrap_or_default();
    names.iter().filter(|name| matches(part.as_bytes(), name)).map(|name| dir.join(name)).collect()
}

/// Whether one name matches one pattern without slashes.
pub(crate) fn matches(pattern: &[u8], name: &OsStr) -> bool {
    let name = name.as_bytes();
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // The usual way back: to the last star, one byte further on.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) => {
                if let Some(width) = one(&pattern[p..], name[n]) {
                    p += width;
                    n += 1;
                    continue;
                }
            }
            None => {}
        }
        let Some((at, from)) = star else { return false };
        star = Some((at, from + 1));
        (p, n) = (at + 1, from + 1);
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// How many bytes of the pattern match this byte; `None` if they do not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => match class(pattern, byte) {
            Some((true, width)) => Some(width),
            Some((false, _)) => None,
            // No closing bracket: a bracket like any other byte.
            None => (byte == b'[').then_some(1),
        },
        plain => (plain == byte).then_some(1),
    }
}

fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|b| *b == b']')?;
    let body = &pattern[start..end];
    let mut inside = false;
    let mut i = 0;
    while i < body.len() {
        if i + 2 < body.len() && body[i + 1] == b'-' {
            inside |= (body[i]..=body[i + 2]).contains(&byte);
            i += 3;
        } else {
            inside |= body[i] == byte;
            i += 1;
        }
    }
    Some((inside != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::MemHost;

    #[test]
    fn names_match_as_in_a_shell() {
        let yes = [
            ("*", "a"),
            ("a*c", "abbc"),
            ("?", "x"),
            ("[a-c]x", "bx"),
            ("[!a]", "b"),
            ("*.so.*", "l.so.6"),
            ("a[", "a["),
        ];
        let no = [
            ("*", ".a"),
            ("a*c", "ab"),
            ("?", ""),
            ("[a-c]x", "dx"),
            ("[!a]", "a"),
            ("*.so", "l.so.6"),
            ("", "a"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern.as_bytes(), OsStr::new(name)), "{pattern} {name}");
        }
        for (pattern, name) in no {
            assert!(!matches(pattern.as_bytes(), OsStr::new(name)), "{pattern} {name}");
        }
    }

    #[test]
    fn any_architecture_is_found() {
        let mut host = MemHost::new();
        host.file("/usr/lib/aarch64-linux-gnu/gconv/UTF-16.so", 0o644, b"")
            .file("/usr/lib/x86_64-linux-gnu/gconv/UTF-16.so", 0o644, b"")
            .file("/usr/lib/valgrind/gconv/x", 0o755, b"");
        let found = expand(&host, "/usr/lib/*/gconv");
        let expected =
            [Path::new("/usr/lib/aarch64-linux-gnu/gconv"), Path::new("/usr/lib/x86_64-linux-gnu/gconv")];
        assert_eq!(found, expected);
        assert!(expand(&host, "/usr/lib/*/nothing").is_empty());
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(200);
        assert!(!matches(pattern.as_bytes(), OsStr::new(&"a".repeat(199))));
    }
}
