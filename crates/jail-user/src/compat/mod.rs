//! jailkit's commands, with jailkit's option meanings, done by ours: `jk_init` and the others as hosting panels call them.
//!
//! Each is read as jailkit reads it, put into words of our tool of the same trade, and that tool takes this process's
//! place. What ours does not do is refused with a sentence, never dropped in silence, unless not doing it is all that
//! it asks for. `jk_chrootsh` is not here: it is jail-sh itself, by a link.

mod lsh;
mod options;
mod sections;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use options::{Given, Spec, read};

use crate::trouble::{Trouble, cannot, quoted};

/// The tool that takes over, and what it is told.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    tool: &'static str,
    args: Vec<OsString>,
}

impl Call {
    fn new(tool: &'static str, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { tool, args: args.into_iter().map(Into::into).collect() }
    }

    fn with(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
}

/// Reads how it was called, does it, and gives back the exit status.
#[must_use]
pub fn main() -> u8 {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let name = Path::new(&called).file_name().unwrap_or_default().to_string_lossy().into_owned();
    // As a login shell it has a dash before its name.
    let name = name.trim_start_matches('-');
    if name == "jk_lsh" {
        return lsh::main(&args);
    }
    let asks_help = args.iter().any(|arg| arg == "-h" || arg == "--help");
    match (asks_help, help(name)) {
        (_, None) => {
            complain!("{name}: this program is to be called by a name of jailkit's, such as jk_init");
            complain!("  hint: make install-compat makes the links");
            2
        }
        (true, Some(text)) => {
            say!("{text}");
            0
        }
        (false, Some(_)) => match call(name, &called, &args).and_then(|call| take_over(&call)) {
            Ok(never) => match never {},
            Err(trouble) => {
                complain!("{name}: {}", trouble.sentence);
                if !trouble.hint.is_empty() {
                    complain!("  hint: {}", trouble.hint);
                }
                trouble.kind.exit_status()
            }
        },
    }
}

fn call(name: &str, called: &OsStr, args: &[OsString]) -> Result<Call, Trouble> {
    match name {
        "jk_init" => init(args),
        "jk_cp" => cp(args),
        "jk_jailuser" => jailuser(args, &login_shell(name, called)),
        "jk_update" => update(args),
        "jk_check" => check(args),
        "jk_list" => list(args),
        _ => chrootlaunch(args),
    }
}

fn help(name: &str) -> Option<String> {
    let (usage, ours) = match name {
        "jk_init" => ("jk_init [-vfk] [-c INIFILE] -j JAIL SECTION… | jk_init -l", "jail-init"),
        "jk_cp" => ("jk_cp [-vfk] -j JAIL FILE…", "jail-cp"),
        "jk_jailuser" => ("jk_jailuser [-mnv] [-s SHELL] -j JAIL USER…", "jail-user"),
        "jk_update" => ("jk_update [-vdk] [-s SKIP]… -j JAIL [DIR…]", "jail-update"),
        "jk_check" => ("jk_check [-v]", "jail-check"),
        "jk_list" => ("jk_list [-w]", "jail-list"),
        "jk_chrootlaunch" => {
            ("jk_chrootlaunch -u USER [-g GROUP] [-p PIDFILE] -j JAIL -x PROGRAM -- [ARGUMENT]…", "jail-run")
        }
        _ => return None,
    };
    Some(format!(
        "{name}: jailkit's command, done by Jailwright's {ours}\n\nUsage: {usage}\n\nSee {ours} --help for what it does and for its exit \
         status, and docs/coming-from-jailkit.md for what is different."
    ))
}

/// The jail: by its option, or as the first word.
fn jail(given: &mut Given) -> Result<OsString, Trouble> {
    if let Some(jail) = given.last('j') {
        return Ok(jail.to_owned());
    }
    if given.words.is_empty() {
        return Err(Trouble::usage("which jail? -j DIR is missing"));
    }
    Ok(given.words.remove(0))
}

const INIT: &[Spec] = &[
    Spec::with_value('j', "jail"),
    Spec::with_value('c', "configfile"),
    Spec::flag('l', "list"),
    Spec::flag('v', "verbose"),
    Spec::flag('f', "force"),
    Spec::flag('k', "hardlink"),
];

fn init(args: &[OsString]) -> Result<Call, Trouble> {
    let mut given = read(INIT, args)?;
    let imported = sections::imported(given.last('c').map(Path::new))?;
    let config: Vec<OsString> =
        imported.iter().flat_map(|dir| ["-c".into(), dir.clone().into_os_string()]).collect();
    if given.has('l') {
        return Ok(Call::new("jail-init", ["--list"]).with(config));
    }
    let jail = jail(&mut given)?;
    let wanted = sections::known(&given.words, imported.as_deref())?;
    // Panels use the tree for plain chroots as well (PHP-FPM), which need the devices.
    Ok(Call::new("jail-init", ["--devices"])
        .with(given.flags(&['v', 'f', 'k']))
        .with(config)
        .with(["-j".into(), jail, "--".into()])
        .with(wanted))
}

const CP: &[Spec] = &[
    Spec::with_value('j', "jail"),
    Spec::flag('v', "verbose"),
    Spec::flag('f', "force"),
    Spec::flag('k', "hardlink"),
    Spec::flag('o', "owner"),
    Spec::flag('s', "setuid"),
];

fn cp(args: &[OsString]) -> Result<Call, Trouble> {
    let mut given = read(CP, args)?;
    for (flag, what) in
        [('o', "-o: every file in a jail is root's"), ('s', "-s: no file of a jail stays set-uid so")]
    {
        if given.has(flag) {
            return Err(Trouble::usage(what)
                .hint("a section of your own may ask for it (jailwright-section(5): owner, setuid)"));
        }
    }
    let jail = jail(&mut given)?;
    let files: Vec<OsString> = given.words.iter().map(|word| find(word)).collect();
    Ok(Call::new("jail-cp", given.flags(&['v', 'f', 'k'])).with(["-j".into(), jail, "--".into()]).with(files))
}

/// jailkit takes a bare name for a command's; it looks in $PATH, we in the host's own directories.
fn find(word: &OsStr) -> OsString {
    if word.as_bytes().contains(&b'/') {
        return word.to_owned();
    }
    let dirs = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(word)).find(|path| path.exists());
    found.map_or_else(|| word.to_owned(), PathBuf::into_os_string)
}

