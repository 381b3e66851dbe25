//! Turns jailkit's `jk_init.ini` into sections of ours, and says line by line what could not be carried over and why.
//!
//! jailkit passes over in silence whatever the host lacks, and its files list the paths of many systems side by side. So
//! what a section names becomes `optional` here. Nothing is looked up: the same file gives the same sections anywhere.

pub mod ini;

use std::collections::{BTreeMap, BTreeSet};

use crate::profiles::is_name;
use crate::section;
use crate::toml_text;

use self::ini::{Ini, Key};

/// A section as it will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The name, which is the file's without `.toml`.
    pub name: String,
    /// The file's text.
    pub text: String,
}

/// Something that could not be carried over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands in the file, counted from 1; 0 if it is about more than one line.
    pub line: usize,
    /// The section it stands in, if any.
    pub section: Option<String>,
    /// What, and why.
    pub what: String,
}

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// In the order of the file.
    pub sections: Vec<Imported>,
    /// In the order of the file.
    pub notes: Vec<Note>,
}

/// Reads a `jk_init.ini`. `shipped` are names of sections that an include may mean besides those of the file.
#[must_use]
pub fn import(bytes: &[u8], shipped: &BTreeSet<String>) -> Import {
    let ini = ini::parse(bytes);
    let mut importer = Importer { names: names(&ini), shipped, import: Import::default() };
    for oddity in &ini.oddities {
        importer.note(oddity.line, None, &oddity.what);
    }
    for section in &ini.sections {
        importer.section(section);
    }
    importer.break_loops();
    importer.import.notes.sort();
    importer.import
}

/// The name of each section as a file can have it; two may become one, and then both stay apart by a number.
fn names(ini: &Ini) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for section in &ini.sections {
        let plain: String = section
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '-' })
            .take(90)
            .collect();
        let plain = plain.trim_start_matches(['.', '-']).to_owned();
        let plain = if plain.is_empty() { "section".to_owned() } else { plain };
        let name = (1..)
            .map(|n| if n == 1 { plain.clone() } else { format!("{plain}-{n}") })
            .find(|name| is_name(name) && taken.insert(name.clone()));
        names.extend(name.map(|name| (section.name.clone(), name)));
    }
    names
}

struct Importer<'a> {
    names: BTreeMap<String, String>,
    shipped: &'a BTreeSet<String>,
    import: Import,
}

/// Without what a terminal would act on.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { format!("\\x{:02x}", u32::from(c)) } else { c.to_string() })
        .collect()
}

/// The lists of a section being made.
#[derive(Default)]
struct Lists {
    description: String,
    include: Vec<String>,
    optional: Vec<String>,
    users: Vec<String>,
    groups: Vec<String>,
    directories: Vec<String>,
    devices: Vec<String>,
}

