//! Files that are made once and then shared by every machine: whole, or not there.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jail_provision::digest::Digest;

use crate::Result;

/// Directories of one kind in the cache, each under a name that says what it was made from.
#[derive(Debug)]
pub(crate) struct Shelf<'a> {
    pub(crate) cache: &'a Path,
    pub(crate) kind: &'static str,
}

/// Nothing that was made so recently is cleared away: a machine may be about to open it.
const YOUNG: Duration = Duration::from_secs(24 * 3600);

impl Shelf<'_> {
    fn root(&self) -> PathBuf {
        self.cache.join("machines")
    }

    /// The directory that was made from `source`; made by `fill` if it is not there.
    pub(crate) fn get(&self, source: &[u8], fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let key = Digest::of(source).to_string();
        let dir = self.root().join(format!("{}-{}", self.kind, &key[..20]));
        if dir.exists() {
            return Ok(dir);
        }
        let new = self.root().join(format!("new-{}-{}", self.kind, std::process::id()));
        let doing = |path: &Path, error: std::io::Error| format!("cannot make '{}': {error}", path.display());
        // Of a process that had our number and was killed.
        if new.exists() {
            clear(&new);
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&new).map_err(|e| doing(&new, e))?;
        let made = fill(&new).and_then(|()| match std::fs::rename(&new, &dir) {
            // Somebody else was quicker, with the same content.
            Err(_) if dir.exists() => Ok(()),
            other => other.map_err(|e| doing(&dir, e)),
        });
        if new.exists() {
            clear(&new);
        }
        made?;
        self.clear_old(&dir);
        Ok(dir)
    }

    /// What was made from a state of things that is long gone. A machine that still runs has it open.
    fn clear_old(&self, current: &Path) {
        let Ok(entries) = std::fs::read_dir(self.root()) else { return };
        let prefixes = [format!("{}-", self.kind), format!("new-{}-", self.kind)];
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let old = entry
                .metadata()
                .ok()
                .and_then(|meta| meta.modified().ok())
                .is_some_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > YOUNG));
            if old && entry.path() != current && prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                clear(&entry.path());
            }
        }
    }
}

/// Removes a directory of plain files; what cannot be removed now is tried again next time.
fn clear(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        std::fs::remove_file(entry.path()).unwrap_or_default();
    }
    std::fs::remove_dir(dir).unwrap_or_default();
}

/// Writes a new file, readable by everybody.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let made =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).and_then(|file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            fill(&mut out)?;
            out.flush()
        });
    made.map_err(|error| format!("cannot write '{}': {error}", path.display()))
}

/// Says which state of a file something was made from.
pub(crate) fn stamp(path: &Path) -> Result<Vec<u8>> {
    let meta =
        std::fs::metadata(path).map_err(|error| format!("cannot look at '{}': {error}", path.display()))?;
    let text = format!(
        "{} {} {} {} {} {}\n",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime_nsec().wrapping_add(meta.mtime().wrapping_mul(1_000_000_000)),
        meta.ctime_nsec().wrapping_add(meta.ctime().wrapping_mul(1_000_000_000)),
    );
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_never_half() {
        let cache = tempfile::tempdir().expect("scratch");
        let shelf = Shelf { cache: cache.path(), kind: "tree" };
        let failed = shelf.get(b"one", |dir| {
            write(&dir.join("half"), |out| out.write_all(b"x"))?;
            Err("no".to_owned())
        });
        assert_eq!(failed.expect_err("failed"), "no");
        assert_eq!(
            std::fs::read_dir(cache.path().join("machines")).expect("there").count(),
            0,
            "nothing half is left"
        );
        let made = shelf.get(b"one", |dir| write(&dir.join("a"), |out| out.write_all(b"x"))).expect("made");
        let again = shelf.get(b"one", |_| panic!("made twice")).expect("found");
        assert_eq!(made, again);
        assert_ne!(shelf.get(b"two", |_| Ok(())).expect("made"), made);
    }
}
