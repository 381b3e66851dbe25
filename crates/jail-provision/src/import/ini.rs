//! Reads an ini file as jailkit's reader does, which is Python's ConfigParser, and never gives up on one.
//!
//! Where ConfigParser stops with a traceback (a key twice, a section twice, a line that is neither, bytes of another
//! encoding) the rest of the file is read and the line is named: a file that has served for years is worth reading to
//! its end. What ConfigParser does accept is read as it reads it: names of keys without regard to case, `=` or `:`,
//! values that go on in indented lines, comments by `#` and `;` on lines of their own, and a section `DEFAULT` whose keys
//! hold for all others.

/// A section: its keys in the order of the file, those of `DEFAULT` last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// As it stands in brackets.
    pub name: String,
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its keys.
    pub keys: Vec<Key>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// In lower case.
    pub name: String,
    /// Lines of one value are joined by a newline.
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// Something that is not as an ini file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oddity {
    /// Counted from 1.
    pub line: usize,
    /// What it is, and what was made of it.
    pub what: String,
}

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    /// In the order of the file.
    pub sections: Vec<Section>,
    /// In the order of the file.
    pub oddities: Vec<Oddity>,
}

/// The section whose keys hold for all others.
const DEFAULT: &str = "DEFAULT";

/// Reads a file. There is no input that it refuses.
#[must_use]
pub fn parse(bytes: &[u8]) -> Ini {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = Reader::default();
    for (line, bytes) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        reader.line(line, bytes);
    }
    reader.finish()
}

/// jailkit's lists are parted by commas; a value over several lines may do without at the end of one.
#[must_use]
pub fn words(value: &str) -> Vec<String> {
    value.split([',', '\n']).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[derive(Default)]
struct Reader {
    ini: Ini,
    defaults: Vec<Key>,
    at: At,
}

/// Where the reader is.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first section.
    #[default]
    Start,
    /// In `DEFAULT`.
    Defaults,
    /// In the section of this index.
    Section(usize),
}

impl Reader {
    fn odd(&mut self, line: usize, what: impl Into<String>) {
        self.ini.oddities.push(Oddity { line, what: what.into() });
    }

    fn line(&mut self, line: usize, bytes: &[u8]) {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                self.odd(line, "not UTF-8: read as Latin-1");
                bytes.iter().map(|b| char::from(*b)).collect()
            }
        };
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            return;
        }
        if text.starts_with([' ', '\t']) && self.continues(trimmed) {
            return;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            return self.header(line, rest);
        }
        match trimmed.split_once(['=', ':']) {
            Some((key, value)) => self.key(line, key.trim(), value.trim()),
            None => self.odd(line, format!("'{trimmed}' is neither a section nor a key: left out")),
        }
    }

    /// An indented line belongs to the value before it.
    fn continues(&mut self, text: &str) -> bool {
        let keys = match self.at {
            At::Start => return false,
            At::Defaults => Some(&mut self.defaults),
            At::Section(index) => self.ini.sections.get_mut(index).map(|section| &mut section.keys),
        };
        let Some(last) = keys.and_then(|keys| keys.last_mut()) else { return false };
        last.value.push('\n');
        last.value.push_str(text);
        true
    }

    fn header(&mut self, line: usize, rest: &str) {
        let Some((name, _)) = rest.rsplit_once(']') else {
            return self.odd(line, format!("'[{rest}' has no closing bracket: left out"));
        };
        if name == DEFAULT {
            self.at = At::Defaults;
            return;
        }
        let known = self.ini.sections.iter().position(|section| section.name == name);
        if let Some(index) = known {
            self.odd(line, format!("section '{name}' stands here a second time: both were joined"));
            self.at = At::Section(index);
            return;
        }
        self.at = At::Section(self.ini.sections.len());
        self.ini.sections.push(Section { name: name.to_owned(), line, keys: Vec::new() });
    }

    fn key(&mut self, line: usize, name: &str, value: &str) {
        let key = Key { name: name.to_lowercase(), value: value.to_owned(), line };
        let keys = match self.at {
            At::Start => {
                return self.odd(line, format!("'{name}' stands before the first section: left out"));
            }
            At::Defaults => Some(&mut self.defaults),
            At::Section(index) => self.ini.sections.get_mut(index).map(|section| &mut section.keys),
        };
        let Some(keys) = keys else { return };
        let twice = keys.iter().position(|known| known.name == key.name);
        match twice.and_then(|index| keys.get_mut(index)) {
            Some(known) => {
                *known = key;
                self.odd(line, format!("'{name}' stands here a second time: the later value holds"));
            }
            None => keys.push(key),
        }
    }

    fn finish(mut self) -> Ini {
        for section in &mut self.ini.sections {
            for default in &self.defaults {
                if !section.keys.iter().any(|key| key.name == default.name) {
                    section.keys.push(default.clone());
                }
            }
        }
        self.ini
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(ini: &'a Ini, section: &str, key: &str) -> Option<&'a str> {
        let section = ini.sections.iter().find(|s| s.name == section)?;
        section.keys.iter().find(|k| k.name == key).map(|k| k.value.as_str())
    }

    #[test]
    fn what_configparser_reads_is_read_alike() {
        let ini = parse(
            b"\xef\xbb\xbf# a comment\r\n[DEFAULT]\nusers = root\n[git]\nComment: Git = version control\n\
              paths = git,\n\t/usr/lib/git-core,\n# between\n  /etc/gitconfig\nempty =\n[ssh]\nusers = dave ; not a comment\n",
        );
        assert_eq!(ini.oddities, []);
        assert_eq!(value(&ini, "git", "comment"), Some("Git = version control"));
        assert_eq!(value(&ini, "git", "paths"), Some("git,\n/usr/lib/git-core,\n/etc/gitconfig"));
        assert_eq!(value(&ini, "git", "empty"), Some(""));
        assert_eq!(value(&ini, "git", "users"), Some("root"));
        assert_eq!(value(&ini, "ssh", "users"), Some("dave ; not a comment"));
        assert_eq!(ini.sections[0].line, 4);
    }

    #[test]
    fn what_configparser_dies_of_is_named_with_its_line() {
        let ini = parse(
            b"stray = 1\n[a]\npaths = /x\npaths = /y\nnonsense\n[b\n[a]\nusers = root\ncomment = caf\xe9 100%\n",
        );
        let odd: Vec<(usize, &str)> = ini.oddities.iter().map(|o| (o.line, o.what.as_str())).collect();
        assert_eq!(
            odd,
            [
                (1, "'stray' stands before the first section: left out"),
                (4, "'paths' stands here a second time: the later value holds"),
                (5, "'nonsense' is neither a section nor a key: left out"),
                (6, "'[b' has no closing bracket: left out"),
                (7, "section 'a' stands here a second time: both were joined"),
                (9, "not UTF-8: read as Latin-1"),
            ]
        );
        assert_eq!(value(&ini, "a", "paths"), Some("/y"));
        assert_eq!(value(&ini, "a", "users"), Some("root"));
        assert_eq!(value(&ini, "a", "comment"), Some("café 100%"));
    }

    #[test]
    fn nothing_is_refused() {
        for bytes in [&b""[..], b"\n", b"\xff\xfe[\0a\0]\0", b"[]\n=\n", b"   x\n[a]\n  = \n", b"[DEFAULT\n"]
        {
            let ini = parse(bytes);
            let lines = bytes.split(|b| *b == b'\n').count();
            assert!(ini.oddities.iter().all(|odd| (1..=lines).contains(&odd.line)), "{ini:?}");
        }
    }
}