impl Importer<'_> {
    fn note(&mut self, line: usize, section: Option<&str>, what: impl Into<String>) {
        // The words are the file's, which need not be the administrator's own.
        self.import.notes.push(Note { line, section: section.map(printable), what: printable(&what.into()) });
    }

    fn section(&mut self, section: &ini::Section) {
        let Some(name) = self.names.get(&section.name).cloned() else { return };
        let own = Some(section.name.as_str());
        if name != section.name {
            let what = format!("the section is called '{name}' here: its name is the name of a file now");
            self.note(section.line, own, what);
        }
        let mut lists = Lists::default();
        for key in &section.keys {
            self.key(&section.name, key, &mut lists);
        }
        let text = lists.to_toml(&section.name);
        // What we write must be a section; if it should not be, that is said instead of leaving a broken file.
        match section::parse(&name, &format!("{name}.toml"), text.as_bytes()) {
            Ok(_) => self.import.sections.push(Imported { name, text }),
            Err(error) => self.note(section.line, own, format!("left out as a whole: {}", error.message)),
        }
    }

    fn key(&mut self, section: &str, key: &Key, lists: &mut Lists) {
        let words = ini::words(&key.value);
        match key.name.as_str() {
            "comment" => lists.description = key.value.split_whitespace().collect::<Vec<_>>().join(" "),
            "paths" | "executables" | "regularfiles" | "directories" | "libraries" => {
                self.paths(section, key, &words, &mut lists.optional);
            }
            "paths_w_owner" => {
                self.paths(section, key, &words, &mut lists.optional);
                let what = "paths_w_owner: the files come, but as root's: nothing in a jail belongs to a user but \
                            his home";
                self.note(key.line, Some(section), what);
            }
            "paths_w_setuid" => {
                self.paths(section, key, &words, &mut lists.optional);
                let what = "paths_w_setuid: the files come without their set-uid bits, which have no effect in a \
                            cell; for users of a plain chroot name them under 'setuid'";
                self.note(key.line, Some(section), what);
            }
            "users" => lists.users.extend(words),
            "groups" => lists.groups.extend(words),
            "devices" => self.absolute(section, key, &words, &mut lists.devices),
            "emptydirs" => self.absolute(section, key, &words, &mut lists.directories),
            "includesections" => self.includes(section, key, &words, &mut lists.include),
            // Any value but an empty one means yes to jailkit, "0" too.
            "need_logsocket" | "need_proc" if key.value.is_empty() => {}
            "need_logsocket" => {
                let what = "need_logsocket: not needed; logging is the cell's business, not the jail's";
                self.note(key.line, Some(section), what);
            }
            "need_proc" => {
                let what =
                    "need_proc: not needed, every cell has a /proc of its own; a plain chroot has none";
                self.note(key.line, Some(section), what);
            }
            other => self.note(key.line, Some(section), format!("{other}: jailkit knows no such key either")),
        }
    }

    /// Files, trees and globs by path; a bare word is a command.
    fn paths(&mut self, section: &str, key: &Key, words: &[String], into: &mut Vec<String>) {
        for word in words {
            let fits = match word.strip_prefix('/') {
                Some(_) => plain(word),
                None if word.contains('/') => Err("the path is relative"),
                None if word.len() > 1 && word.contains(['*', '?', '[']) => {
                    Err("a command cannot be a pattern")
                }
                None => Ok(word.clone()),
            };
            self.take(section, key, word, fits, into);
        }
    }

    fn absolute(&mut self, section: &str, key: &Key, words: &[String], into: &mut Vec<String>) {
        for word in words {
            let fits = if word.starts_with('/') { plain(word) } else { Err("the path is relative") };
            self.take(section, key, word, fits, into);
        }
    }

    fn take(
        &mut self,
        section: &str,
        key: &Key,
        word: &str,
        fits: Result<String, &str>,
        into: &mut Vec<String>,
    ) {
        match fits {
            Ok(word) if !into.contains(&word) => into.push(word),
            Ok(_) => {}
            Err(why) => {
                self.note(key.line, Some(section), format!("{}: '{word}' is left out: {why}", key.name))
            }
        }
    }

    fn includes(&mut self, section: &str, key: &Key, words: &[String], into: &mut Vec<String>) {
        for word in words {
            match self.names.get(word) {
                Some(name) => into.push(name.clone()),
                None if self.shipped.contains(word) => into.push(word.clone()),
                None => {
                    let what = format!("includesections: there is no section '{word}', so it is left out");
                    self.note(key.line, Some(section), what);
                }
            }
        }
    }

    /// Sections that include each other are an error here (and a traceback in jailkit): the include that closes the loop
    /// is taken out.
    fn break_loops(&mut self) {
        let sections = std::mem::take(&mut self.import.sections);
        let mut includes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for section in &sections {
            let parsed = section::parse(&section.name, "", section.text.as_bytes());
            let list = parsed.map(|s| s.include.into_iter().map(|i| i.value).collect()).unwrap_or_default();
            includes.insert(section.name.clone(), list);
        }
        for section in sections {
            let mut text = section.text;
            for include in includes.get(&section.name).cloned().unwrap_or_default() {
                if !leads_to(&include, &section.name, &includes) {
                    continue;
                }
                let what =
                    format!("includesections: '{include}' includes this section itself, so it is left out");
                self.note(0, Some(&section.name), what);
                // The list of includes comes first in what we write.
                text = text.replacen(&toml_text::list_line(&include), "", 1);
                if let Some(list) = includes.get_mut(&section.name) {
                    list.retain(|name| *name != include);
                }
            }
            self.import.sections.push(Imported { name: section.name, text });
        }
    }
}

fn leads_to(from: &str, to: &str, includes: &BTreeMap<String, Vec<String>>) -> bool {
    // A loop that does not pass `to` must not hold us; and a chain may be long, so no recursion.
    let mut seen = BTreeSet::new();
    let mut todo = vec![from.to_owned()];
    while let Some(name) = todo.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name.clone()) {
            todo.extend(includes.get(&name).into_iter().flatten().cloned());
        }
    }
    false
}

fn plain(path: &str) -> Result<String, &'static str> {
    if path.contains('\0') {
        return Err("it holds a NUL byte");
    }
    if path.split('/').any(|part| part == "..") {
        return Err("it holds '..'");
    }
    match path.trim_end_matches('/') {
        "" => Err("it is the whole host"),
        path => Ok(path.to_owned()),
    }
}

