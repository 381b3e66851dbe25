//! Sections: named TOML files that say what to put into a jail. This file reads one; `profiles.rs` finds them.
//!
//! A typing error in a section must never become a jail that lacks something, so unknown keys, odd values and bytes that are
//! no UTF-8 are errors with file and line. The format for administrators is in `docs/sections.md`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use crate::entry::{EntryNeeds, Network};
use crate::error::{Error, Result};
use crate::text;

/// Where something stands: the file (or `built-in NAME.toml`) and the line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as the administrator would name it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A value and the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Counted from 1.
    pub line: usize,
}

/// A directory that the section wants, with its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Absolute path in the jail.
    pub path: String,
    /// Permission bits, sticky bit included.
    pub mode: u32,
}

/// A small file with content of the section's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFile {
    /// Absolute path in the jail.
    pub path: String,
    /// Its content.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

/// A symbolic link of the section's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLink {
    /// Absolute path in the jail.
    pub path: String,
    /// What it points to, written as it is.
    pub target: String,
}

/// One section, read and checked, its includes not yet followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The file's name without `.toml`.
    pub name: String,
    /// The file as the administrator would name it.
    pub file: String,
    /// One line for `jail-init -l`.
    pub description: String,
    /// Sections that come first.
    pub include: Vec<Located<String>>,
    /// Programs, looked up in the host's standard directories.
    pub commands: Vec<Located<String>>,
    /// Files, trees and globs that must be there.
    pub paths: Vec<Located<String>>,
    /// The same, and commands, but the host may lack them.
    pub optional: Vec<Located<String>>,
    /// Accounts whose lines are copied.
    pub users: Vec<Located<String>>,
    /// Groups whose lines are copied.
    pub groups: Vec<Located<String>>,
    /// Directories to make.
    pub directories: Vec<Located<Directory>>,
    /// Files to write.
    pub files: Vec<Located<OwnFile>>,
    /// Links to make.
    pub links: Vec<Located<OwnLink>>,
    /// Files that keep their set-uid or set-gid bits and file capabilities.
    pub setuid: Vec<Located<String>>,
    /// Device nodes, made only on request.
    pub devices: Vec<Located<String>>,
    /// Debian packages whose files are taken.
    pub packages: Vec<Located<String>>,
    /// Whether the packages that these depend on come along.
    pub dependencies: bool,
    /// Packages that do not come along, beside those that set a system up; a star at the end stands for any rest.
    pub stop: Vec<Located<String>>,
    /// The Debian package to install if one of the commands or paths is missing.
    pub package: Option<String>,
    /// The same for single commands or paths.
    pub hints: BTreeMap<String, String>,
    /// What the section needs from the entry.
    pub entry: EntryNeeds,
}

impl Section {
    /// The place of a line of this section.
    #[must_use]
    pub fn place(&self, line: usize) -> Place {
        Place { file: self.file.clone(), line }
    }

    /// The Debian package that brings a command or path of this section.
    #[must_use]
    pub fn package_for(&self, wanted: &str) -> Option<&str> {
        self.hints.get(wanted).or(self.package.as_ref()).map(String::as_str)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSection {
    #[serde(default)]
    description: String,
    #[serde(default)]
    include: Vec<Spanned<String>>,
    #[serde(default)]
    commands: Vec<Spanned<String>>,
    #[serde(default)]
    paths: Vec<Spanned<String>>,
    #[serde(default)]
    optional: Vec<Spanned<String>>,
    #[serde(default)]
    users: Vec<Spanned<String>>,
    #[serde(default)]
    groups: Vec<Spanned<String>>,
    #[serde(default)]
    directories: Vec<Spanned<RawDirectory>>,
    #[serde(default)]
    files: Vec<Spanned<RawFile>>,
    #[serde(default)]
    links: Vec<Spanned<RawLink>>,
    #[serde(default)]
    setuid: Vec<Spanned<String>>,
    #[serde(default)]
    devices: Vec<Spanned<String>>,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default)]
    dependencies: bool,
    #[serde(default)]
    stop: Vec<Spanned<String>>,
    package: Option<String>,
    #[serde(default)]
    hints: BTreeMap<String, String>,
    entry: Option<Spanned<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDirectory {
    path: String,
    #[serde(default = "mode_of_directories")]
    mode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: String,
    content: String,
    #[serde(default = "mode_of_files")]
    mode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    path: String,
    target: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    network: Option<Network>,
    tmp: Option<String>,
    #[serde(default)]
    env: Vec<String>,
}

fn mode_of_directories() -> String {
    "0755".to_owned()
}

fn mode_of_files() -> String {
    "0644".to_owned()
}

/// Reads one section. `file` is only for messages.
///
/// # Errors
/// The text is no UTF-8, no TOML, has an unknown key or a value that makes no sense.
pub fn parse(name: &str, file: &str, bytes: &[u8]) -> Result<Section> {
    let source = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Error::profile(format!("{file}:{line}: the file is not UTF-8 text")).hint("save it as UTF-8")
    })?;
    let raw: RawSection = toml::from_str(source).map_err(|error| describe(file, source, &error))?;
    Reader { file, source }.section(name, raw)
}

