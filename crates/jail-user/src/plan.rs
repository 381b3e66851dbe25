//! What jailing one account would do: decided from what was read, before anything is written.
//!
//! A plan is a [`Record`]; the same value is the journal, the `--dry-run` and what a release goes by.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::{convention, passwd, placement, table};

use crate::dir;
use crate::home::{self, Place};
use crate::host::{Host, LoginDefs};
use crate::jail::Jail;
use crate::manager;
use crate::processes::Running;
use crate::record::{Home, JailGroup, JailLine, Origin, Phase, Record};
use crate::text::Text;
use crate::trouble::{Trouble, cannot, quoted, quoted_bytes};
use crate::view::View;

/// The host group whose members sshd confines (share/ssh).
pub const JAILED: &[u8] = b"jailed";

/// What becomes of a home that is not in the jail yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeChoice {
    /// A new one is made from the skeleton.
    Make,
    /// It is moved.
    Move,
    /// It stays and the cell mounts it.
    Bind,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The home.
    pub home: HomeChoice,
    /// The shell in the jail, if one was named.
    pub shell: Option<PathBuf>,
    /// Move homes of users who have processes, and homes that are not quite the user's.
    pub force: bool,
}

/// Everything that planning reads.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The host.
    pub host: &'a Host,
    /// The jail.
    pub jail: &'a Jail,
    /// The host's accounts.
    pub view: &'a View<'a>,
    /// The host's passwd, line by line.
    pub passwd: &'a table::Table<'a>,
    /// The jail's passwd, line by line.
    pub jail_passwd: &'a table::Table<'a>,
    /// The jail's accounts.
    pub jail_view: &'a View<'a>,
    /// Settings.
    pub defs: LoginDefs,
    /// The number that the group `jailed` has or will have.
    pub jailed_gid: u32,
    /// Who has processes.
    pub running: &'a Running,
    /// Mount points of the host.
    pub mounts: &'a [PathBuf],
    /// The records that there are, by name.
    pub records: &'a HashMap<&'a [u8], &'a Record>,
    /// Our own file of who is in which jail.
    pub placements: &'a [u8],
}

