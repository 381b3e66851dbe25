//! sudo and doas: rules by which the account may run programs as somebody else, or by which others run programs as it.
//!
//! Only who a rule is for is read (sudoers(5): users, groups, ids, aliases, negation); what it allows is the
//! administrator's to judge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Finding;
use super::accounts::{Account, Jailed};
use super::shown;
use super::view::{View, Whose, lines, words};

/// How deep files may include each other.
const DEPTH: usize = 16;

pub(super) fn look(view: &View, jailed: &Jailed, account: &Account) -> Vec<Finding> {
    let mut rules = Rules::default();
    rules.read(view, Path::new("/etc/sudoers"), DEPTH);
    let who = Who::of(jailed, account);
    let mut findings: Vec<Finding> = rules
        .rules
        .iter()
        .filter(|rule| rules.matches(&rule.users, &who, DEPTH))
        .map(|rule| {
            Finding::of(
                account,
                "sudo",
                format!("a rule of sudo's is for the account: {}: '{}'", rule.place, shown(&rule.text)),
                "a process of the account's outside of the jail may become somebody else",
                format!(
                    "visudo -f {}   # take '{}' out of line {}",
                    rule.file.display(),
                    account.shown(),
                    rule.line
                ),
            )
        })
        .collect();
    findings.extend(rules.rules.iter().filter(|rule| rule.runs_as(&who)).map(|rule| {
        Finding::of(
            account,
            "sudo-as",
            format!("others may run programs as the account: {}: '{}'", rule.place, shown(&rule.text)),
            "they run on the host, without the login shell",
            format!("visudo -f {}   # delete line {}", rule.file.display(), rule.line),
        )
    }));
    findings.extend(doas(view, account, &who));
    findings
}

/// An account as a rule can name it.
struct Who {
    name: Vec<u8>,
    uid: String,
    groups: Vec<(String, Vec<u8>)>,
}

impl Who {
    fn of(jailed: &Jailed, account: &Account) -> Self {
        let groups =
            jailed.groups_of(account).into_iter().map(|(gid, name)| (gid.to_string(), name)).collect();
        Self { name: account.name.clone(), uid: account.uid.to_string(), groups }
    }
}

struct Rule {
    file: PathBuf,
    line: usize,
    place: String,
    text: Vec<u8>,
    users: Vec<Vec<u8>>,
    run_as: Vec<Vec<u8>>,
}

impl Rule {
    fn runs_as(&self, who: &Who) -> bool {
        self.run_as
            .iter()
            .any(|item| *item == who.name || item.strip_prefix(b"#") == Some(who.uid.as_bytes()))
    }
}

