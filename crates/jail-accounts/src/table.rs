//! Editing an account file in memory: one line changes, every other byte stays as it was.
//!
//! A [`Table`] keeps the file as lines with their own endings (LF, CR LF, none at the end of the file), an index by
//! name, and so makes ten thousand edits cost one read and one write.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::fields;

/// An account file, cut into lines that still have their endings.
#[derive(Debug)]
pub struct Table<'a> {
    lines: Vec<Option<Cow<'a, [u8]>>>,
    by_name: HashMap<Vec<u8>, usize>,
    changed: bool,
}

impl<'a> Table<'a> {
    /// Cuts a file up. `parse` says whether a line is an entry, so that malformed lines are never edited.
    #[must_use]
    pub fn new(file: &'a [u8], is_entry: fn(&[u8]) -> bool) -> Self {
        let mut lines = Vec::new();
        let mut by_name = HashMap::new();
        for line in file.split_inclusive(|b| *b == b'\n') {
            let text = fields::trim_start(strip_newline(line));
            if is_entry(text) {
                // The first of two lines of a name is the account; the second is left alone.
                by_name.entry(name_of(text).to_vec()).or_insert(lines.len());
            }
            lines.push(Some(Cow::Borrowed(line)));
        }
        Self { lines, by_name, changed: false }
    }

    /// A passwd file.
    #[must_use]
    pub fn passwd(file: &'a [u8]) -> Self {
        Self::new(file, |line| crate::passwd::parse(line).is_some())
    }

    /// A group file.
    #[must_use]
    pub fn group(file: &'a [u8]) -> Self {
        Self::new(file, |line| crate::group::parse(line).is_some())
    }

    /// A gshadow file: name, password, administrators, members.
    #[must_use]
    pub fn gshadow(file: &'a [u8]) -> Self {
        Self::new(file, |line| fields::is_candidate(line) && line.iter().filter(|b| **b == b':').count() == 3)
    }

    /// The line of that name with its ending, exactly as the file has it.
    #[must_use]
    pub fn line(&self, name: &[u8]) -> Option<&[u8]> {
        let at = self.by_name.get(name)?;
        self.lines.get(*at)?.as_deref()
    }

    /// The same without its ending.
    #[must_use]
    pub fn text(&self, name: &[u8]) -> Option<&[u8]> {
        self.line(name).map(strip_newline)
    }

    /// Puts another line in the place of that name's, ending and all.
    pub fn replace(&mut self, name: &[u8], line: Vec<u8>) -> Result<(), NoSuchLine> {
        let at = *self.by_name.get(name).ok_or(NoSuchLine)?;
        let slot = self.lines.get_mut(at).ok_or(NoSuchLine)?;
        if slot.as_deref() != Some(line.as_slice()) {
            *slot = Some(Cow::Owned(line));
            self.changed = true;
        }
        Ok(())
    }

    /// Takes that name's line out; nothing happens if there is none.
    pub fn remove(&mut self, name: &[u8]) {
        if let Some(slot) = self.by_name.remove(name).and_then(|at| self.lines.get_mut(at)) {
            *slot = None;
            self.changed = true;
        }
    }

    /// Puts a line (given without its ending) in the place of that name's, or adds it.
    pub fn put(&mut self, name: &[u8], line: &[u8]) {
        if self.replace(name, [line, b"\n"].concat()).is_err() {
            self.append(name, line);
        }
    }

    /// Adds a line (given without its ending) at the end, but before the NIS lines, which end the local part.
    pub fn append(&mut self, name: &[u8], line: &[u8]) {
        let mut line = line.to_vec();
        line.push(b'\n');
        self.changed = true;
        let nis =
            self.lines.iter().position(|l| matches!(l.as_deref().and_then(<[u8]>::first), Some(b'+' | b'-')));
        if let Some(at) = nis {
            self.lines.insert(at, Some(Cow::Owned(line)));
            self.by_name.values_mut().filter(|index| **index >= at).for_each(|index| *index += 1);
            self.by_name.insert(name.to_vec(), at);
            return;
        }
        if let Some(last) = self.lines.iter_mut().rev().find_map(Option::as_mut) {
            if !last.ends_with(b"\n") {
                last.to_mut().push(b'\n');
            }
        }
        self.by_name.insert(name.to_vec(), self.lines.len());
        self.lines.push(Some(Cow::Owned(line)));
    }