const JAILUSER: &[Spec] = &[
    Spec::with_value('j', "jail"),
    Spec::with_value('s', "shell"),
    Spec::flag('m', "move"),
    Spec::flag('n', "noninteractive"),
    Spec::flag('v', "verbose"),
    Spec::flag('o', "nomove"),
];

fn jailuser(args: &[OsString], login_shell: &Path) -> Result<Call, Trouble> {
    let given = read(JAILUSER, args)?;
    let jail = given.last('j').ok_or_else(|| Trouble::usage("which jail? -j DIR is missing"))?;
    // Whoever leaves it out means an account that can do no more than jk_lsh.ini lets it.
    let shell = given.last('s').unwrap_or(OsStr::new("/usr/sbin/jk_lsh"));
    Ok(Call::new("jail-user", given.flags(&['m', 'v']))
        .with([OsStr::new("--login-shell"), login_shell.as_os_str()])
        .with([OsStr::new("-s"), shell, OsStr::new("-j"), jail, OsStr::new("--")])
        .with(&given.words))
}

/// The `jk_chrootsh` beside the name we were called by, so that panels find in passwd what they look for there.
fn login_shell(name: &str, called: &OsStr) -> PathBuf {
    let called = Path::new(called);
    let dirs: Vec<PathBuf> = match called.parent() {
        Some(dir) if called.components().count() > 1 => vec![dir.to_owned()],
        _ => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .filter(|dir| dir.join(name).exists())
            .collect(),
    };
    let own = tool_path("jail-sh");
    let is_ours = |path: &PathBuf| std::fs::canonicalize(path).ok() == std::fs::canonicalize(&own).ok();
    dirs.iter().map(|dir| dir.join("jk_chrootsh")).find(is_ours).unwrap_or(own)
}

