//! Writing the account files of the host and of a jail: each file is read once and written at most once.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use jail_accounts::lock::{AccountsLock, PATIENCE};
use jail_accounts::placement;
use jail_accounts::replace::{self, Fresh, Original};
use jail_accounts::table::Table;
use jail_provision::state::State;

use crate::dir;
use crate::host::Host;
use crate::jail::Jail;
use crate::trouble::{Trouble, cannot, quoted};
use crate::view;

/// The host's account files, under lock, to be edited.
#[derive(Debug)]
pub struct Books<'a> {
    /// passwd.
    pub passwd: Table<'a>,
    /// group.
    pub group: Table<'a>,
    /// gshadow, where there is one.
    pub gshadow: Option<Table<'a>>,
}

/// Lets `edit` change the host's files and writes what it changed; group before passwd, so that an account that has
/// our shell is in the group that sshd confines.
pub fn edit_host<T>(
    host: &Host,
    edit: impl FnOnce(&mut Books<'_>) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let etc = dir::open_trusted(&host.etc)?;
    let _lock = AccountsLock::take(etc.as_fd(), PATIENCE)?;
    let read = |name: &str| view::read(&etc, &host.etc, name);
    let missing =
        |name: &str| Trouble::failed(format!("there is no {}", quoted(host.etc.join(name).as_os_str())));
    let passwd = read("passwd")?.ok_or_else(|| missing("passwd"))?;
    let group = read("group")?.ok_or_else(|| missing("group"))?;
    let gshadow = read("gshadow")?;
    let mut books = Books {
        passwd: Table::passwd(&passwd.bytes),
        group: Table::group(&group.bytes),
        gshadow: gshadow.as_ref().map(|file| Table::gshadow(&file.bytes)),
    };
    let result = edit(&mut books)?;
    let write = |name: &str, table: &Table<'_>, old: &Original| -> Result<bool, Trouble> {
        if !table.is_changed() {
            return Ok(false);
        }
        replace::keep_backup(etc.as_fd(), name, old)
            .and_then(|()| {
                replace::replace(etc.as_fd(), name, &table.bytes(), Some(old), Fresh { mode: 0o600 })
            })
            .map_err(|error| cannot(error.what, host.etc.join(&error.name))(error.source))?;
        Ok(true)
    };
    let mut wrote = write("group", &books.group, &group)?;
    if let (Some(table), Some(old)) = (&books.gshadow, &gshadow) {
        wrote |= write("gshadow", table, old)?;
    }
    wrote |= write("passwd", &books.passwd, &passwd)?;
    if wrote {
        flush_caches(host);
    }
    Ok(result)
}

/// Lets `edit` change a file of our settings: from what is in it to what is to be in it, `None` if that is the same.
/// Under the lock of the account files: runs on different jails share it.
pub fn edit_settings(
    host: &Host,
    file: &str,
    edit: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>,
) -> Result<(), Trouble> {
    let etc = dir::open_trusted(&host.etc)?;
    let _lock = AccountsLock::take(etc.as_fd(), PATIENCE)?;
    let parent = host.config.parent().unwrap_or(&host.etc);
    let name = host.config.strip_prefix(parent).unwrap_or(&host.config);
    let base = dir::open_trusted(parent)?;
    let config = dir::open_trusted_below(base.as_fd(), parent, name, true)?
        .ok_or_else(|| Trouble::failed(format!("cannot make {}", quoted(host.config.as_os_str()))))?;
    let old = view::read(&config, &host.config, file)?;
    let Some(new) = edit(old.as_ref().map(|old| old.bytes.as_slice())) else { return Ok(()) };
    replace::replace(config.as_fd(), file, &new, old.as_ref(), Fresh { mode: 0o644 })
        .map_err(|error| cannot(error.what, host.config.join(&error.name))(error.source))
}

/// Lets `edit` change who is in which jail by our own file, for homes that stay where they are.
pub fn edit_placements(host: &Host, edit: impl FnOnce(&mut Table<'_>)) -> Result<(), Trouble> {
    edit_settings(host, placement::FILE, |old| {
        let mut table = placement::table(old.unwrap_or(placement::HEAD));
        edit(&mut table);
        table.is_changed().then(|| table.bytes())
    })
}

/// Who is in which jail by our own file, to be looked at.
pub fn read_placements(host: &Host) -> Result<Vec<u8>, Trouble> {
    let path = host.config.join(placement::FILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(cannot("read", &path)(error)),
    }
}

/// A jail's account files, to be edited.
#[derive(Debug)]
pub struct JailBooks<'a> {
    /// Its passwd.
    pub passwd: Table<'a>,
    /// Its group.
    pub group: Table<'a>,
}

/// The same for a jail, under the lock of those who provision it: they write these files too.
pub fn edit_jail<T>(
    host: &Host,
    jail: &Jail,
    edit: impl FnOnce(&mut JailBooks<'_>) -> T,
) -> Result<T, Trouble> {
    let _lock = State::at(&host.state.join(&jail.name), &jail.name)
        .lock(&mut |holder| complain!("jail-user: waiting for {holder}"))
        .map_err(|error| Trouble::failed(error.to_string()))?;
    let path = jail.path.join("etc");
    let passwd = view::read(&jail.etc, &path, "passwd")?;
    let group = view::read(&jail.etc, &path, "group")?;
    let bytes = |file: &Option<Original>| file.as_ref().map(|file| file.bytes.clone()).unwrap_or_default();
    let (passwd_bytes, group_bytes) = (bytes(&passwd), bytes(&group));
    let mut books = JailBooks { passwd: Table::passwd(&passwd_bytes), group: Table::group(&group_bytes) };
    let result = edit(&mut books);
    for (name, table, old) in [("group", &books.group, &group), ("passwd", &books.passwd, &passwd)] {
        if table.is_changed() {
            replace::replace(jail.etc.as_fd(), name, &table.bytes(), old.as_ref(), Fresh { mode: 0o644 })
                .map_err(|error| cannot(error.what, path.join(&error.name))(error.source))?;
        }
    }
    Ok(result)
}

/// Tells nscd and sssd to look again. They do so on their own after a while, so a failure is no failure of ours.
fn flush_caches(host: &Host) {
    for (program, arguments) in &host.flush {
        let run = Command::new(program)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if let Err(error) = run {
            complain!("jail-user: note: cannot run {}: {error}", quoted(program.as_os_str()));
        }
    }
}
