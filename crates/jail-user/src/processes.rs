//! Which users have processes running now: one look through /proc for any number of users.

use std::collections::HashMap;
use std::path::Path;

/// Processes by uid: their number and one of them, for the message.
#[derive(Debug, Default)]
pub struct Running(HashMap<u32, (usize, String)>);

impl Running {
    /// Looks through /proc.
    #[must_use]
    pub fn look(proc: &Path) -> Self {
        let mut running = Self::default();
        let Ok(listing) = std::fs::read_dir(proc) else { return running };
        for entry in listing.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
                continue;
            };
            // A process that ended meanwhile has no status any more.
            let Ok(status) = std::fs::read(entry.path().join("status")) else { continue };
            running.add(pid, &String::from_utf8_lossy(&status));
        }
        running
    }

    fn add(&mut self, pid: &str, status: &str) {
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        if field("State:").is_some_and(|state| state.starts_with(['Z', 'X'])) {
            return;
        }
        let command = field("Name:").unwrap_or("?");
        // Real, effective, saved and file system uid: any of them can write to the home.
        let mut uids: Vec<u32> =
            field("Uid:").unwrap_or_default().split_whitespace().filter_map(|w| w.parse().ok()).collect();
        uids.sort_unstable();
        uids.dedup();
        for uid in uids {
            let seen = self
                .0
                .entry(uid)
                .or_insert_with(|| (0, format!("{} (process {pid})", command.escape_debug())));
            seen.0 += 1;
        }
    }

    /// What runs as that uid: `bash (process 12) and 3 more`.
    #[must_use]
    pub fn of(&self, uid: u32) -> Option<String> {
        let (count, first) = self.0.get(&uid)?;
        Some(match count {
            1 => first.clone(),
            more => format!("{first} and {} more", more - 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zombies_do_not_count_and_each_uid_does() {
        let mut running = Running::default();
        running.add("5", "Name:\tsh\nState:\tS (sleeping)\nUid:\t60001\t0\t0\t0\n");
        running.add("6", "Name:\tsleep\nState:\tS (sleeping)\nUid:\t60001\t60001\t60001\t60001\n");
        running.add("7", "Name:\tgone\nState:\tZ (zombie)\nUid:\t60002\t60002\t60002\t60002\n");
        assert_eq!(running.of(60001).as_deref(), Some("sh (process 5) and 1 more"));
        assert_eq!(running.of(60002), None);
    }
}
