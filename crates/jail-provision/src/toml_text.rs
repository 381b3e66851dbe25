//! TOML as we write it: files that an administrator reads, with comments that a serializer would not keep.

use std::fmt::Write as _;

/// A basic string.
#[must_use]
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list on one line.
#[must_use]
pub fn list<T: AsRef<str>>(words: &[T]) -> String {
    format!("[{}]", words.iter().map(|word| string(word.as_ref())).collect::<Vec<_>>().join(", "))
}

/// A key whose value is a list with a line for each word.
pub(crate) fn long_list<T: AsRef<str>>(key: &str, words: &[T]) -> String {
    let lines: String = words.iter().map(|word| list_line(word.as_ref())).collect();
    format!("{key} = [\n{lines}]\n")
}

/// One line of it.
pub(crate) fn list_line(word: &str) -> String {
    format!("    {},\n", string(word))
}

/// A directory that a section makes.
pub(crate) fn directory(path: &str, mode: u32) -> String {
    format!("[[directories]]\npath = {}\nmode = \"{mode:04o}\"\n", string(path))
}