const UPDATE: &[Spec] = &[
    Spec::with_value('j', "jail"),
    Spec::with_value('c', "configsection"),
    Spec::with_value('s', "skip"),
    Spec::flag('d', "dry-run"),
    Spec::flag('v', "verbose"),
    Spec::flag('k', "hardlink"),
];

fn update(args: &[OsString]) -> Result<Call, Trouble> {
    let given = read(UPDATE, args)?;
    // A section of jk_update.ini is named by its jail.
    let jail = given.last('j').or_else(|| given.last('c'));
    let jail = jail.ok_or_else(|| Trouble::usage("which jail? -j DIR is missing"))?;
    if given.has('v') && (given.has('s') || !given.words.is_empty()) {
        complain!(
            "jk_update: note: jail-update renews what jail-init and jail-cp put there, and touches nothing else"
        );
    }
    Ok(Call::new("jail-update", given.flags(&['d', 'v'])).with([OsStr::new("-j"), jail]))
}

fn check(args: &[OsString]) -> Result<Call, Trouble> {
    read(
        &[Spec::with_value('c', "configfile"), Spec::with_value('j', "jail"), Spec::flag('v', "verbose")],
        args,
    )?;
    Ok(Call::new("jail-check", ["--all"]))
}

fn list(args: &[OsString]) -> Result<Call, Trouble> {
    read(&[Spec::flag('w', "wide"), Spec::with_value('j', "jail")], args)?;
    Ok(Call::new("jail-list", [] as [OsString; 0]))
}

const LAUNCH: &[Spec] = &[
    Spec::with_value('j', "jail"),
    Spec::with_value('x', "exec"),
    Spec::with_value('u', "user"),
    Spec::with_value('g', "group"),
    Spec::with_value('p', "pidfile"),
];

fn chrootlaunch(args: &[OsString]) -> Result<Call, Trouble> {
    let given = read(LAUNCH, args)?;
    let need = |option, what: &str| given.last(option).ok_or_else(|| Trouble::usage(what.to_owned()));
    let jail = need('j', "which jail? -j DIR is missing")?;
    let program = Path::new(need('x', "which program? -x PROGRAM is missing")?);
    let user = given.last('u').ok_or_else(|| {
        Trouble::unsafe_to("-u USER is missing, and nothing runs as root in a jail")
            .hint("a port below 1024 needs no root: capabilities = [\"net_bind_service\"] in jail-sh.toml")
    })?;
    // Named by its place on the host or by the one inside.
    let inside =
        program.strip_prefix(jail).map_or_else(|_| program.to_owned(), |below| Path::new("/").join(below));
    let mut call = Call::new("jail-run", [OsStr::new("-j"), jail, OsStr::new("--user"), user]);
    for (option, flag) in [('g', "--group"), ('p', "--pidfile")] {
        if let Some(value) = given.last(option) {
            call = call.with([OsStr::new(flag), value]);
        }
    }
    Ok(call.with(["--".into(), inside.into_os_string()]).with(&given.words))
}

/// One of ours: beside this very file.
fn tool_path(tool: &str) -> PathBuf {
    let own = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let dir = own.unwrap_or_else(|| "/usr/local/sbin".into());
    let beside = dir.join(tool);
    // jail-run is for everybody, and so lies in bin.
    let in_bin = dir.parent().map(|prefix| prefix.join("bin").join(tool));
    if beside.exists() { beside } else { in_bin.filter(|path| path.exists()).unwrap_or(beside) }
}

/// The tool in this process's place: its answer and its exit status are the caller's.
fn take_over(call: &Call) -> Result<std::convert::Infallible, Trouble> {
    let path = tool_path(call.tool);
    let error = Command::new(&path).args(&call.args).exec();
    Err(cannot::<std::io::Error>("run", &path)(error).hint(format!(
        "is Jailwright installed whole? {} belongs beside this program",
        quoted(path.as_os_str())
    )))
}

#[cfg(test)]
mod tests;