#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    aliases: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Rules {
    fn read(&mut self, view: &View, file: &Path, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let Some(bytes) = view.read(file, Whose::Roots) else { return };
        for (line, text) in logical_lines(&bytes) {
            let mut fields = words(&text);
            match fields.next() {
                Some(b"@include" | b"#include") => {
                    if let Some(name) = fields.next() {
                        self.read(view, &beside(file, name), depth);
                    }
                }
                Some(b"@includedir" | b"#includedir") => {
                    if let Some(name) = fields.next() {
                        self.read_directory(view, &beside(file, name), depth);
                    }
                }
                Some(b"User_Alias") => self.alias(&text),
                Some(word) if word.starts_with(b"Defaults") || word.ends_with(b"_Alias") => {}
                Some(_) => self.rule(file, line, &text),
                None => {}
            }
        }
    }

    /// As sudo has it: no names with a dot, none that end in a tilde.
    fn read_directory(&mut self, view: &View, dir: &Path, depth: usize) {
        for name in view.names(dir, Whose::Roots) {
            let bytes = name.as_encoded_bytes();
            if !bytes.contains(&b'.') && !bytes.ends_with(b"~") {
                self.read(view, &dir.join(&name), depth);
            }
        }
    }

    fn alias(&mut self, text: &[u8]) {
        let rest = text.strip_prefix(b"User_Alias").unwrap_or_default();
        for part in rest.split(|b| *b == b':') {
            let Some(at) = part.iter().position(|b| *b == b'=') else { continue };
            self.aliases.insert(part[..at].trim_ascii().to_vec(), list(&part[at + 1..]));
        }
    }

    fn rule(&mut self, file: &Path, line: usize, text: &[u8]) {
        let Some(at) = text.iter().position(|b| *b == b'=') else { return };
        let run_as = text[at + 1..].trim_ascii_start().strip_prefix(b"(").and_then(|rest| {
            let inner = rest.split(|b| *b == b')').next()?;
            inner.split(|b| *b == b':').next().map(list)
        });
        self.rules.push(Rule {
            file: file.to_path_buf(),
            line,
            place: format!("'{}', line {line}", file.display()),
            text: text.to_vec(),
            users: list(first_list(&text[..at])),
            run_as: run_as.unwrap_or_default(),
        });
    }

    /// The last item that speaks of the account decides.
    fn matches(&self, items: &[Vec<u8>], who: &Who, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        let mut verdict = false;
        for item in items {
            let bare: &[u8] = item.strip_prefix(b"!").map_or(item.as_slice(), <[u8]>::trim_ascii_start);
            let matched = self.matches_one(bare, who, depth);
            if matched {
                verdict = !item.starts_with(b"!");
            }
        }
        verdict
    }

    fn matches_one(&self, item: &[u8], who: &Who, depth: usize) -> bool {
        if item == b"ALL" || item == who.name {
            return true;
        }
        if let Some(group) = item.strip_prefix(b"%") {
            return who.groups.iter().any(|(gid, name)| {
                group == name || group.strip_prefix(b"#").is_some_and(|id| id == gid.as_bytes())
            });
        }
        if let Some(uid) = item.strip_prefix(b"#") {
            return uid == who.uid.as_bytes();
        }
        self.aliases.get(item).is_some_and(|items| self.matches(items, who, depth))
    }
}

fn beside(file: &Path, name: &[u8]) -> PathBuf {
    let name: Vec<u8> = name.iter().copied().filter(|b| *b != b'"').collect();
    file.parent().unwrap_or(Path::new("/")).join(super::view::path(&name))
}

/// Lines with their numbers, continuations joined and comments gone. `#1000` at the start of a word is a uid.
fn logical_lines(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut out = Vec::new();
    let mut whole: Vec<u8> = Vec::new();
    let mut start = 1;
    for (number, line) in lines(bytes).enumerate() {
        if whole.is_empty() {
            start = number + 1;
        }
        if let Some(more) = line.strip_suffix(b"\\") {
            whole.extend_from_slice(more);
            whole.push(b' ');
            continue;
        }
        whole.extend_from_slice(line);
        out.push((start, without_comment(&whole).to_vec()));
        whole.clear();
    }
    // A backslash at the very end of a file.
    if !whole.is_empty() {
        out.push((start, without_comment(&whole).to_vec()));
    }
    out.retain(|(_, line)| !line.is_empty());
    out
}

fn without_comment(line: &[u8]) -> &[u8] {
    if line.starts_with(b"#include") {
        return line;
    }
    let is_comment = |at: usize| {
        line[at] == b'#'
            && !line.get(at + 1).is_some_and(u8::is_ascii_digit)
            && (at == 0 || !matches!(line[at - 1], b'\\' | b'%'))
    };
    let end = (0..line.len()).find(|at| is_comment(*at)).unwrap_or(line.len());
    line[..end].trim_ascii_end()
}

/// The first list of a rule: up to the first blank that is not beside a comma.
fn first_list(text: &[u8]) -> &[u8] {
    let mut quoted = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b if b.is_ascii_whitespace() && !quoted => {
                let before = text[..at].trim_ascii_end().last();
                let after = text[at..].trim_ascii_start().first();
                let escaped = text[..at].ends_with(b"\\");
                if !escaped && !matches!(before, Some(b',' | b'!')) && after != Some(&b',') {
                    return &text[..at];
                }
            }
            _ => {}
        }
    }
    text
}

/// Items of a list, without quotes and backslashes.
fn list(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|b| *b == b',')
        .map(|item| {
            item.trim_ascii().iter().copied().filter(|b| !matches!(b, b'"' | b'\\')).collect::<Vec<u8>>()
        })
        .filter(|item| !item.is_empty())
        .collect()
}