/// A plan for one account.
#[derive(Debug)]
pub struct Planned {
    /// What the account's record will be.
    pub record: Record,
    /// The account's passwd line that this was planned for.
    pub line: Text,
    /// Whether anything has to be done.
    pub changes: bool,
    /// The mode of a new home.
    pub new_home: home::NewHome,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// Plans for one account, or says why it is refused.
pub fn account(scene: &Scene<'_>, wish: &Wish, user: &OsStr) -> Result<Planned, Trouble> {
    let name = user.as_bytes();
    let entry = find(scene, user)?;
    refuse_system_accounts(scene, entry)?;
    let line = scene
        .passwd
        .line(name)
        .ok_or_else(|| Trouble::failed(format!("passwd has no line of {}", quoted(user))))?;
    let residence = residence(scene, wish, entry)?;
    // A record of an account that somebody has taken out of the jail by hand says nothing any more.
    let is_bound = |old: &Record| old.home == Home::Bound && old.line_after.0 == line;
    let old = scene.records.get(name).copied().filter(|old| residence.is_jailed || is_bound(old));
    let home = home(scene, wish, entry, &residence, old)?;
    let placed = refuse_other_placement(scene, entry, &home, &residence.inner)?;

    let shell = inner_shell(scene, wish, entry, &residence)?;
    let jail_line = jail_line(scene, entry, &residence.inner, &shell, old)?;
    let (jail_groups, groups_missing) = jail_groups(scene, entry, old)?;
    let line_after = line_after(scene, entry, line, &home, &residence.inner)?;

    let in_jailed = is_in_jailed(scene, name);
    let user_text = Text::from(name);
    let with_systemd = manager::is_present(scene.host);
    let shut = !with_systemd || manager::is_shut(scene.host, entry.uid, &user_text);
    let record = Record {
        uid: entry.uid,
        phase: Phase::Adding,
        line_before: old.map_or_else(|| Text::from(line), |old| old.line_before.clone()),
        line_after: line_after.into(),
        inner_home: residence.inner.clone().into(),
        home,
        jail_line,
        jail_groups,
        joined_jailed: !in_jailed || old.is_some_and(|old| old.joined_jailed),
        user_manager: match old.and_then(|old| old.user_manager) {
            Some(was) => Some(was),
            None => with_systemd.then(|| manager::plan(scene.host, entry.uid, &user_text)),
        },
        user: user_text,
        origin: None,
    };
    let written = scene.jail_passwd.text(name) == Some(record.jail_line.after.0.as_slice());
    let home_there = match record.home {
        Home::Bound => placed,
        _ => residence.is_jailed && residence.home_exists,
    };
    let changes = !(record.line_after.0 == line
        && written
        && !groups_missing
        && in_jailed
        && shut
        && home_there
        && old.is_some());
    Ok(Planned {
        changes,
        new_home: home::NewHome { uid: entry.uid, gid: entry.gid, mode: scene.defs.home_mode },
        warnings: warnings(scene, wish, entry, &record),
        line: line.into(),
        record,
    })
}

/// Plans to take an account from one jail to another, home and all. It is a plan as any other, with the home in the old
/// jail as the one to be moved; what it was before any jail is in the old record.
pub fn relocation(
    scene: &Scene<'_>,
    wish: &Wish,
    user: &OsStr,
    old_jail: &Path,
    old: &Record,
) -> Result<Planned, Trouble> {
    let name = user.as_bytes();
    let entry = find(scene, user)?;
    refuse_system_accounts(scene, entry)?;
    let line = scene.passwd.line(name).unwrap_or_default();
    if line != old.line_after.0 || entry.uid != old.uid {
        return Err(Trouble::failed(format!(
            "the passwd line of {} was changed since it was jailed",
            quoted(user)
        ))
        .hint("run jail-user on its present jail first, or --release it"));
    }
    let inner = old.inner_home.as_path();
    let from = old_jail.join(inner.strip_prefix("/").unwrap_or(inner));
    let home = match &old.home {
        Home::Bound => Home::Bound,
        _ => Home::Moved { from: from.clone().into() },
    };
    if home != Home::Bound {
        refuse_unmovable(scene, wish, entry, &from, inner)?;
    }
    let line_after = line_after(scene, entry, line, &home, inner)?;
    let shell = match &wish.shell {
        Some(shell) => scene.jail.check_shell(shell).map(|()| shell.clone())?,
        None => {
            let before = passwd::parse(&old.jail_line.after.0).map(|entry| entry.shell).unwrap_or_default();
            scene.jail.default_shell(before)?
        }
    };
    let in_jailed = is_in_jailed(scene, name);
    let user_text = Text::from(name);
    let new_manager = old.user_manager.is_none() && manager::is_present(scene.host);
    let record = Record {
        uid: entry.uid,
        phase: Phase::Adding,
        line_before: line.into(),
        line_after: line_after.into(),
        inner_home: old.inner_home.clone(),
        home,
        jail_line: jail_line(scene, entry, inner, &shell, None)?,
        jail_groups: jail_groups(scene, entry, None)?.0,
        joined_jailed: !in_jailed,
        user_manager: new_manager.then(|| manager::plan(scene.host, entry.uid, &user_text)),
        user: user_text,
        origin: Some(Box::new(Origin { jail: old_jail.to_owned().into(), record: old.clone() })),
    };
    Ok(Planned {
        changes: true,
        new_home: home::NewHome { uid: entry.uid, gid: entry.gid, mode: scene.defs.home_mode },
        warnings: warnings(scene, wish, entry, &record),
        line: line.into(),
        record,
    })
}

/// The host's passwd line of an account that is in this jail.
fn line_after(
    scene: &Scene<'_>,
    entry: &passwd::Entry<'_>,
    line: &[u8],
    home: &Home,
    inner: &Path,
) -> Result<Vec<u8>, Trouble> {
    let new_home = match home {
        Home::Bound => entry.home.to_vec(),
        _ => [scene.jail.path.as_os_str().as_bytes(), b"/.", inner.as_os_str().as_bytes()].concat(),
    };
    table::with_home_and_shell(line, &new_home, scene.host.login_shell.as_os_str().as_bytes()).ok_or_else(
        || {
            Trouble::failed(format!(
                "the home or shell of {} cannot be written in passwd",
                quoted_bytes(entry.name)
            ))
        },
    )
}

fn is_in_jailed(scene: &Scene<'_>, name: &[u8]) -> bool {
    scene.view.group_id(JAILED).is_some_and(|gid| scene.view.groups_of(name).contains(&gid))
}

fn in_another_jail(entry: &passwd::Entry<'_>, jail: &[u8]) -> Trouble {
    Trouble::failed(format!("{} is in the jail {} already", quoted_bytes(entry.name), quoted_bytes(jail)))
        .hint("use --move-to, or --release it first")
}

/// A home that is to be moved has no place in the jail.
fn in_the_way(entry: &passwd::Entry<'_>, place: &Place) -> Trouble {
    Trouble::failed(format!(
        "{} is there already, so the home of {} cannot be moved there",
        quoted(place.path().as_os_str()),
        quoted_bytes(entry.name)
    ))
}

/// Whether a home can go from one jail into another.
fn refuse_unmovable(
    scene: &Scene<'_>,
    wish: &Wish,
    entry: &passwd::Entry<'_>,
    from: &Path,
    inner: &Path,
) -> Result<(), Trouble> {
    if let Movable::NotThere = check_movable(scene, wish, entry, from)? {
        let who = quoted_bytes(entry.name);
        return Err(Trouble::failed(format!("the home {} of {who} is not there", quoted(from.as_os_str()))));
    }
    match Place::below(&scene.jail.root, &scene.jail.path, inner, false)? {
        Some(place) if place.stat()?.is_some() => Err(in_the_way(entry, &place).hint("move that one away")),
        _ => Ok(()),
    }
}

/// Whether our own file has the account in this jail, as a home that stays outside needs it.
fn refuse_other_placement(
    scene: &Scene<'_>,
    entry: &passwd::Entry<'_>,
    home: &Home,
    inner: &Path,
) -> Result<bool, Trouble> {
    let Some(placed) = placement::by_name(scene.placements, entry.name) else { return Ok(false) };
    let here = dir::clean(placed.jail).is_some_and(|jail| jail == scene.jail.path);
    let ours = scene.host.login_shell.as_os_str().as_bytes() == entry.shell;
    if !here && ours {
        return Err(in_another_jail(entry, placed.jail));
    }
    Ok(here && *home == Home::Bound && placed.home == inner.as_os_str().as_bytes())
}

fn find<'a>(scene: &'a Scene<'_>, user: &OsStr) -> Result<&'a passwd::Entry<'a>, Trouble> {
    let name = user.as_bytes();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Trouble::usage(format!("{} is no user name", quoted(user))));
    }
    scene.view.account(name).ok_or_else(|| {
        if users::get_user_by_name(user).is_some() {
            Trouble::failed(format!("{} is not in passwd but comes from a directory service", quoted(user))).hint(format!(
                "such accounts are put into a jail by the policy file: [user.{}] jail = \"…\", and {} as their shell in the directory",
                user.to_string_lossy().escape_debug(),
                scene.host.login_shell.display()
            ))
        } else {
            Trouble::failed(format!("there is no user {}", quoted(user))).hint("make the account first (useradd)")
        }
    })
}

