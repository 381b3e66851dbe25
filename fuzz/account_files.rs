// What the fuzz targets of account files do with their bytes, for the fuzzer and for the tests that replay its corpus: the
// first line is a name, the rest is the file.

use jail_accounts::convention::{jail_name, split_home};
use jail_accounts::table::{Table, with_home_and_shell, with_member, without_member};
use jail_accounts::{group, passwd, placement};

fn name_and_file(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|b| *b == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, b""),
    }
}

/// passwd: what is read is what stands there, and an edit changes one line's two fields.
pub(crate) fn passwd_file(data: &[u8]) {
    let (name, file) = name_and_file(data);
    for entry in passwd::entries(file) {
        assert!(!entry.name.is_empty() && !entry.name.contains(&b':') && !entry.name.contains(&b'\n'));
        assert!(!matches!(entry.name.first(), Some(b'+' | b'-' | b'#')), "an entry of NIS or a comment");
        assert!(passwd::by_uid(file, entry.uid).any(|other| other == entry));
        if let Some(home) = split_home(entry.home) {
            assert!(home.jail.starts_with(b"/") && home.inner.starts_with(b"/"));
            let name = jail_name(home.jail);
            assert!(!name.contains('/') && name.len() <= 200 && name != "." && name != "..", "{name:?}");
        }
    }
    edits(Table::passwd(file), file, name);
    let mut table = Table::passwd(file);
    let (Some(before), Some(line)) = (passwd::by_name(file, name), table.line(name)) else {
        assert!(
            passwd::by_name(file, name).is_none() && table.line(name).is_none(),
            "seen by one reader only"
        );
        return;
    };
    let (home, shell) = (&b"/srv/jail/./home/x"[..], &b"/usr/local/sbin/jail-sh"[..]);
    let new = with_home_and_shell(line, home, shell).expect("these fields are plain");
    table.replace(name, new).expect("the line is there");
    let bytes = table.bytes();
    let after = passwd::by_name(&bytes, name).expect("still an account");
    assert_eq!((after.home, after.shell), (home, shell));
    assert_eq!(
        (after.uid, after.gid, after.passwd, after.gecos),
        (before.uid, before.gid, before.passwd, before.gecos)
    );
    assert_eq!(passwd::entries(&bytes).count(), passwd::entries(file).count());
}

/// group: a member that was added is one, a member that was taken out is none, and nobody else's membership changes.
pub(crate) fn group_file(data: &[u8]) {
    let (name, file) = name_and_file(data);
    edits(Table::group(file), file, name);
    for line in file.split_inclusive(|b| *b == b'\n') {
        let text = |line: &[u8]| line.strip_suffix(b"\n").unwrap_or(line).to_vec();
        let members = |line: &[u8]| -> Option<Vec<Vec<u8>>> {
            let line = text(line);
            let start = line.iter().position(|b| !b.is_ascii_whitespace() && *b != 0x0b)?;
            Some(group::parse(&line[start..])?.members().map(<[u8]>::to_vec).collect())
        };
        let Some(before) = members(line) else { continue };
        let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        // A name that only a CR keeps from being a member is left as it is: no tool of ours writes such lines.
        let behind_a_cr = before.iter().any(|member| member.strip_suffix(b"\r") == Some(name));
        if name.is_empty() || !name.iter().all(plain) || behind_a_cr {
            continue;
        }
        let added = with_member(line, name);
        let with = members(&added).expect("still a group");
        assert!(with.iter().any(|member| member == name), "not added: {}", added.escape_ascii());
        assert!(
            before.iter().all(|member| with.contains(member) || member.ends_with(b"\r")),
            "{}",
            added.escape_ascii()
        );
        let removed = without_member(&added, name);
        let without = members(&removed).expect("still a group");
        assert!(!without.iter().any(|member| member == name), "still in: {}", removed.escape_ascii());
        assert_eq!(added.ends_with(b"\n"), line.ends_with(b"\n"));
    }
    for line in file.split(|b| *b == b'\n') {
        if let Some(entry) = placement::parse(line) {
            assert_eq!(placement::parse(&placement::line(&entry)), Some(entry));
        }
    }
}

/// A table gives the file back as it was, and takes out or puts in exactly one line.
fn edits(table: Table<'_>, file: &[u8], name: &[u8]) {
    assert!(!table.is_changed());
    assert_eq!(table.bytes(), file);
    let mut table = table;
    let Some(line) = table.line(name).map(<[u8]>::to_vec) else { return };
    table.remove(name);
    assert_eq!(table.bytes().len() + line.len(), file.len());
    table.append(name, &line);
    assert!(table.line(name).is_some());
}
