//! A command line into words, without a shell: quotes and backslashes, no expansion, and no doubt. Whatever a shell
//! would do more with is refused, so that a line never means something else here than it says.

/// Characters that mean something to a shell when they are not quoted.
const SPECIAL: &[u8] = b"|&;<>()$`*?[]{}!\n\r\0";

/// Splits a line.
///
/// # Errors
/// A line that a shell would have to interpret, with the reason.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(|b| matches!(b, b' ' | b'\t')).is_some() {}
        let Some(first) = rest.peek().copied() else { break };
        match first {
            b'~' => return Err(refused(b'~', "a home by name")),
            b'#' => return Err(refused(b'#', "a comment")),
            _ => words.push(word(&mut rest)?),
        }
    }
    match words.first() {
        None => Err("an empty command".to_owned()),
        Some(first) if first.contains(&b'=') => Err("it begins by setting a variable".to_owned()),
        Some(_) => Ok(words),
    }
}

type Bytes<I> = std::iter::Peekable<I>;

fn word(rest: &mut Bytes<impl Iterator<Item = u8>>) -> Result<Vec<u8>, String> {
    let mut word = Vec::new();
    while let Some(byte) = rest.next_if(|b| !matches!(b, b' ' | b'\t')) {
        match byte {
            b'\'' => single(rest, &mut word)?,
            b'"' => double(rest, &mut word)?,
            b'\\' => match rest.next() {
                None | Some(b'\n' | 0) => {
                    return Err("it ends in a backslash, or continues on another line".to_owned());
                }
                Some(byte) => word.push(byte),
            },
            byte if SPECIAL.contains(&byte) => return Err(refused(byte, "something that is not quoted")),
            byte => word.push(byte),
        }
    }
    Ok(word)
}

fn single(rest: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), String> {
    for byte in rest {
        match byte {
            b'\'' => return Ok(()),
            0 => break,
            byte => word.push(byte),
        }
    }
    Err("a quote that does not end".to_owned())
}

fn double(rest: &mut Bytes<impl Iterator<Item = u8>>, word: &mut Vec<u8>) -> Result<(), String> {
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return Ok(()),
            0 => break,
            b'$' | b'`' => return Err(refused(byte, "an expansion")),
            // Within double quotes a backslash quotes these alone (POSIX, 2.2.3).
            b'\\' => match rest.next_if(|b| matches!(b, b'$' | b'`' | b'"' | b'\\')) {
                Some(quoted) => word.push(quoted),
                None if rest.peek() == Some(&b'\n') => return Err("it continues on another line".to_owned()),
                None => word.push(byte),
            },
            byte => word.push(byte),
        }
    }
    Err("a quote that does not end".to_owned())
}

fn refused(byte: u8, meaning: &str) -> String {
    format!("'{}' would ask a shell for {meaning}", char::from(byte).escape_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line.as_bytes())
            .expect(line)
            .into_iter()
            .map(|w| String::from_utf8(w).expect("UTF-8"))
            .collect()
    }

    #[test]
    fn what_clients_send() {
        assert_eq!(words("scp -r -p -t there"), ["scp", "-r", "-p", "-t", "there"]);
        assert_eq!(words("git-upload-pack '/srv/it'\\''s.git'"), ["git-upload-pack", "/srv/it's.git"]);
        assert_eq!(words("git-receive-pack 'a'\\!'b'"), ["git-receive-pack", "a!b"]);
        assert_eq!(
            words("rsync --server -logDtpre.iLsfxCIvu --delete . two\\ words --opt=x"),
            ["rsync", "--server", "-logDtpre.iLsfxCIvu", "--delete", ".", "two words", "--opt=x"]
        );
        assert_eq!(words("a \"b \\\" \\\\ \\x '\" ''"), ["a", "b \" \\ \\x '", ""]);
        assert_eq!(words("/usr/lib/openssh/sftp-server"), ["/usr/lib/openssh/sftp-server"]);
    }

    #[test]
    fn whatever_a_shell_would_do_more_with() {
        let lines = [
            "a;b",
            "a|b",
            "a&b",
            "a&&b",
            "a>b",
            "a<b",
            "$(b)",
            "a $b",
            "a `b`",
            "(a)",
            "a *",
            "a ?",
            "a [b]",
            "a ~b",
            "~/a",
            "a #b",
            "A=b c",
            "a {b,c}",
            "! a",
            "a\nb",
            "a 'b",
            "a \"b",
            "a \"$b\"",
            "a \"`b`\"",
            "a\\",
            "",
            "  ",
            "a\\\nb",
            "a \"b\\\nc\"",
            "a\0b",
            "a '\0'",
        ];
        for line in lines {
            assert!(split(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_shell_agrees() {
        let lines = ["a 'b c'd\"e f\"\\ g", "x '' \"\" y", "a \"\\a\\$\\`\\\"\\\\\"", "a=b'c'"];
        for line in lines {
            let line = format!("printf '%s\\n' {line}");
            let out = std::process::Command::new("sh").args(["-c", &line]).output().expect("sh");
            let ours = words(&line).split_off(2).join("\n") + "\n";
            assert_eq!(String::from_utf8_lossy(&out.stdout), ours, "{line}");
        }
    }
}