fn refuse_system_accounts(scene: &Scene<'_>, entry: &passwd::Entry<'_>) -> Result<(), Trouble> {
    let who = quoted_bytes(entry.name);
    let refuse = |what: String| {
        Err(Trouble::unsafe_to(what)
            .hint("a jail for it would break what runs under it; jail ordinary users only"))
    };
    match entry.uid {
        0 => refuse(format!("{who} is root (uid 0)")),
        65534 => refuse(format!("{who} is nobody (uid 65534), which many services share")),
        uid if uid < scene.defs.uid_min => refuse(format!(
            "{who} is a system account (uid {uid}, below UID_MIN {} of login.defs)",
            scene.defs.uid_min
        )),
        _ if entry.gid == 0 => refuse(format!("{who} has root's group (gid 0) as its own")),
        _ => Ok(()),
    }
}

/// Where an account lives now, seen from this jail.
struct Residence {
    /// The home as seen inside.
    inner: PathBuf,
    /// The home on the host, for accounts that are not jailed yet.
    outer: PathBuf,
    /// Whether passwd says that it lives in this jail.
    is_jailed: bool,
    /// Whether the home is there in the jail.
    home_exists: bool,
    place: Option<Place>,
}

fn residence(scene: &Scene<'_>, wish: &Wish, entry: &passwd::Entry<'_>) -> Result<Residence, Trouble> {
    let who = quoted_bytes(entry.name);
    let bad = || {
        Trouble::unsafe_to(format!("the home {} of {who} is no usable path", quoted_bytes(entry.home)))
            .hint("set it to an absolute path below a directory (usermod -d)")
    };
    let split = convention::split_home(entry.home);
    let is_jailed = match &split {
        Some(split) if dir::clean(split.jail).is_some_and(|jail| jail == scene.jail.path) => true,
        Some(split) => return Err(in_another_jail(entry, split.jail)),
        None => false,
    };
    let outer = dir::clean(entry.home).ok_or_else(bad)?;
    let inner = match &split {
        Some(split) => dir::clean(split.inner).ok_or_else(bad)?,
        None => match outer.strip_prefix(&scene.jail.path) {
            // It lies in the jail without saying so.
            Ok(below) => Path::new("/").join(below),
            Err(_) => outer.clone(),
        },
    };
    if inner.parent().is_none() || inner.as_os_str().as_bytes().contains(&b':') {
        return Err(bad());
    }
    let place = Place::below(&scene.jail.root, &scene.jail.path, &inner, false)?;
    // Where a home is mounted by the cell, an empty directory of root's waits for it.
    let bound = wish.home == HomeChoice::Bind
        || scene.records.get(entry.name).is_some_and(|old| old.home == Home::Bound);
    let home_exists = match &place {
        _ if bound => false,
        Some(place) => match place.stat()? {
            Some(found) => home::check_own(place, &found, entry.uid).map(|()| true)?,
            None => false,
        },
        None => false,
    };
    Ok(Residence { inner, outer, is_jailed, home_exists, place })
}