    /// Whether [`Table::bytes`] differs from what was read.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The file as it should be written.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lines.iter().flatten().flat_map(|line| line.iter().copied()).collect()
    }
}

/// The table has no line of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the file has no line of that name")]
pub struct NoSuchLine;

/// A passwd line with another home and shell; every other byte as it was, but for a CR at its end.
///
/// glibc reads `jail-sh\r` as the shell's name, so a line with our shell cannot keep it.
#[must_use]
pub fn with_home_and_shell(line: &[u8], home: &[u8], shell: &[u8]) -> Option<Vec<u8>> {
    let ending: &[u8] = if line.ends_with(b"\n") { b"\n" } else { b"" };
    let text = strip_newline(line);
    let mut parts = text.splitn(7, |b| *b == b':');
    let mut new = Vec::with_capacity(line.len() + home.len() + shell.len());
    for _ in 0..5 {
        new.extend_from_slice(parts.next().unwrap_or_default());
        new.push(b':');
    }
    for (field, last) in [(home, false), (shell, true)] {
        if field.iter().any(|b| matches!(b, b'\n' | 0)) || (!last && field.contains(&b':')) {
            return None;
        }
        new.extend_from_slice(field);
        if !last {
            new.push(b':');
        }
    }
    new.extend_from_slice(ending);
    Some(new)
}

/// A group or gshadow line with one more member; the same line if he is one already.
#[must_use]
pub fn with_member(line: &[u8], member: &[u8]) -> Vec<u8> {
    let (text, ending) = split_ending(line);
    if members(text).any(|name| name == member) {
        return line.to_vec();
    }
    let (head, list, rest) = around_the_list(text);
    let mut new = head.to_vec();
    while new.iter().filter(|b| **b == b':').count() < 3 {
        new.push(b':');
    }
    if ending.starts_with(b"\r") && rest.is_empty() {
        // To glibc the CR is part of the last name, so the new one comes first.
        new.extend_from_slice(member);
        new.push(b',');
        new.extend_from_slice(list);
    } else {
        new.extend_from_slice(list);
        if !list.is_empty() && !list.ends_with(b",") {
            new.push(b',');
        }
        new.extend_from_slice(member);
    }
    new.extend_from_slice(rest);
    new.extend_from_slice(ending);
    new
}

/// A group or gshadow line without that member; other members keep their order and spelling.
#[must_use]
pub fn without_member(line: &[u8], member: &[u8]) -> Vec<u8> {
    let (text, ending) = split_ending(line);
    let (head, list, rest) = around_the_list(text);
    let kept: Vec<&[u8]> =
        list.split(|b| *b == b',').filter(|name| fields::trim_start(name) != member).collect();
    [head, &kept.join(&b','), rest, ending].concat()
}

/// The members that a group or gshadow line lists.
fn members(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (_, list, _) = around_the_list(text);
    list.split(|b| *b == b',').map(fields::trim_start).filter(|name| !name.is_empty())
}

/// What stands before the members, the members, and what stands after them: glibc ends the list at a fourth colon, so a
/// name behind it would be nobody's.
fn around_the_list(text: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let third = text.iter().enumerate().filter(|(_, b)| **b == b':').nth(2).map(|(at, _)| at);
    let Some((head, rest)) = third.and_then(|at| text.split_at_checked(at + 1)) else {
        return (text, b"", b"");
    };
    let end = rest.iter().position(|b| *b == b':').unwrap_or(rest.len());
    let (list, rest) = rest.split_at_checked(end).unwrap_or((rest, b""));
    (head, list, rest)
}