/// Turns toml's error into one sentence with file and line, and a guess at what was meant.
fn describe(file: &str, source: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map_or(1, |span| line_of(source, span.start));
    let message = error.message().trim().replace('\n', ", ");
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    let Some((key, rest)) = unknown else {
        return Error::profile(format!("{file}:{line}: {message}"));
    };
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let error = Error::profile(format!("{file}:{line}: unknown key '{key}'"));
    match text::did_you_mean(key, known.iter().copied()) {
        Some(meant) => error.hint(format!("did you mean '{meant}'?")),
        None => error.hint(format!("known here: {}", known.join(", "))),
    }
}

fn line_of(source: &str, offset: usize) -> usize {
    1 + source.bytes().take(offset).filter(|b| *b == b'\n').count()
}

/// Checks values, with the file at hand for messages.
struct Reader<'a> {
    file: &'a str,
    source: &'a str,
}

impl Reader<'_> {
    fn section(&self, name: &str, raw: RawSection) -> Result<Section> {
        let follows = raw.dependencies && !raw.packages.is_empty();
        Ok(Section {
            name: name.to_owned(),
            file: self.file.to_owned(),
            description: raw.description,
            include: self.words(raw.include)?,
            commands: self.commands(raw.commands)?,
            paths: self.paths(raw.paths)?,
            optional: self.each(raw.optional, |word| {
                // A bare word is a command, as in `commands`.
                if word.contains('/') { absolute(word) } else { not_empty(word, "a command") }
            })?,
            users: self.words(raw.users)?,
            groups: self.words(raw.groups)?,
            directories: self.each(raw.directories, |d| {
                Ok(Directory { mode: mode(&d.mode, 0o1777)?, path: absolute(d.path)? })
            })?,
            files: self.each(raw.files, |f| {
                // A set-uid file is only ever a copy of the host's, named in `setuid`.
                Ok(OwnFile { mode: mode(&f.mode, 0o777)?, path: absolute(f.path)?, content: f.content })
            })?,
            links: self.each(raw.links, |l| {
                Ok(OwnLink { path: absolute(l.path)?, target: not_empty(l.target, "a link's target")? })
            })?,
            setuid: self.paths(raw.setuid)?,
            devices: self.paths(raw.devices)?,
            dependencies: raw.dependencies,
            stop: self.stop(raw.stop, follows)?,
            packages: self.words(raw.packages)?,
            package: raw.package,
            hints: raw.hints,
            entry: self.entry(raw.entry)?,
        })
    }

    /// Checks each value; what is wrong with one is said with its line.
    fn each<T, U>(
        &self,
        values: Vec<Spanned<T>>,
        check: impl Fn(T) -> std::result::Result<U, String>,
    ) -> Result<Vec<Located<U>>> {
        values
            .into_iter()
            .map(|value| {
                let line = line_of(self.source, value.span().start);
                let value = check(value.into_inner()).map_err(|wrong| self.wrong(line, &wrong))?;
                Ok(Located { value, line })
            })
            .collect()
    }

    /// Only with packages whose dependencies are followed has it a meaning, and without one it is a mistake.
    fn stop(&self, stop: Vec<Spanned<String>>, follows: bool) -> Result<Vec<Located<String>>> {
        self.each(stop, |word| {
            let name = word.strip_suffix('*').unwrap_or(&word);
            if name.is_empty() || name.contains('*') {
                return Err(format!(
                    "'{word}' in stop is neither a package nor the beginning of one with a star"
                ));
            }
            if follows {
                Ok(word)
            } else {
                Err("stop is for 'packages' with 'dependencies = true'".to_owned())
            }
        })
    }

    fn words(&self, values: Vec<Spanned<String>>) -> Result<Vec<Located<String>>> {
        self.each(values, |word| not_empty(word, "a name"))
    }

    fn commands(&self, values: Vec<Spanned<String>>) -> Result<Vec<Located<String>>> {
        self.each(values, |word| {
            if word.contains('/') {
                return Err(format!(
                    "'{word}' in commands has a slash: commands are names, paths go into 'paths'"
                ));
            }
            not_empty(word, "a command")
        })
    }

    fn paths(&self, values: Vec<Spanned<String>>) -> Result<Vec<Located<String>>> {
        self.each(values, absolute)
    }

    fn entry(&self, raw: Option<Spanned<RawEntry>>) -> Result<EntryNeeds> {
        let Some(raw) = raw else { return Ok(EntryNeeds::default()) };
        let line = line_of(self.source, raw.span().start);
        let raw = raw.into_inner();
        if let Some(size) = &raw.tmp {
            if crate::entry::size_in_bytes(size).is_none() {
                return Err(self.wrong(line, &format!("tmp = \"{size}\" is no size such as \"256M\"")));
            }
        }
        Ok(EntryNeeds { network: raw.network, tmp: raw.tmp, env: raw.env })
    }

    fn wrong(&self, line: usize, what: &str) -> Error {
        Error::profile(format!("{}:{line}: {what}", self.file))
    }
}