fn home(
    scene: &Scene<'_>,
    wish: &Wish,
    entry: &passwd::Entry<'_>,
    residence: &Residence,
    old: Option<&Record>,
) -> Result<Home, Trouble> {
    if let Some(old) = old.filter(|old| old.home == Home::Bound || wish.home != HomeChoice::Bind) {
        return Ok(old.home.clone());
    }
    let lies_within = residence.outer.starts_with(&scene.jail.path);
    if wish.home == HomeChoice::Bind {
        return if residence.is_jailed || lies_within {
            Err(Trouble::failed(format!(
                "the home of {} is in the jail already, so there is nothing to bind",
                quoted_bytes(entry.name)
            ))
            .hint("leave out --bind-home, or --release the account first"))
        } else {
            check_bindable(entry, &residence.outer).map(|()| Home::Bound)
        };
    }
    if residence.is_jailed || lies_within {
        return Ok(if residence.home_exists { Home::Kept } else { Home::Made });
    }
    if wish.home == HomeChoice::Make {
        return Ok(if residence.home_exists { Home::Kept } else { Home::Made });
    }
    if let (true, Some(place)) = (residence.home_exists, &residence.place) {
        return Err(in_the_way(entry, place)
            .hint("leave out -m to use the home that is there, or move that one away"));
    }
    match check_movable(scene, wish, entry, &residence.outer)? {
        Movable::Yes => Ok(Home::Moved { from: residence.outer.clone().into() }),
        Movable::NotThere => Ok(Home::Made),
    }
}

