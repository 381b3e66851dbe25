//! The files of an installed Debian package, from dpkg's own lists; documentation is left out.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::text;

const INFO: &str = "/var/lib/dpkg/info";

/// What no program needs to run.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/man",
    "/usr/share/bug",
    "/usr/share/menu",
];

/// The files of a package (`name` or `name:arch`); `None` if it is not installed.
///
/// # Errors
/// dpkg's list cannot be read.
pub(crate) fn files(host: &dyn Host, name: &str) -> Result<Option<Vec<PathBuf>>> {
    if name.contains('/') || name.starts_with('.') {
        return Ok(None);
    }
    let plain = PathBuf::from(format!("{INFO}/{name}.list"));
    let list = if host.lstat(&plain).is_ok() { Some(plain) } else { with_architecture(host, name) };
    let Some(list) = list else { return Ok(None) };
    let bytes = host.read(&list, 64 << 20).map_err(|e| Error::io("read", &list, e))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::failed(format!("{} is not UTF-8 text", text::quote(&list))))?;
    let wanted =
        |path: &&str| path.starts_with('/') && !LEFT_OUT.iter().any(|dir| Path::new(path).starts_with(dir));
    Ok(Some(text.lines().filter(wanted).map(PathBuf::from).collect()))
}

/// `libc6` is listed as `libc6:amd64.list`.
fn with_architecture(host: &dyn Host, name: &str) -> Option<PathBuf> {
    let info = Path::new(INFO);
    let start = format!("{name}:");
    let names = host.read_dir(info).ok()?;
    let found =
        names.iter().filter_map(|n| n.to_str()).find(|n| n.starts_with(&start) && n.ends_with(".list"))?;
    Some(info.join(found))
}
