//! What a jailing and a release change in the account files of the host and of a jail, line by line.

use std::collections::HashSet;

use jail_accounts::{group, passwd, table};

use crate::books;
use crate::host::Host;
use crate::plan::JAILED;
use crate::record::Record;
use crate::trouble::{Trouble, quoted_bytes};
use crate::view::{Files, View};

/// Puts a user into the host's group `jailed`, making it if need be; gives back the number of a group that was made.
pub(super) fn join_jailed(
    host: &Host,
    books: &mut books::Books<'_>,
    name: &[u8],
) -> Result<Option<u32>, Trouble> {
    let mut made = None;
    if books.group.line(JAILED).is_none() {
        let bytes = books.group.bytes();
        let defs = Files::read(host)?.defs;
        let gid = View::new(b"", &bytes)
            .free_system_gid(&defs)
            .ok_or_else(|| Trouble::failed("there is no free system gid for the group 'jailed'"))?;
        books.group.append(JAILED, format!("jailed:x:{gid}:").as_bytes());
        if let Some(gshadow) = &mut books.gshadow {
            gshadow.append(JAILED, b"jailed:!::");
        }
        made = Some(gid);
    }
    edit_jailed(books, |line| table::with_member(line, name));
    Ok(made)
}

pub(super) fn leave_jailed(books: &mut books::Books<'_>, name: &[u8]) {
    edit_jailed(books, |line| table::without_member(line, name));
}

fn edit_jailed(books: &mut books::Books<'_>, edit: impl Fn(&[u8]) -> Vec<u8>) {
    for table in std::iter::once(&mut books.group).chain(&mut books.gshadow) {
        edit_member(table, JAILED, &edit);
    }
}

pub(super) fn drop_empty_group(books: &mut books::Books<'_>, gid: u32) -> bool {
    let empty = books
        .group
        .text(JAILED)
        .and_then(group::parse)
        .is_some_and(|entry| entry.gid == gid && entry.members().count() == 0);
    if empty {
        books.group.remove(JAILED);
        if let Some(gshadow) = &mut books.gshadow {
            gshadow.remove(JAILED);
        }
    }
    empty
}

/// How much of a passwd line that was changed since goes back to what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restore {
    /// Home and shell: a release was asked for.
    Everything,
    /// Of home and shell what is as we wrote it: a jailing that failed has no say in what others have set meanwhile.
    WhatIsOurs,
}

/// Gives an account back its line; of one that was changed since, home and shell at most.
pub(super) fn restore_line(
    books: &mut books::Books<'_>,
    record: &Record,
    how: Restore,
) -> Result<(), Trouble> {
    let name = record.user.0.as_slice();
    let Some(line) = books.passwd.line(name) else { return Ok(()) };
    if line == record.line_before.0 {
        return Ok(());
    }
    let restored = if line == record.line_after.0 {
        Some(record.line_before.0.clone())
    } else {
        put_back(line, record, how)
    };
    let restored = restored.ok_or_else(|| {
        Trouble::failed(format!("the passwd line of {} cannot be restored", quoted_bytes(name)))
    })?;
    if restored == line {
        return Ok(());
    }
    books.passwd.replace(name, restored).map_err(|error| Trouble::failed(error.to_string()))
}

fn put_back(line: &[u8], record: &Record, how: Restore) -> Option<Vec<u8>> {
    let now = passwd::parse(table::strip_newline(line))?;
    let (before, ours) = (record.entry_before()?, record.entry_after()?);
    let field = |now, ours, before| match how {
        Restore::WhatIsOurs if now != ours => now,
        Restore::WhatIsOurs | Restore::Everything => before,
    };
    let (home, shell) = (field(now.home, ours.home, before.home), field(now.shell, ours.shell, before.shell));
    table::with_home_and_shell(line, home, shell)
}

pub(super) fn write_jail_lines(books: &mut books::JailBooks<'_>, record: &Record) {
    let name = record.user.0.as_slice();
    books.passwd.put(name, &record.jail_line.after.0);
    for group in &record.jail_groups {
        if books.group.line(&group.name.0).is_none() {
            let line = [group.name.0.as_slice(), b":x:", group.gid.to_string().as_bytes(), b":"].concat();
            books.group.append(&group.name.0, &line);
        }
        if group.joined {
            edit_member(&mut books.group, &group.name.0, |line| table::with_member(line, name));
        }
    }
}

pub(super) fn clear_jail_lines(books: &mut books::JailBooks<'_>, record: &Record, needed: &HashSet<u32>) {
    let name = record.user.0.as_slice();
    match &record.jail_line.before {
        None => books.passwd.remove(name),
        Some(before) => {
            let line = [before.0.as_slice(), b"\n"].concat();
            // Gone already: then it stays gone.
            books.passwd.replace(name, line).unwrap_or(());
        }
    }
    for group in &record.jail_groups {
        if group.joined {
            edit_member(&mut books.group, &group.name.0, |line| table::without_member(line, name));
        }
        let entry = books.group.text(&group.name.0).and_then(group::parse);
        let empty = entry.is_some_and(|entry| entry.members().count() == 0);
        if group.made && empty && !needed.contains(&group.gid) {
            books.group.remove(&group.name.0);
        }
    }
}

fn edit_member(table: &mut table::Table<'_>, group: &[u8], edit: impl FnOnce(&[u8]) -> Vec<u8>) {
    if let Some(line) = table.line(group).map(edit) {
        table.replace(group, line).unwrap_or(());
    }
}
