//! Which accounts enter a jail though passwd does not say so: `/etc/jailwright/accounts`.
//!
//! One line an account, `USER:JAIL:HOME`, in passwd's manner, so that ten thousand of them cost a login one read and
//! jail-user one write. It is written by jail-user only; the administrator's own policy file comes before it.

use crate::fields;
use crate::table::Table;

/// The file's name below `/etc/jailwright`.
pub const FILE: &str = "accounts";

/// What a new file begins with.
pub const HEAD: &[u8] =
    b"# USER:JAIL:HOME INSIDE. Written by jail-user --bind-home; jail-sh.toml comes before it.\n";

/// Where an account goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The login name.
    pub name: &'a [u8],
    /// The jail's path.
    pub jail: &'a [u8],
    /// The home as seen inside.
    pub home: &'a [u8],
}

/// One line without its newline; `None` if it places nobody.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    if !fields::is_candidate(line) {
        return None;
    }
    let mut parts = line.split(|b| *b == b':');
    let entry = Entry { name: parts.next()?, jail: parts.next()?, home: parts.next()? };
    let whole = parts.next().is_none() && !entry.name.is_empty();
    (whole && entry.jail.starts_with(b"/") && entry.home.starts_with(b"/")).then_some(entry)
}

/// Where that account goes; the first line of a name counts, as in passwd.
#[must_use]
pub fn by_name<'a>(file: &'a [u8], name: &[u8]) -> Option<Entry<'a>> {
    fields::candidate_lines(file).filter_map(parse).find(|entry| entry.name == name)
}

/// The line of an account, without its ending.
#[must_use]
pub fn line(entry: &Entry<'_>) -> Vec<u8> {
    [entry.name, entry.jail, entry.home].join(&b':')
}

/// The file, to be edited.
#[must_use]
pub fn table(file: &[u8]) -> Table<'_> {
    Table::new(file, |line| parse(line).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_place_anybody() {
        let file =
            b"# no:/x:/y\ndave:/home/jail:/home/dave\nerin:jail:/home/erin\nfrank:/j:/h:more\n:/j:/h\n\
                     dave:/other:/home/dave\nend:/j:/h";
        let dave = by_name(file, b"dave").expect("there");
        assert_eq!((dave.jail, dave.home), (&b"/home/jail"[..], &b"/home/dave"[..]));
        for nobody in [&b"erin"[..], b"frank", b"no", b""] {
            assert_eq!(by_name(file, nobody), None);
        }
        assert_eq!(line(&by_name(file, b"end").expect("there")), b"end:/j:/h");
    }
}