fn not_empty(value: String, what: &str) -> std::result::Result<String, String> {
    if value.is_empty() { Err(format!("{what} is empty")) } else { Ok(value) }
}

fn absolute(path: String) -> std::result::Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("'{path}' does not begin with '/'"));
    }
    if path.contains('\0') {
        return Err("a path holds a NUL byte".to_owned());
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("'{path}' holds '..'"));
    }
    Ok(path)
}

fn mode(text: &str, most: u32) -> std::result::Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !most == 0 => Ok(mode),
        Ok(_) => Err(format!("mode \"{text}\" has bits that are not allowed here (at most {most:04o})")),
        Err(_) => Err(format!("mode \"{text}\" is not octal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Error {
        parse("x", "x.toml", text.as_bytes()).expect_err("must be refused")
    }

    #[test]
    fn every_key_is_read() {
        let section = parse(
            "git",
            "git.toml",
            br#"
description = "Git"
include = ["netbasics"]
commands = ["git"]
paths = ["/usr/lib/git-core", "/usr/lib/*/gconv"]
optional = ["/etc/gitconfig"]
users = ["root"]
groups = ["root"]
directories = [{ path = "/tmp", mode = "1777" }, { path = "/srv" }]
files = [{ path = "/etc/nsswitch.conf", content = "passwd: files\n" }]
links = [{ path = "/etc/mtab", target = "/proc/self/mounts" }]
setuid = ["/usr/bin/passwd"]
devices = ["/dev/null"]
packages = ["git"]
dependencies = true
stop = ["perl*"]
package = "git"
hints = { vim = "vim" }
[entry]
network = { connect = [443, 53] }
tmp = "256M"
env = ["EDITOR"]
"#,
        )
        .expect("valid");
        assert_eq!(section.directories[0].value.mode, 0o1777);
        assert_eq!(section.directories[1].value.mode, 0o755);
        assert_eq!(section.paths[1].line, 5);
        assert_eq!(section.package_for("vim"), Some("vim"));
        assert_eq!(section.package_for("git"), Some("git"));
        assert!(section.dependencies);
        assert_eq!(section.stop[0].value, "perl*");
        assert_eq!(section.entry.tmp.as_deref(), Some("256M"));
    }

    #[test]
    fn an_unknown_key_names_line_and_guess() {
        let error = error("description = \"x\"\nexecutabels = []\n");
        assert_eq!(error.message, "x.toml:2: unknown key 'executabels'");
        let error = super::parse("x", "x.toml", b"\n\ncomands = [\"ls\"]\n").expect_err("refused");
        assert_eq!(
            (error.message.as_str(), error.hint.as_deref()),
            ("x.toml:3: unknown key 'comands'", Some("did you mean 'commands'?"))
        );
        assert_eq!(error.exit_status(), 3);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_their_line() {
        assert_eq!(error("paths = [\n\"usr\"]").message, "x.toml:2: 'usr' does not begin with '/'");
        assert_eq!(error("paths = [\"/usr/../etc\"]").message, "x.toml:1: '/usr/../etc' holds '..'");
        assert!(error("commands = [\"/bin/ls\"]").message.contains("has a slash"));
        assert!(error("directories = [{ path = \"/x\", mode = \"9\" }]").message.contains("not octal"));
        assert!(error("directories = [{ path = \"/x\", mode = \"4755\" }]").message.contains("not allowed"));
        assert!(
            error("files = [{ path = \"/x\", content = \"\", mode = \"4755\" }]")
                .message
                .contains("not allowed")
        );
        assert!(error("packages = [\"x\"]\nstop = [\"y\"]").message.contains("'dependencies = true'"));
        let bare = error("packages = [\"x\"]\ndependencies = true\nstop = [\n\"*\"]");
        assert!(
            bare.message.starts_with("x.toml:4:") && bare.message.contains("neither a package"),
            "{bare:?}"
        );
        assert!(error("[entry]\ntmp = \"lots\"").message.contains("no size"));
        assert!(error("[entry]\nroot = \"writable\"").message.contains("unknown key 'root'"));
        assert!(error("[entry]\nnetwork = \"some\"").message.starts_with("x.toml:2:"));
    }

    #[test]
    fn bytes_that_are_no_utf8_name_their_line() {
        let error = parse("x", "x.toml", b"description = \"a\"\n# caf\xe9\n").expect_err("refused");
        assert_eq!(error.message, "x.toml:2: the file is not UTF-8 text");
    }
}