impl Lists {
    fn to_toml(&self, name: &str) -> String {
        let description = if self.description.is_empty() {
            format!("{name}, from jk_init.ini")
        } else {
            self.description.clone()
        };
        let mut out = format!("description = {}\n", toml_text::string(&description));
        let lists = [
            ("include", &self.include),
            ("optional", &self.optional),
            ("users", &self.users),
            ("groups", &self.groups),
            ("devices", &self.devices),
        ];
        for (key, words) in lists.into_iter().filter(|(_, words)| !words.is_empty()) {
            out.push_str(&toml_text::long_list(key, words));
        }
        for path in &self.directories {
            let mode = if matches!(path.as_str(), "/tmp" | "/var/tmp") { 0o1777 } else { 0o755 };
            out.push_str(&toml_text::directory(path, mode));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> BTreeSet<String> {
        BTreeSet::from(["basicshell".to_owned()])
    }

    fn one(text: &str) -> (section::Section, Vec<String>) {
        let import = import(text.as_bytes(), &shipped());
        let first = import.sections.first().expect("a section");
        let section = section::parse(&first.name, "x.toml", first.text.as_bytes()).expect("a sound section");
        (section, import.notes.into_iter().map(|note| format!("{}: {}", note.line, note.what)).collect())
    }

    fn values(list: &[section::Located<String>]) -> Vec<&str> {
        list.iter().map(|l| l.value.as_str()).collect()
    }

    #[test]
    fn every_key_of_jailkit_is_known() {
        let (section, notes) = one(
            "[git]\ncomment = Git\npaths = git, /usr/lib/git-core/, /lib*/x.so*,\nexecutables = /bin/sh\n\
             regularfiles = /etc/a\ndirectories = /etc/b\nlibraries = /lib/c.so\nusers = root, 33\ngroups = root\n\
             devices = /dev/null\nincludesections = basicshell\nemptydirs = /tmp, /srv/x\nneed_proc =\n",
        );
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!(section.description, "Git");
        let optional =
            ["git", "/usr/lib/git-core", "/lib*/x.so*", "/bin/sh", "/etc/a", "/etc/b", "/lib/c.so"];
        assert_eq!(values(&section.optional), optional);
        assert_eq!(values(&section.users), ["root", "33"]);
        assert_eq!(values(&section.groups), ["root"]);
        assert_eq!(values(&section.devices), ["/dev/null"]);
        assert_eq!(values(&section.include), ["basicshell"]);
        let directories: Vec<_> =
            section.directories.iter().map(|d| (d.value.path.as_str(), d.value.mode)).collect();
        assert_eq!(directories, [("/tmp", 0o1777), ("/srv/x", 0o755)]);
    }

    #[test]
    fn what_cannot_be_carried_over_is_said_with_its_line() {
        let (section, notes) = one(
            "[my section]\npaths = ../x, a/b, /usr/../etc, gi*, [, /\npaths_w_owner = /srv\npaths_w_setuid = /bin/ping\n\
             need_logsocket = 0\nneed_proc = 1\nincludesections = nosuch\ndevices = null\nhardlinks = 1\n",
        );
        assert_eq!(section.name, "my-section");
        assert_eq!(values(&section.optional), ["[", "/srv", "/bin/ping"]);
        let expected = [
            "1: the section is called 'my-section' here",
            "2: paths: '../x' is left out: the path is relative",
            "2: paths: '/' is left out: it is the whole host",
            "2: paths: '/usr/../etc' is left out: it holds '..'",
            "2: paths: 'a/b' is left out: the path is relative",
            "2: paths: 'gi*' is left out: a command cannot be a pattern",
            "3: paths_w_owner: the files come, but as root's",
            "4: paths_w_setuid: the files come without their set-uid bits",
            "5: need_logsocket: not needed",
            "6: need_proc: not needed",
            "7: includesections: there is no section 'nosuch'",
            "8: devices: 'null' is left out: the path is relative",
            "9: hardlinks: jailkit knows no such key either",
        ];
        assert_eq!(notes.len(), expected.len(), "{notes:#?}");
        for (note, expected) in notes.iter().zip(expected) {
            assert!(note.starts_with(expected), "{note:?} should begin with {expected:?}");
        }
    }

    #[test]
    fn a_loop_of_includes_is_opened() {
        let import = import(b"[a]\nincludesections = b\n[b]\nincludesections = c\n[c]\nincludesections = a, b\n[d]\nincludesections = d\n", &shipped());
        let dir = tempfile::tempdir().expect("scratch");
        for section in &import.sections {
            let file = dir.path().join(format!("{}.toml", section.name));
            std::fs::write(file, &section.text).expect("written");
        }
        let names: Vec<String> = import.sections.iter().map(|s| s.name.clone()).collect();
        crate::profiles::Profiles::only(dir.path()).resolve(&names).expect("no loop is left");
        assert_eq!(import.notes.len(), 3, "{:?}", import.notes);
    }

    #[test]
    fn whatever_the_bytes_every_section_is_sound() {
        let hostile: &[&[u8]] = &[
            b"[]\npaths = /x\n[.]\n[..]\n[a/b]\n[a b]\n[a-b]\n",
            b"[x]\ncomment = \"\"\"\n \\u0000 \x01\npaths = /a\"b, /c\\d, /\xff\nusers = \"\n",
            b"[\xc3\xa4\xc3\xb6]\npaths=/\0\n",
        ];
        for bytes in hostile {
            let import = import(bytes, &shipped());
            for section in &import.sections {
                section::parse(&section.name, "x", section.text.as_bytes()).expect("sound");
                assert!(is_name(&section.name), "{:?}", section.name);
            }
        }
    }
}