fn split_ending(line: &[u8]) -> (&[u8], &[u8]) {
    let text = strip_newline(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    line.split_at_checked(text.len()).unwrap_or((line, b""))
}

/// A line without its ending.
#[must_use]
pub fn strip_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

fn name_of(text: &[u8]) -> &[u8] {
    text.split(|b| *b == b':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# head\nroot:x:0:0:root:/root:/bin/bash\nbad line\ndave:x:1:1:D\xe9:/home/dave:/bin/sh\r\ndave:x:2:2::/b:/b\n+\nend:x:3:3::/e:/e";

    #[test]
    fn only_the_one_line_changes() {
        let mut table = Table::passwd(FILE);
        let old = table.line(b"dave").expect("there").to_vec();
        let new = with_home_and_shell(&old, b"/j/./home/dave", b"/sbin/jail-sh").expect("fits");
        table.replace(b"dave", new).expect("there");
        let expected = b"# head\nroot:x:0:0:root:/root:/bin/bash\nbad line\ndave:x:1:1:D\xe9:/j/./home/dave:/sbin/jail-sh\ndave:x:2:2::/b:/b\n+\nend:x:3:3::/e:/e";
        assert_eq!(table.bytes(), expected);
        table.replace(b"dave", old).expect("there");
        assert_eq!(table.bytes(), FILE, "and back, byte for byte");
    }

    #[test]
    fn untouched_is_the_same_bytes() {
        for file in [FILE, b"", b"\n", b"x", b"\r\n\r\n", b"a:b:c"] {
            let table = Table::passwd(file);
            assert_eq!(table.bytes(), file);
            assert!(!table.is_changed());
        }
    }

    #[test]
    fn append_goes_before_nis_and_mends_the_last_line() {
        let mut table = Table::passwd(FILE);
        table.append(b"new", b"new:x:9:9::/n:/n");
        assert!(table.bytes().windows(20).any(|w| w == b"new:x:9:9::/n:/n\n+\ne"));
        assert_eq!(table.line(b"end"), Some(&b"end:x:3:3::/e:/e"[..]), "the index moved along");
        let mut plain = Table::group(b"a:x:1:");
        plain.append(b"b", b"b:x:2:");
        assert_eq!(plain.bytes(), b"a:x:1:\nb:x:2:\n");
        plain.remove(b"a");
        assert_eq!(plain.bytes(), b"b:x:2:\n");
    }

    #[test]
    fn members_come_and_go() {
        assert_eq!(with_member(b"g:x:1:\n", b"dave"), b"g:x:1:dave\n");
        assert_eq!(
            with_member(b"g:x:1:a,b\r\n", b"dave"),
            b"g:x:1:dave,a,b\r\n",
            "the CR is of the last name"
        );
        assert_eq!(with_member(b"g:x:1:a,dave", b"dave"), b"g:x:1:a,dave");
        assert_eq!(with_member(b"g:x:1:daves", b"dave"), b"g:x:1:daves,dave");
        assert_eq!(with_member(b"g:!:adm:a\n", b"dave"), b"g:!:adm:a,dave\n");
        assert_eq!(with_member(b"g:x:1", b"dave"), b"g:x:1:dave");
        assert_eq!(without_member(b"g:x:1:a,dave,b\n", b"dave"), b"g:x:1:a,b\n");
        assert_eq!(without_member(b"g:x:1:dave\n", b"dave"), b"g:x:1:\n");
        assert_eq!(without_member(b"g:x:1:daves\n", b"dave"), b"g:x:1:daves\n");
    }

    #[test]
    fn fields_that_would_break_the_file_are_refused() {
        assert_eq!(with_home_and_shell(b"a:x:1:1::/h:/s\n", b"/a:b", b"/s"), None);
        assert_eq!(with_home_and_shell(b"a:x:1:1::/h:/s\n", b"/a\nb", b"/s"), None);
        assert_eq!(
            with_home_and_shell(b"a:x:1:1", b"/h", b"/s").as_deref(),
            Some(&b"a:x:1:1::/h:/s"[..]),
            "missing fields are filled in"
        );
    }
}