/// `permit [options] identity …`; an identity is a user or `:group`.
fn doas(view: &View, account: &Account, who: &Who) -> Vec<Finding> {
    let Some(bytes) = view.read("/etc/doas.conf", Whose::Roots) else { return Vec::new() };
    let is_for_us = |line: &[u8]| {
        let mut fields = words(line);
        if fields.next() != Some(b"permit") {
            return false;
        }
        let mut braces = false;
        let identity = fields.find(|word| {
            braces |= word.starts_with(b"{");
            let option =
                braces || matches!(*word, b"nopass" | b"nolog" | b"persist" | b"keepenv" | b"setenv");
            braces &= !word.ends_with(b"}");
            !option
        });
        identity.is_some_and(|identity| match identity.strip_prefix(b":") {
            Some(group) => who.groups.iter().any(|(_, name)| name == group),
            None => identity == who.name,
        })
    };
    lines(&bytes)
        .enumerate()
        .filter(|(_, line)| is_for_us(line))
        .map(|(number, line)| {
            Finding::of(
                account,
                "doas",
                format!("line {} of '/etc/doas.conf' is for the account: '{}'", number + 1, shown(line)),
                "a process of the account's outside of the jail may become somebody else",
                format!("sed -i '{}d' /etc/doas.conf", number + 1),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sudoers: &str) -> Vec<usize> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/sudoers.d")).unwrap();
        std::fs::write(dir.path().join("etc/sudoers"), sudoers).unwrap();
        std::fs::write(dir.path().join("etc/sudoers.d/extra"), "\n\n\n\n\n\n\n\n\n\n%web ALL = /bin/true\n")
            .unwrap();
        std::fs::write(dir.path().join("etc/sudoers.d/not.read"), "dave ALL=ALL\n").unwrap();
        let view = View::below(dir.path()).unwrap();
        let mut rules = Rules::default();
        rules.read(&view, Path::new("/etc/sudoers"), DEPTH);
        let who = Who {
            name: b"dave".to_vec(),
            uid: "1001".into(),
            groups: vec![("1001".into(), b"dave".to_vec()), ("50".into(), b"web".to_vec())],
        };
        let matched =
            rules.rules.iter().filter(|rule| rules.matches(&rule.users, &who, DEPTH) || rule.runs_as(&who));
        matched.map(|rule| rule.line).collect()
    }

    #[test]
    fn rules_for_an_account() {
        assert_eq!(
            found("# dave ALL=ALL\nDefaults env_reset\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL) ALL\n"),
            [0_usize; 0]
        );
        assert_eq!(found("dave ALL=(ALL) NOPASSWD: ALL\n"), [1]);
        assert_eq!(found("#1001 ALL=ALL\n"), [1]);
        assert_eq!(found("erin, \\\n  dave ALL=ALL\n"), [1]);
        assert_eq!(found("%#50 ALL=ALL\n"), [1]);
        assert_eq!(found("ALL ALL=/sbin/halt\n"), [1]);
        assert_eq!(found("ALL, !dave ALL=/sbin/halt\n"), [0_usize; 0]);
        assert_eq!(found("ALL, ! %web ALL=/sbin/halt\n"), [0_usize; 0]);
        assert_eq!(found("User_Alias OPS = erin, dave : DEV = frank\nDEV ALL=ALL\nOPS ALL=ALL\n"), [3]);
        assert_eq!(found("User_Alias A = B : B = A\nA ALL=ALL\n"), [0_usize; 0], "aliases may be a circle");
        assert_eq!(found("@includedir /etc/sudoers.d\n"), [11]);
        assert_eq!(found("#includedir sudoers.d\n"), [11]);
        assert_eq!(found("@include /etc/sudoers\n"), [0_usize; 0], "a file may include itself");
        assert_eq!(found("erin ALL=(dave) NOPASSWD: /bin/bash\n"), [1]);
        assert_eq!(found("erin dave=(ALL) ALL\n"), [0_usize; 0], "a host of that name");
        assert_eq!(found("dave ALL=ALL \\"), [1]);
    }
}
