//! Where sections come from, and how a few names become an ordered list of sections with their includes.
//!
//! The administrator's directory wins over what is embedded in the program. As root, a section that others may write would
//! let them choose what root copies, so such a file is refused.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::section::{self, Place, Section};
use crate::text;

include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Where an administrator's own sections lie.
pub const ADMIN_DIR: &str = "/etc/jailwright/profiles";

/// No honest section comes near this.
const LARGEST: u64 = 1 << 20;

/// The places where sections are looked for.
#[derive(Debug, Clone)]
pub struct Profiles {
    dirs: Vec<PathBuf>,
    embedded: bool,
}

impl Profiles {
    /// The administrator's directory, then the shipped sections.
    #[must_use]
    pub fn standard() -> Self {
        Self { dirs: vec![PathBuf::from(ADMIN_DIR)], embedded: true }
    }

    /// Only one directory: for tests.
    #[must_use]
    pub fn only(dir: &Path) -> Self {
        Self { dirs: vec![dir.to_path_buf()], embedded: false }
    }

    /// Only what is embedded in the program.
    #[must_use]
    pub fn shipped() -> Self {
        Self { dirs: Vec::new(), embedded: true }
    }

    /// A directory that wins over all others (`jail-init -c DIR`).
    #[must_use]
    pub fn with_first(mut self, dir: &Path) -> Self {
        self.dirs.insert(0, dir.to_path_buf());
        self
    }

    /// Every section there is, by name; broken ones are an error.
    ///
    /// # Errors
    /// A directory or section cannot be read.
    pub fn list(&self) -> Result<Vec<Section>> {
        self.names()?.iter().map(|name| self.load(name, None)).collect()
    }

    /// The sections that were asked for and all they include: includes first, each once.
    ///
    /// # Errors
    /// Unknown section, include loop, or a section that cannot be read.
    pub fn resolve(&self, asked: &[String]) -> Result<Vec<Section>> {
        let mut closure = Closure { profiles: self, done: Vec::new(), open: Vec::new() };
        for name in asked {
            closure.visit(name, None)?;
        }
        Ok(closure.done)
    }

    /// The names of all sections, whether they can be read or not.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn names(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for dir in &self.dirs {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("read", dir, error)),
            };
            for entry in entries {
                let file = entry.map_err(|e| Error::io("read", dir, e))?.file_name();
                if let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".toml")) {
                    if is_name(name) {
                        names.insert(name.to_owned());
                    }
                }
            }
        }
        if self.embedded {
            names.extend(EMBEDDED.iter().map(|(name, _)| (*name).to_owned()));
        }
        Ok(names)
    }

    fn load(&self, name: &str, asked_at: Option<&Place>) -> Result<Section> {
        if is_name(name) {
            for dir in &self.dirs {
                let path = dir.join(format!("{name}.toml"));
                if let Some(bytes) = read_section(&path)? {
                    return section::parse(name, &text::encode(&path), &bytes);
                }
            }
            if let Some((_, text)) = EMBEDDED.iter().find(|(n, _)| *n == name && self.embedded) {
                return section::parse(name, &format!("built-in {name}.toml"), text.as_bytes());
            }
        }
        Err(self.unknown(name, asked_at))
    }

    fn unknown(&self, name: &str, asked_at: Option<&Place>) -> Error {
        let shown = text::encode(Path::new(name));
        let message = match asked_at {
            Some(place) => format!("{place}: there is no section '{shown}'"),
            None => format!("there is no section '{shown}'"),
        };
        let names = self.names().unwrap_or_default();
        let error = Error::profile(message);
        match text::did_you_mean(name, names.iter().map(String::as_str)) {
            Some(meant) => error.hint(format!("did you mean '{meant}'?")),
            None => error.hint("'jail-init -l' lists the sections"),
        }
    }
}

/// The depth-first walk over includes.
struct Closure<'a> {
    profiles: &'a Profiles,
    done: Vec<Section>,
    open: Vec<String>,
}