/// The cell mounts what is there at login: a real directory of the account's, which nobody else can exchange.
fn check_bindable(entry: &passwd::Entry<'_>, outer: &Path) -> Result<(), Trouble> {
    let place = Place::on_host(outer)?;
    let missing = || {
        Trouble::failed(format!("the home {} is not there", quoted(outer.as_os_str())))
            .hint("make it, or leave out --bind-home for a home in the jail")
    };
    if place.path() != outer {
        return Err(Trouble::failed(format!(
            "the home {} is reached by a symbolic link; its real path is {}",
            quoted(outer.as_os_str()),
            quoted(place.path().as_os_str())
        ))
        .hint("set the account's home to the real path first (usermod -d)"));
    }
    home::check_own(&place, &place.stat()?.ok_or_else(missing)?, entry.uid)
}

enum Movable {
    Yes,
    NotThere,
}

fn check_movable(
    scene: &Scene<'_>,
    wish: &Wish,
    entry: &passwd::Entry<'_>,
    outer: &Path,
) -> Result<Movable, Trouble> {
    let who = quoted_bytes(entry.name);
    let shown = quoted(outer.as_os_str());
    if !outer.parent().is_some_and(Path::exists) {
        return Ok(Movable::NotThere);
    }
    let place = Place::on_host(outer)?;
    let Some(found) = place.stat()? else { return Ok(Movable::NotThere) };
    home::check_own(&place, &found, entry.uid)?;
    if place.is_mount_point()? || scene.mounts.iter().any(|mount| mount.starts_with(place.path())) {
        return Err(Trouble::failed(format!("the home {shown} of {who} is a mount point or has one in it"))
            .hint("unmount it first, or leave out -m for a new home in the jail"));
    }
    let others = scene.view.living_at(outer).iter().copied().chain(scene.view.living_below(outer));
    if let Some(other) = others.into_iter().find(|other| *other != entry.name) {
        return Err(Trouble::failed(format!(
            "the home {shown} of {who} is also the home of {}",
            quoted_bytes(other)
        ))
        .hint("give one of them a home of its own (usermod -d)"));
    }
    match scene.running.of(entry.uid) {
        Some(what) if !wish.force => Err(Trouble::failed(format!("{who} has processes running: {what}"))
            .hint("end them first, or use --force to move the home under them")),
        _ => Ok(Movable::Yes),
    }
}

fn inner_shell(
    scene: &Scene<'_>,
    wish: &Wish,
    entry: &passwd::Entry<'_>,
    residence: &Residence,
) -> Result<PathBuf, Trouble> {
    if let Some(shell) = &wish.shell {
        return scene.jail.check_shell(shell).map(|()| shell.clone());
    }
    let bound = scene.records.get(entry.name).is_some_and(|old| old.home == Home::Bound);
    let present = scene.jail_view.account(entry.name).filter(|_| residence.is_jailed || bound);
    if let Some(there) = present {
        let shell = Path::new(OsStr::from_bytes(there.shell));
        if scene.jail.check_shell(shell).is_ok() {
            return Ok(shell.to_owned());
        }
    }
    scene.jail.default_shell(entry.shell)
}

fn jail_line(
    scene: &Scene<'_>,
    entry: &passwd::Entry<'_>,
    inner: &Path,
    shell: &Path,
    old: Option<&Record>,
) -> Result<JailLine, Trouble> {
    let there = scene.jail_passwd.text(entry.name);
    if let Some(other) = there.and_then(passwd::parse) {
        if other.uid != entry.uid {
            return Err(Trouble::failed(format!(
                "the jail's passwd has a {} with uid {}, the host's has uid {}",
                quoted_bytes(entry.name),
                other.uid,
                entry.uid
            ))
            .hint(format!(
                "remove that line from {}",
                quoted(scene.jail.path.join("etc/passwd").as_os_str())
            )));
        }
    }
    let after = [
        entry.name,
        b"x",
        entry.uid.to_string().as_bytes(),
        entry.gid.to_string().as_bytes(),
        entry.gecos,
        inner.as_os_str().as_bytes(),
        shell.as_os_str().as_bytes(),
    ]
    .join(&b':');
    let before = match old {
        Some(old) => old.jail_line.before.clone(),
        None => there.map(Text::from),
    };
    Ok(JailLine { before, after: after.into() })
}

