//! Reading /etc/passwd, as glibc's `files` backend reads it.

use crate::fields;

/// One account, as its line has it. Every field is bytes: nothing says that passwd is UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The login name.
    pub name: &'a [u8],
    /// The password field, `x` where shadow is used.
    pub passwd: &'a [u8],
    /// The numeric user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The comment field.
    pub gecos: &'a [u8],
    /// The home directory.
    pub home: &'a [u8],
    /// The login shell. Of a line that ends in CR LF the CR belongs to it, as glibc has it.
    pub shell: &'a [u8],
}

/// The accounts of a passwd file, in its order; comments, NIS lines and malformed lines are skipped.
pub fn entries(file: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    fields::candidate_lines(file).filter_map(parse)
}

/// The first account of that name: the one that logs in.
#[must_use]
pub fn by_name<'a>(file: &'a [u8], name: &[u8]) -> Option<Entry<'a>> {
    entries(file).find(|entry| entry.name == name)
}

/// Every account of that uid. More than one is usual on hosts that give a person two names.
pub fn by_uid(file: &[u8], uid: u32) -> impl Iterator<Item = Entry<'_>> {
    entries(file).filter(move |entry| entry.uid == uid)
}

/// One line without its newline and leading blanks; `None` if it is no account.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    if !fields::is_candidate(line) {
        return None;
    }
    // The seventh field is the rest of the line, further colons and all. Missing text fields are empty, missing ids are an error.
    let mut parts = line.splitn(7, |b| *b == b':');
    let name = parts.next().filter(|name| !name.is_empty())?;
    Some(Entry {
        name,
        passwd: parts.next()?,
        uid: fields::id(parts.next()?)?,
        gid: fields::id(parts.next()?)?,
        gecos: parts.next().unwrap_or_default(),
        home: parts.next().unwrap_or_default(),
        shell: parts.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# a comment\n\
        root:x:0:0:root:/root:/bin/bash\n\
        +nis:x:0:0::/:/bin/sh\n\
        +\n\
        -gone\n\
        \t dave:x:60001:60001:Dave,,,:/home/jail/./home/dave:/usr/local/sbin/jail-sh\n\
        broken:x:sixty:1::/:/bin/sh\n\
        wrap:x:4294967296:1::/:/bin/sh\n\
        minus:x:-1:1::/:/bin/sh\n\
        nul:x:0:0\0::/:/bin/sh\n\
        nogid:x:5:\n\
        :x:7:7::/:/bin/sh\n\
        short:x:60002: +60002\n\
        davina:x:60001:60001::/srv/d\xe9:/bin/a:b\r\n\
        last:*:60003:60003::/home/last:";

    #[test]
    fn sees_what_glibc_sees() {
        let names: Vec<&[u8]> = entries(FILE).map(|e| e.name).collect();
        assert_eq!(names, [&b"root"[..], b"dave", b"short", b"davina", b"last"]);
        let short = by_name(FILE, b"short").expect("there");
        assert_eq!((short.gid, short.home, short.shell), (60002, &b""[..], &b""[..]));
        let davina = by_name(FILE, b"davina").expect("there");
        assert_eq!((davina.home, davina.shell), (&b"/srv/d\xe9"[..], &b"/bin/a:b\r"[..]));
        assert_eq!(by_uid(FILE, 60001).map(|e| e.name).collect::<Vec<_>>(), [&b"dave"[..], b"davina"]);
        assert_eq!(by_name(FILE, b"+nis"), None);
        assert_eq!(by_name(FILE, b""), None);
    }

    #[test]
    fn the_first_of_two_lines_is_the_account() {
        let file = b"twin:x:60001:1::/a:/bin/a\ntwin:x:60002:1::/b:/bin/b\n";
        assert_eq!(by_name(file, b"twin").expect("there").uid, 60001);
    }

    #[test]
    fn a_line_of_a_megabyte() {
        let mut file = b"long:x:60001:60001:".to_vec();
        file.resize(1 << 20, b'g');
        file.extend_from_slice(b":/home/long:/bin/sh\nnext:x:60002:60002::/:/bin/sh");
        assert_eq!(by_name(&file, b"long").expect("there").home, b"/home/long");
        assert_eq!(by_name(&file, b"next").expect("there").uid, 60002);
    }
}
