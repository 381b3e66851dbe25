//! Paths are bytes; terminals and JSON want text. The one place where the one becomes the other.
//!
//! A file name may hold a newline, an escape sequence that clears the screen, or bytes that are no UTF-8. Nothing of that
//! may reach a terminal as it is, and nothing of it may be lost on the way through the manifest.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A path for a message: in quotes, control characters and odd bytes as `\xHH`.
#[must_use]
pub fn quote(path: &Path) -> String {
    format!("'{}'", encode(path))
}

/// A path as reversible text: bytes that are no UTF-8 and control characters as `\xHH`, a backslash doubled.
#[must_use]
pub fn encode(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    if let Ok(text) = std::str::from_utf8(bytes) {
        if !text.chars().any(|c| c.is_control() || c == '\\') {
            return text.to_owned();
        }
    }
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    c.encode_utf8(&mut buffer).bytes().for_each(|b| push_hex(&mut out, b));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| push_hex(&mut out, *b));
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    write!(out, "\\x{byte:02x}").unwrap_or_default();
}

/// The path that [`encode`] was given; `None` if the text is not of its making.
#[must_use]
pub fn decode(text: &str) -> Option<PathBuf> {
    if !text.contains('\\') {
        return Some(PathBuf::from(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        match rest {
            [b'\\', tail @ ..] => {
                bytes.push(b'\\');
                rest = tail;
            }
            [b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = tail;
            }
            _ => return None,
        }
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// A word as a shell takes it, for a line that somebody may paste: whoever chose the word chooses no second command.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let shown = if word.chars().any(char::is_control) { encode(Path::new(word)) } else { word.to_owned() };
    format!("'{}'", shown.replace('\'', "'\\''"))
}

/// The reason of an I/O error without Rust's ` (os error 28)`, lower case.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// The candidate that a misspelt word was most likely meant to be.
#[must_use]
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&wrong, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().max(3) / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Damerau-Levenshtein distance (adjacent letters swapped count once, which is how people mistype).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_for_a_shell() {
        for (word, shown) in [
            ("/bin/sh", "/bin/sh"),
            ("", "''"),
            ("x; rm -rf ~", "'x; rm -rf ~'"),
            ("$(id)", "'$(id)'"),
            ("it's", "'it'\\''s'"),
            ("a\nb", "'a\\x0ab'"),
        ] {
            assert_eq!(shell_word(word), shown);
        }
    }

    #[test]
    fn any_name_comes_back() {
        for bytes in
            [&b"/usr/bin/ls"[..], b"/a\nb", b"/\xff\\x41", b"/\\", "/käse".as_bytes(), b"/\x1b[2J", b""]
        {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let text = encode(&path);
            assert_eq!(decode(&text), Some(path), "{text}");
            assert!(!text.chars().any(char::is_control));
        }
        assert_eq!(decode("\\q"), None);
        assert_eq!(decode("\\x4"), None);
    }

    #[test]
    fn words_are_guessed() {
        let names = ["basicshell", "extendedshell", "scp", "ssh"];
        assert_eq!(did_you_mean("basicshel", names), Some("basicshell"));
        assert_eq!(did_you_mean("Basicshell", names), Some("basicshell"));
        assert_eq!(did_you_mean("spc", names), Some("scp"));
        assert_eq!(did_you_mean("apache", names), None);
    }
}
