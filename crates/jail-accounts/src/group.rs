//! Reading /etc/group, as glibc's `files` backend reads it.

use crate::fields;

/// One group, as its line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The group's name.
    pub name: &'a [u8],
    /// The password field.
    pub passwd: &'a [u8],
    /// The numeric group.
    pub gid: u32,
    list: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The names listed as members; those who have the group as their primary one are not among them.
    pub fn members(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // glibc ends the list at a colon, and skips blanks before a name and empty names.
        let list = self.list.split(|b| *b == b':').next().unwrap_or_default();
        list.split(|b| *b == b',').map(fields::trim_start).filter(|name| !name.is_empty())
    }
}

/// The groups of a group file, in its order; comments, NIS lines and malformed lines are skipped.
pub fn entries(file: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    fields::candidate_lines(file).filter_map(parse)
}

/// The first group of that name.
#[must_use]
pub fn by_name<'a>(file: &'a [u8], name: &[u8]) -> Option<Entry<'a>> {
    entries(file).find(|entry| entry.name == name)
}

/// The first group of that number.
#[must_use]
pub fn by_gid(file: &[u8], gid: u32) -> Option<Entry<'_>> {
    entries(file).find(|entry| entry.gid == gid)
}

/// The groups that list that user as a member, each number once, in the file's order.
#[must_use]
pub fn groups_of(file: &[u8], user: &[u8]) -> Vec<u32> {
    let mut gids = Vec::new();
    for entry in entries(file) {
        if !gids.contains(&entry.gid) && entry.members().any(|member| member == user) {
            gids.push(entry.gid);
        }
    }
    gids
}

/// One line without its newline and leading blanks; `None` if it is no group.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    if !fields::is_candidate(line) {
        return None;
    }
    let mut parts = line.splitn(4, |b| *b == b':');
    let name = parts.next().filter(|name| !name.is_empty())?;
    Some(Entry {
        name,
        passwd: parts.next()?,
        gid: fields::id(parts.next()?)?,
        list: parts.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"root:x:0:\n\
        # no:x:1:dave\n\
        +::::\n\
        staff:x:50:dave, erin,,frank\n\
        bad:x::dave\n\
        odd:x:51:dave:frank\n\
        again:x:50:dave\n\
        crlf:x:52:erin\r\n\
        none:x:53";

    #[test]
    fn members_and_groups() {
        let staff = by_gid(FILE, 50).expect("there");
        assert_eq!(staff.members().collect::<Vec<_>>(), [&b"dave"[..], b"erin", b"frank"]);
        assert_eq!(groups_of(FILE, b"dave"), [50, 51]);
        assert_eq!(groups_of(FILE, b"frank"), [50]);
        assert_eq!(groups_of(FILE, b"erin"), [50], "as for glibc, a CR is part of the last name");
        assert_eq!(by_name(FILE, b"none").expect("there").members().count(), 0);
        assert_eq!(by_name(FILE, b"bad"), None);
        assert_eq!(groups_of(FILE, b"dav"), Vec::<u32>::new());
    }
}
