//! The jail's passwd and group: who a number is must be one answer, inside and outside.
//!
//! Home and shell may differ in a jail. A number that is another user's on the host would give files of the one to the
//! other, and a second name for number 0 is how a root of one's own is planted.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::{Checker, Fault, Findings};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::manifest::What;

/// Larger than any account file; a jail's may not eat the memory.
const LONGEST: usize = 64 << 20;

impl Checker<'_> {
    /// Both files, in time that grows with their lines only.
    pub(super) fn accounts(&self) -> Result<Findings> {
        let mut findings = Findings::default();
        for file in ["/etc/passwd", "/etc/group"] {
            let path = Path::new(file);
            let ours = match self.manifest.get(path).map(|record| &record.what) {
                Some(What::Accounts { lines }) => lines.clone(),
                _ => BTreeMap::new(),
            };
            if ours.is_empty() && !self.jail.lstat(path).is_ok_and(|stat| stat.is_file()) {
                continue;
            }
            self.account_file(path, &ours, &mut findings)?;
        }
        Ok(findings)
    }

    fn account_file(
        &self,
        path: &Path,
        ours: &BTreeMap<String, String>,
        findings: &mut Findings,
    ) -> Result<()> {
        let content = match self.jail.read(path, LONGEST) {
            Ok(content) => content,
            // That it is missing is said where its record is looked at.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &self.jail.outside(path), error)),
        };
        let here = numbers(&content);
        for (name, line) in ours {
            match here.get(name.as_bytes()) {
                None => findings.add(path, Fault::Account, format!("the line of '{name}' is gone")),
                Some(now) if line.split(':').nth(2).map(str::as_bytes) != Some(now) => {
                    findings.add(
                        path,
                        Fault::Account,
                        format!("'{name}' has another number than it was given"),
                    );
                }
                Some(_) => {}
            }
        }
        if self.manifest.image.is_some() {
            // An image brings users of its own; what they are called on this host says nothing of them.
            return Ok(());
        }
        let host = self.host.read(path, LONGEST).map_err(|e| Error::io("read", path, e))?;
        let there = numbers(&host);
        for (name, number) in &here {
            let shown = String::from_utf8_lossy(name);
            match there.get(name) {
                Some(theirs) if theirs != number => {
                    findings.add(
                        path,
                        Fault::Account,
                        format!("'{shown}' has another number than on the host"),
                    );
                }
                None if *number == b"0" => {
                    findings.add(
                        path,
                        Fault::Account,
                        format!("'{shown}' has number 0, and is no account of the host"),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Each name's number; of a name that is there twice the first counts, as for everybody who looks it up.
fn numbers(content: &[u8]) -> HashMap<&[u8], &[u8]> {
    let mut numbers = HashMap::new();
    for line in content.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b':');
        if let (Some(name), Some(number)) = (fields.next().filter(|name| !name.is_empty()), fields.nth(1)) {
            numbers.entry(name).or_insert(number);
        }
    }
    numbers
}