impl Closure<'_> {
    fn visit(&mut self, name: &str, asked_at: Option<&Place>) -> Result<()> {
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let mut round: Vec<&str> = self.open[start..].iter().map(String::as_str).collect();
            round.push(name);
            let at = asked_at.map(|place| format!("{place}: ")).unwrap_or_default();
            return Err(Error::profile(format!(
                "{at}sections include each other in a loop: {}",
                round.join(" → ")
            ))
            .hint("take one of these includes out"));
        }
        if self.done.iter().any(|section| section.name == name) {
            return Ok(());
        }
        let section = self.profiles.load(name, asked_at)?;
        self.open.push(name.to_owned());
        for include in &section.include {
            self.visit(&include.value, Some(&section.place(include.line)))?;
        }
        self.open.pop();
        self.done.push(section);
        Ok(())
    }
}

/// Letters, digits, `.`, `_`, `+`, `-`, and no leading dot: a name can never lead out of its directory.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

fn read_section(path: &Path) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let stat = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if rustix::process::geteuid().is_root() && (stat.uid() != 0 || stat.mode() & 0o022 != 0) {
        return Err(Error::refused(format!("others than root may write the section {}", text::quote(path)))
            .hint(format!("chown root:root and chmod go-w {}", text::quote(path))));
    }
    if stat.len() > LARGEST {
        return Err(Error::profile(format!("{}:1: the file is larger than 1 MiB", text::encode(path))));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(files: &[(&str, &str)]) -> (tempfile::TempDir, Profiles) {
        let dir = tempfile::tempdir().expect("scratch");
        for (name, text) in files {
            std::fs::write(dir.path().join(format!("{name}.toml")), text).expect("written");
        }
        let profiles = Profiles::only(dir.path());
        (dir, profiles)
    }

    fn asked(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn includes_come_first_and_once() {
        let (_dir, profiles) = profiles(&[
            ("a", "include = [\"b\", \"c\"]"),
            ("b", "include = [\"c\"]"),
            ("c", "commands = [\"ls\"]"),
        ]);
        let names: Vec<String> =
            profiles.resolve(&asked(&["a", "c"])).expect("resolves").into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["c", "b", "a"]);
    }

    #[test]
    fn a_loop_is_named_with_its_line() {
        let (dir, profiles) = profiles(&[("a", "include = [\"b\"]"), ("b", "\n\ninclude = [\n\"a\"]")]);
        let error = profiles.resolve(&asked(&["a"])).expect_err("a loop");
        let file = dir.path().join("b.toml");
        let expected = format!("{}:4: sections include each other in a loop: a → b → a", file.display());
        assert_eq!(error.message, expected);
        assert_eq!(error.exit_status(), 3);
    }

    #[test]
    fn an_unknown_section_is_guessed_and_no_name_leaves_the_directory() {
        let (_dir, profiles) = profiles(&[("basicshell", "")]);
        let error = profiles.resolve(&asked(&["basicshel"])).expect_err("unknown");
        assert_eq!(error.message, "there is no section 'basicshel'");
        assert_eq!(error.hint.as_deref(), Some("did you mean 'basicshell'?"));
        for name in ["../basicshell", "", "/etc/passwd", ".x", "a\nb"] {
            assert!(profiles.resolve(&asked(&[name])).is_err(), "{name:?}");
        }
    }

    #[test]
    fn root_refuses_a_section_that_others_may_write() {
        use std::os::unix::fs::PermissionsExt;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (dir, profiles) = profiles(&[("a", "")]);
        let file = dir.path().join("a.toml");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect("chmod");
        assert_eq!(profiles.resolve(&asked(&["a"])).expect_err("refused").exit_status(), 4);
    }

    #[test]
    fn every_shipped_section_is_sound() {
        let shipped = Profiles::shipped();
        for section in shipped.list().expect("all parse") {
            shipped.resolve(std::slice::from_ref(&section.name)).expect("includes exist");
            assert!(!section.description.is_empty(), "{} has a description", section.name);
        }
    }
}
