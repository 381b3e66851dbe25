//! How the tools speak: results on standard output, everything else on standard error, one sentence and a hint for an error.

use std::io::Write as _;
use std::process::ExitCode;

use jail_provision::error::Result;

/// Writes to standard output. A reader that went away (`| head`) is no error of ours.
pub(crate) fn out(text: &str) {
    std::io::stdout().lock().write_all(text.as_bytes()).unwrap_or_default();
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").unwrap_or_default();
}

/// Ends a tool: its own status, or the error's sentence and status.
#[must_use]
pub fn finish(tool: &str, result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(status) => status,
        Err(error) => {
            note(&format!("{tool}: {error}"));
            ExitCode::from(error.exit_status())
        }
    }
}

/// Writes a value as JSON.
pub(crate) fn json(value: &serde_json::Value) {
    out(&format!("{value:#}\n"));
}

/// A tool from its first call to its status. The files it makes must not depend on the umask of whoever calls it.
pub(crate) fn tool(name: &str, work: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    finish(name, work())
}

/// Another run works on the jail; we wait for it.
pub(crate) fn waiting(tool: &str, holder: &str) {
    note(&format!("{tool}: waiting for {holder}, which works on this jail"));
}

/// `1 file`, `12,345 files`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(number as u64))
}

/// `12,345`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `512 B`, `9.3 MB`, `1.2 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = bytes / (unit / 10);
            return if tenths >= 1000 {
                format!("{} {name}", tenths / 10)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

/// How long ago a time was, that is given in seconds since 1970: `3 min ago`.
pub(crate) fn ago(then: u64) -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (number, unit) = match now.saturating_sub(then) {
        seconds @ 0..=119 => (seconds, "s"),
        seconds @ 120..=7_199 => (seconds / 60, "min"),
        seconds @ 7_200..=172_799 => (seconds / 3_600, "h"),
        seconds => (seconds / 86_400, "days"),
    };
    format!("{number} {unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(12_345, "file"), "12,345 files");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(9_300_000), "9.3 MB");
        assert_eq!(size(205_100_000), "205 MB");
    }
}
