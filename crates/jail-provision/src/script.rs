//! `#!` lines: which interpreter the kernel would start, and which program `env` would look for.

/// Where commands and `#!/usr/bin/env NAME` are looked for, in order; never in anybody's `$PATH`.
pub const STANDARD_DIRS: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What a `#!` line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shebang {
    /// The interpreter, as written.
    pub interpreter: Vec<u8>,
    /// The program that the interpreter, being `env`, will look for: a name, or a path if it holds a slash.
    pub env_program: Option<Vec<u8>>,
}

/// The kernel looks at this many bytes (BINPRM_BUF_SIZE).
pub const LINE_MAX: usize = 256;

/// Read the `#!` line that `start`, the first bytes of a file, begins with. None: no script, or none that the kernel
/// would start (no interpreter, or its name cut off at the end of the kernel's buffer).
pub fn shebang(start: &[u8]) -> Option<Shebang> {
    let start = &start[..start.len().min(LINE_MAX)];
    let rest = start.strip_prefix(b"#!")?;
    let (line, whole) = match rest.iter().position(|b| *b == b'\n') {
        Some(end) => (&rest[..end], true),
        None => (rest, start.len() < LINE_MAX),
    };
    // The kernel reads C strings: a NUL ends the line too.
    let (line, whole) = match line.iter().position(|b| *b == 0) {
        Some(end) => (&line[..end], true),
        None => (line, whole),
    };
    let line = trim(line);
    let end = line.iter().position(|b| is_blank(*b));
    if line.is_empty() || (end.is_none() && !whole) {
        return None;
    }
    let (interpreter, argument) = line.split_at(end.unwrap_or(line.len()));
    let argument = trim(argument);
    let is_env = interpreter.ends_with(b"/env") && !argument.is_empty();
    let env_program = if is_env { program_of_env(argument) } else { None };
    Some(Shebang { interpreter: interpreter.to_vec(), env_program })
}

/// The program in `env`'s arguments. The kernel hands over everything after the interpreter as ONE argument; only `-S`
/// (alone or behind other letters, as in `-vS`) makes env split it.
fn program_of_env(argument: &[u8]) -> Option<Vec<u8>> {
    if !argument.starts_with(b"-") {
        return (!argument.contains(&b'=')).then(|| argument.to_vec());
    }
    let text = split_string(argument)?;
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        match word.as_slice() {
            b"-u" | b"-C" | b"--unset" | b"--chdir" => {
                words.next();
            }
            b"-S" | b"--split-string" => {}
            w if w.starts_with(b"-") || w.contains(&b'=') => {}
            _ => return Some(word),
        }
    }
    None
}

/// What follows `-S`, `-vS`, `-iS`… or `--split-string=`.
fn split_string(argument: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = argument.strip_prefix(b"--split-string") {
        return rest
            .strip_prefix(b"=")
            .or_else(|| rest.first().is_some_and(|b| is_blank(*b)).then_some(rest));
    }
    let option_end = argument.iter().position(|b| !(b.is_ascii_alphanumeric() || *b == b'-'));
    let letters = &argument[..option_end.unwrap_or(argument.len())];
    let split = letters.iter().position(|b| *b == b'S')?;
    letters[1..split].iter().all(|b| matches!(b, b'v' | b'i' | b'0')).then(|| &argument[split + 1..])
}

/// Split as `env -S` does: blanks part words, quotes and backslashes keep them together, `#` at a word's start ends it.
fn words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = text.iter().copied();
    while let Some(b) = bytes.next() {
        match (quote, b) {
            (Some(q), _) if b == q => quote = None,
            (Some(b'\''), b'\\') => word.get_or_insert_default().push(b),
            (Some(_), b'\\') | (None, b'\\') => match bytes.next() {
                Some(b'_') if quote.is_none() => words.extend(word.take()),
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => break,
            },
            (None, b'\'' | b'"') => {
                quote = Some(b);
                word.get_or_insert_default();
            }
            (None, b'#') if word.is_none() => break,
            (None, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(b),
        }
    }
    words.extend(word);
    words
}

fn is_blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

fn trim(mut line: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = line {
        if !is_blank(*first) {
            break;
        }
        line = rest;
    }
    while let [rest @ .., last] = line {
        if !is_blank(*last) {
            break;
        }
        line = rest;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (String, Option<String>) {
        let found = shebang(line.as_bytes()).expect("a #! line");
        let text = |b: Vec<u8>| String::from_utf8(b).expect("text");
        (text(found.interpreter), found.env_program.map(text))
    }

    #[test]
    fn interpreters() {
        assert_eq!(read("#!/bin/sh\necho"), ("/bin/sh".into(), None));
        assert_eq!(read("#! /usr/bin/perl -w\n"), ("/usr/bin/perl".into(), None));
        assert_eq!(read("#!\t/bin/sh"), ("/bin/sh".into(), None));
        assert_eq!(read("#!/bin/sh\0junk\n"), ("/bin/sh".into(), None));
        assert_eq!(shebang(b"#!\n"), None);
        assert_eq!(shebang(b"# !/bin/sh\n"), None);
        assert_eq!(shebang(b""), None);
    }

    #[test]
    fn a_name_cut_off_at_the_kernels_buffer_is_no_interpreter() {
        let long = format!("#!/{}", "x".repeat(300));
        assert_eq!(shebang(long.as_bytes()), None);
        let argument = format!("#!/bin/sh {}", "x".repeat(300));
        assert_eq!(shebang(argument.as_bytes()).map(|s| s.interpreter), Some(b"/bin/sh".to_vec()));
    }

    #[test]
    fn programs_of_env() {
        let program = |line| read(line).1;
        assert_eq!(program("#!/usr/bin/env python3\n"), Some("python3".into()));
        assert_eq!(program("#!/usr/bin/env -S python3 -u\n"), Some("python3".into()));
        assert_eq!(program("#!/usr/bin/env -Spython3 -u\n"), Some("python3".into()));
        assert_eq!(program("#!/usr/bin/env -vS -i A=1 -u B perl -w\n"), Some("perl".into()));
        assert_eq!(program("#!/usr/bin/env --split-string=perl -w\n"), Some("perl".into()));
        assert_eq!(program("#!/usr/bin/env -S 'my prog' x\n"), Some("my prog".into()));
        assert_eq!(program("#!/usr/bin/env -S my\\_prog\n"), Some("my".into()));
        assert_eq!(program("#!/usr/bin/env /opt/x\n"), Some("/opt/x".into()));
        assert_eq!(program("#!/usr/bin/env\n"), None);
        // Without -S everything is one word, as the kernel hands it over: a program with a blank in its name.
        assert_eq!(program("#!/usr/bin/env python3 -u\n"), Some("python3 -u".into()));
    }
}