/// The groups to be in the jail's group file, and whether any of it is missing there now.
fn jail_groups(
    scene: &Scene<'_>,
    entry: &passwd::Entry<'_>,
    old: Option<&Record>,
) -> Result<(Vec<JailGroup>, bool), Trouble> {
    let mut groups = old.map(|old| old.jail_groups.clone()).unwrap_or_default();
    let mut missing = false;
    let mut seen = HashSet::new();
    let supplementary = scene.view.groups_of(entry.name).iter().copied();
    for gid in std::iter::once(entry.gid).chain(supplementary).chain([scene.jailed_gid]) {
        if !seen.insert(gid) {
            continue;
        }
        let name = if gid == scene.jailed_gid { Some(JAILED) } else { scene.view.group_name(gid) };
        let Some(name) = name else { continue };
        let there = scene.jail_view.group_name(gid);
        if there.is_none() {
            if let Some(other) = scene.jail_view.group_id(name) {
                return Err(Trouble::failed(format!(
                    "the jail's group file has a {} with gid {}, the host's has gid {gid}",
                    quoted_bytes(name),
                    other
                ))
                .hint(format!(
                    "remove that line from {}",
                    quoted(scene.jail.path.join("etc/group").as_os_str())
                )));
            }
        }
        let is_member = gid == entry.gid || scene.jail_view.groups_of(entry.name).contains(&gid);
        missing |= there.is_none() || !is_member;
        // Those that are there already are listed too: another account's release must not take them away.
        let name = there.unwrap_or(name);
        match groups.iter_mut().find(|group| group.gid == gid) {
            Some(known) => {
                known.made |= there.is_none();
                known.joined |= !is_member;
            }
            None => {
                groups.push(JailGroup { name: name.into(), gid, made: there.is_none(), joined: !is_member })
            }
        }
    }
    Ok((groups, missing))
}

/// Groups whose members are as good as root on the host, whatever their shell.
const STRONG_GROUPS: [&[u8]; 9] =
    [b"root", b"sudo", b"wheel", b"docker", b"disk", b"shadow", b"lxd", b"adm", b"kmem"];

fn warnings(scene: &Scene<'_>, wish: &Wish, entry: &passwd::Entry<'_>, record: &Record) -> Vec<String> {
    let who = quoted_bytes(entry.name);
    let mut found = Vec::new();
    for other in scene.view.names_of(entry.uid).iter().filter(|other| **other != entry.name) {
        found.push(format!(
            "{} has the same uid {} as {who}: put it into the same jail",
            quoted_bytes(other),
            entry.uid
        ));
    }
    for gid in scene.view.groups_of(entry.name) {
        if let Some(name) = scene.view.group_name(*gid).filter(|name| STRONG_GROUPS.contains(name)) {
            found.push(format!("{who} is in the group {}, which may be as good as root", quoted_bytes(name)));
        }
    }
    if wish.home == HomeChoice::Move && record.home == Home::Made {
        found.push(format!("{who} had no home to move: a new one is made in the jail"));
    }
    if matches!(record.home, Home::Kept | Home::Made | Home::Bound) {
        if let Some(what) = scene.running.of(entry.uid) {
            found.push(format!("{who} has processes outside of the jail, which stay there: {what}"));
        }
    }
    found
}

/// The mount points of the host.
pub fn mount_points() -> Result<Vec<PathBuf>, Trouble> {
    let table = std::fs::read("/proc/self/mountinfo").map_err(cannot("read", "/proc/self/mountinfo"))?;
    let field = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescape);
    Ok(table
        .split(|b| *b == b'\n')
        .filter_map(field)
        .map(|path| PathBuf::from(OsStr::from_bytes(&path)))
        .collect())
}

/// mountinfo writes blanks and backslashes as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}
