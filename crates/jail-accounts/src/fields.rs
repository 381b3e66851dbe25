//! How glibc's `files` backend cuts account files into lines and fields, so that we see the accounts that it sees.
//!
//! Where glibc is lax in a way that could make one account look like another (a uid that wraps round, a NUL that
//! hides the rest of a line), the line is skipped instead.

/// The lines that can hold an entry: no blank ones, comments or lines with a NUL; leading blanks and the newline gone.
pub(crate) fn candidate_lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|b| *b == b'\n').map(trim_start).filter(|line| is_candidate(line))
}

/// Whether a trimmed line may hold an entry; NIS lines (`+`, `-`) are for nss_compat and are not looked up by `files`.
pub(crate) fn is_candidate(line: &[u8]) -> bool {
    match line.first() {
        None | Some(b'#' | b'+' | b'-' | b':') => false,
        Some(_) => !line.contains(&0),
    }
}

/// A line without the white space that C's `isspace` knows at its start.
pub(crate) fn trim_start(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|b| is_space(**b)).count();
    line.get(blanks..).unwrap_or_default()
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// A numeric id as `strtoul` reads it, except that a minus sign and a value above 32 bits are no id.
pub(crate) fn id(field: &[u8]) -> Option<u32> {
    let field = trim_start(field);
    let digits = field.strip_prefix(b"+").unwrap_or(field);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u32::from(byte - b'0')),
        _ => None,
    })
}
