//! From the command line to the report: which accounts, which jail, what to do, and the exit status.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jail_accounts::convention;
use jail_provision::sshd;

use crate::cli::Cli;
use crate::create::{self, Need};
use crate::host::Host;
use crate::jail::Jail;
use crate::keys::Keys;
use crate::manager::{Services, Systemctl};
use crate::migrate;
use crate::plan::{HomeChoice, Wish};
use crate::record::{Record, Records};
use crate::report::{self, Outcome};
use crate::session::{Session, plan_all, relocate};
use crate::trouble::{Kind, Trouble, cannot, quoted};
use crate::view::{Files, View};

/// Runs the command and gives back its exit status.
#[must_use]
pub fn run(cli: &Cli) -> u8 {
    let host = Host::this(cli.login_shell.clone());
    let systemctl = host.systemctl.clone().filter(|_| host.systemd_runs).map(Systemctl);
    let services = systemctl.as_ref().map(|systemctl| systemctl as &dyn Services);
    match outcomes(cli, &host, services) {
        Ok(outcomes) => report_all(cli, &outcomes),
        Err(trouble) => {
            if cli.json {
                say!(
                    "{}",
                    serde_json::json!({ "changed": false, "error": trouble.sentence, "hint": trouble.hint })
                );
            }
            complain!("jail-user: {}", trouble.sentence);
            if !trouble.hint.is_empty() {
                complain!("  hint: {}", trouble.hint);
            }
            trouble.kind.exit_status()
        }
    }
}

fn report_all(cli: &Cli, outcomes: &[Outcome]) -> u8 {
    let changed = outcomes.iter().any(|outcome| outcome.changed);
    if cli.json {
        let users: Vec<_> = outcomes.iter().map(Outcome::json).collect();
        say!("{}", serde_json::json!({ "changed": changed, "dry_run": cli.dry_run, "users": users }));
    }
    for outcome in outcomes {
        // In JSON everything is in the answer; a person also wants to see why on stderr.
        if !cli.json || outcome.error.is_some() {
            outcome.print(!cli.json && (cli.verbose || cli.dry_run || !outcome.changed));
        }
    }
    let worst =
        outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).map(|trouble| trouble.kind).max();
    worst.map_or(0, Kind::exit_status)
}

fn outcomes(cli: &Cli, host: &Host, services: Option<&dyn Services>) -> Result<Vec<Outcome>, Trouble> {
    if !rustix::process::geteuid().is_root() && !cli.dry_run {
        return Err(Trouble::failed("only root can change accounts")
            .hint("run it with sudo, or see what it would do with --dry-run"));
    }
    let users = who(cli, host)?;
    if cli.all && !(cli.from_jailkit || cli.back) {
        return Err(Trouble::usage("--all goes with --from-jailkit or --back"));
    }
    if users.is_empty() && !cli.all {
        return Err(Trouble::usage("no user is named").hint("see jail-user --help"));
    }
    let keys = cli.key.as_deref().map(Keys::read).transpose()?;
    if cli.from_jailkit {
        return from_jailkit(cli, host, services, &users);
    }
    if cli.back {
        return back(cli, host, services, &users);
    }
    if cli.remove {
        return remove(cli, host, services, &users);
    }
    if cli.release {
        return release(cli, host, services, &users);
    }
    if let Some(to) = &cli.move_to {
        return move_to(cli, host, services, &users, to);
    }
    let jail =
        cli.jail.as_ref().ok_or_else(|| Trouble::usage("no jail is named").hint("say which with -j JAIL"))?;
    let wish = Wish {
        home: match (cli.move_home, cli.bind_home) {
            (true, _) => HomeChoice::Move,
            (false, true) => HomeChoice::Bind,
            (false, false) => HomeChoice::Make,
        },
        shell: cli.shell.clone(),
        force: cli.force,
    };
    let newcomers =
        if cli.create { Newcomers::look(host, jail, &users, &wish)? } else { Newcomers::default() };
    let users: Vec<OsString> = users.into_iter().filter(|user| !newcomers.refuses(user)).collect();
    if cli.dry_run {
        let (new, known): (Vec<_>, Vec<_>) =
            users.into_iter().partition(|user| newcomers.names.contains(user));
        let mut outcomes = dry_run(host, jail, &known, &wish)?;
        outcomes.extend(newcomers.shown(&new, jail, wish.home));
        outcomes.extend(newcomers.refused);
        return Ok(outcomes);
    }
    let mut session = Session::open(host, services, jail, &users)?;
    let mut outcomes = newcomers.make_and_jail(host, &mut session, &users, &wish);
    if let Some(keys) = &keys {
        outcomes.iter_mut().for_each(|outcome| session.let_in(outcome, keys));
    }
    warn_of_sshd(host, &mut outcomes);
    Ok(outcomes)
}

/// The accounts that `--create` has to make.
#[derive(Debug, Default)]
struct Newcomers {
    names: Vec<OsString>,
    shell: PathBuf,
    refused: Vec<Outcome>,
}

impl Newcomers {
    fn look(host: &Host, jail: &Path, users: &[OsString], wish: &Wish) -> Result<Self, Trouble> {
        let jail = Jail::open(jail)?;
        let shell = match &wish.shell {
            Some(shell) => jail.check_shell(shell).map(|()| shell.clone())?,
            None => jail.default_shell(b"")?,
        };
        let files = Files::read(host)?;
        let mut newcomers = Self { shell, ..Self::default() };
        for user in users {
            match create::need(&files.passwd.bytes, user) {
                Ok(Need::Account) => newcomers.names.push(user.clone()),
                Ok(Need::Nothing) => {}
                Err(trouble) => newcomers.refused.push(Outcome::failed(user, &jail.path, trouble)),
            }
        }
        Ok(newcomers)
    }

    fn refuses(&self, user: &OsStr) -> bool {
        self.refused.iter().any(|outcome| outcome.user.as_os_str() == user)
    }

    fn shown(&self, users: &[OsString], jail: &Path, home: HomeChoice) -> Vec<Outcome> {
        let show = |user: &OsString| {
            let line: Vec<String> = create::arguments(&self.shell, home, user)
                .iter()
                .map(|argument| argument.to_string_lossy().escape_debug().to_string())
                .collect();
            let actions = vec![
                format!("account: useradd {}", line.join(" ")),
                "then as for an account that is there".to_owned(),
            ];
            Outcome { changed: true, actions, ..Outcome::unchanged(user, jail, &[]) }
        };
        users.iter().map(show).collect()
    }

    /// Makes accounts and jails them; one that cannot be jailed is not left behind unjailed.
    fn make_and_jail(
        self,
        host: &Host,
        session: &mut Session<'_>,
        users: &[OsString],
        wish: &Wish,
    ) -> Vec<Outcome> {
        let mut outcomes = self.refused;
        let mut going = Vec::new();
        let mut made = Vec::new();
        for user in users {
            if !self.names.contains(user) {
                going.push(user.clone());
                continue;
            }
            match create::useradd(host, &self.shell, wish.home, user) {
                Ok(()) => {
                    going.push(user.clone());
                    made.push(user.clone());
                }
                Err(trouble) => outcomes.push(Outcome::failed(user, session.jail_path(), trouble)),
            }
        }
        for mut outcome in session.add(&going, wish) {
            if made.iter().any(|user| user == outcome.user.as_os_str()) {
                match &mut outcome.error {
                    None => outcome.actions.insert(0, "account: made by useradd".to_owned()),
                    Some(_) => {
                        if let Err(trouble) = create::userdel(host, outcome.user.as_os_str()) {
                            outcome.changed = true;
                            outcome.warnings.push(format!("the account was made and is left: {trouble}"));
                        }
                    }
                }
            }
            outcomes.push(outcome);
        }
        outcomes
    }
}

/// The accounts that are meant, each once, in the order of their naming.
fn who(cli: &Cli, host: &Host) -> Result<Vec<OsString>, Trouble> {
    let mut users = cli.users.clone();
    if let Some(from) = &cli.from {
        users.extend(listed(from)?);
    }
    if let Some(group) = &cli.group {
        let files = Files::read(host)?;
        let view = View::new(&files.passwd.bytes, &files.group.bytes);
        let gid = view
            .group_id(group.as_bytes())
            .ok_or_else(|| Trouble::failed(format!("there is no group {}", quoted(group))))?;
        users.extend(view.members_of(gid).into_iter().map(|name| OsStr::from_bytes(name).to_owned()));
    }
    let mut seen = std::collections::HashSet::new();
    users.retain(|user| seen.insert(user.clone()));
    Ok(users)
}

/// One name a line; blank lines and comments do not count.
fn listed(from: &Path) -> Result<Vec<OsString>, Trouble> {
    let bytes = if from == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(cannot("read", "standard input"))?;
        bytes
    } else {
        std::fs::read(from).map_err(cannot("read", from))?
    };
    let lines = bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| OsString::from_vec(line.to_vec()))
        .collect())
}

fn dry_run(host: &Host, jail: &Path, users: &[OsString], wish: &Wish) -> Result<Vec<Outcome>, Trouble> {
    let jail = Jail::open(jail)?;
    let records = Records::read(&host.state, &jail.path, &jail.name)?;
    let planned = plan_all(host, Some(&jail), &records, users, wish)?;
    Ok(users.iter().zip(planned).map(|(user, plan)| Outcome::planned(user, &jail.path, plan)).collect())
}

/// One question for all: the same group makes the same settings for each.
fn warn_of_sshd(host: &Host, outcomes: &mut [Outcome]) {
    let first = outcomes.iter_mut().find(|outcome| outcome.error.is_none() && outcome.changed);
    if let Some(outcome) = first {
        outcome.warnings.extend(sshd::warning(host.sshd.as_deref(), outcome.user.as_os_str()));
    }
}

fn release(
    cli: &Cli,
    host: &Host,
    services: Option<&dyn Services>,
    users: &[OsString],
) -> Result<Vec<Outcome>, Trouble> {
    let mut outcomes = Vec::new();
    for (jail, users) in by_jail(cli, host, users, &mut outcomes)? {
        if cli.dry_run {
            outcomes.extend(dry_records(host, &jail, &users, |record| Outcome::released(record, &jail))?);
            continue;
        }
        outcomes.extend(open_for_leaving(cli, host, services, &jail)?.release(&users, cli.force));
    }
    Ok(outcomes)
}

/// Takes accounts over from jailkit: what its files say first, so that the first login finds it.
fn from_jailkit(
    cli: &Cli,
    host: &Host,
    services: Option<&dyn Services>,
    users: &[OsString],
) -> Result<Vec<Outcome>, Trouble> {
    let found = in_the_jail_named(cli, migrate::look(host, users, cli.all)?)?;
    let mut outcomes = found.outcomes;
    let wish = Wish { home: HomeChoice::Make, shell: cli.shell.clone(), force: cli.force };
    for (path, accounts) in found.jails {
        let users: Vec<OsString> = accounts.iter().map(|(user, _)| user.clone()).collect();
        let carried = |user: &OsStr| accounts.iter().find(|(known, _)| known == user).map(|(_, said)| said);
        let mut done = if cli.dry_run {
            dry_run(host, &path, &users, &wish)?
        } else {
            let made = migrate::prepare(&Jail::open(&path)?)?;
            let lines: Vec<_> =
                accounts.iter().map(|(user, said)| (user.clone(), said.lines.clone())).collect();
            migrate::write(host, &lines)?;
            let mut session = Session::open(host, services, &path, &users)?;
            let mut done = session.add(&users, &wish);
            let failed = done.iter().filter(|outcome| outcome.error.is_some());
            let failed: Vec<_> =
                failed.map(|outcome| (outcome.user.as_os_str().to_owned(), Vec::new())).collect();
            migrate::write(host, &failed)?;
            if let Some(first) = done.iter_mut().find(|outcome| outcome.error.is_none()) {
                first.actions.splice(0..0, made);
            }
            done
        };
        let mut notes = migrate::notes_of(&path);
        for outcome in done.iter_mut().filter(|outcome| outcome.error.is_none()) {
            if let Some(said) = carried(outcome.user.as_os_str()) {
                outcome.actions.extend(migrate::told(said));
                outcome.warnings.extend(said.notes.iter().cloned());
            }
            outcome.warnings.append(&mut notes);
        }
        if !cli.dry_run {
            warn_of_sshd(host, &mut done);
        }
        outcomes.extend(done);
    }
    Ok(outcomes)
}

/// With `-j`, only accounts of that jail are meant; one that was named and is in another is not passed over in silence.
fn in_the_jail_named(cli: &Cli, found: migrate::Found) -> Result<migrate::Found, Trouble> {
    let Some(named) = &cli.jail else { return Ok(found) };
    let named = clean_jail(named)?;
    let mut outcomes = found.outcomes;
    let (here, elsewhere): (BTreeMap<_, _>, BTreeMap<_, _>) =
        found.jails.into_iter().partition(|(jail, _)| *jail == named);
    for (jail, accounts) in elsewhere.into_iter().filter(|_| !cli.all) {
        let elsewhere = |user: &OsString| {
            let (who, jail) = (quoted(user), quoted(jail.as_os_str()));
            let why = format!("{who} is in the jail {jail}, not in {}", quoted(named.as_os_str()));
            Outcome::failed(user, &named, Trouble::failed(why).hint("leave out -j, or name that jail"))
        };
        outcomes.extend(accounts.iter().map(|(user, _)| elsewhere(user)));
    }
    Ok(migrate::Found { jails: here, outcomes })
}

fn clean_jail(jail: &Path) -> Result<PathBuf, Trouble> {
    crate::dir::clean(jail.as_os_str().as_bytes()).ok_or_else(|| {
        Trouble::usage(format!("the jail {} is not an absolute path", quoted(jail.as_os_str())))
    })
}

/// Gives accounts back to jailkit.
fn back(
    cli: &Cli,
    host: &Host,
    services: Option<&dyn Services>,
    users: &[OsString],
) -> Result<Vec<Outcome>, Trouble> {
    let found = in_the_jail_named(cli, migrate::came_from_jailkit(host, users, cli.all)?)?;
    let mut outcomes = found.outcomes;
    for (path, accounts) in found.jails {
        let going: Vec<OsString> = accounts.into_iter().map(|(user, _)| user).collect();
        if cli.dry_run {
            outcomes.extend(dry_records(host, &path, &going, |record| Outcome::released(record, &path))?);
            continue;
        }
        let done = open_for_leaving(cli, host, services, &path)?.release(&going, cli.force);
        let gone = done.iter().filter(|outcome| outcome.error.is_none());
        let gone: Vec<_> = gone.map(|outcome| (outcome.user.as_os_str().to_owned(), Vec::new())).collect();
        migrate::write(host, &gone)?;
        outcomes.extend(done);
    }
    if !cli.dry_run {
        // What a run that was killed between the two left.
        let left = migrate::left_over(host)?;
        let left = left.into_iter().filter(|user| cli.all || users.contains(user));
        migrate::write(host, &left.map(|user| (user, Vec::new())).collect::<Vec<_>>())?;
    }
    Ok(outcomes)
}

/// Deletes accounts. One that is gone already is nothing to do.
fn remove(
    cli: &Cli,
    host: &Host,
    services: Option<&dyn Services>,
    users: &[OsString],
) -> Result<Vec<Outcome>, Trouble> {
    let files = Files::read(host)?;
    let view = View::new(&files.passwd.bytes, &files.group.bytes);
    let recorded: std::collections::HashSet<Vec<u8>> =
        Records::accounts_of_all(&host.state)?.into_iter().map(|(record, _)| record.user.0).collect();
    let (known, gone): (Vec<OsString>, Vec<OsString>) = users
        .iter()
        .cloned()
        .partition(|user| view.account(user.as_bytes()).is_some() || recorded.contains(user.as_bytes()));
    let mut outcomes: Vec<Outcome> = gone
        .iter()
        .map(|user| Outcome::unchanged_because(user, Path::new(""), "is no account (any more)"))
        .collect();
    for (jail, users) in by_jail(cli, host, &known, &mut outcomes)? {
        if cli.dry_run {
            outcomes.extend(dry_records(host, &jail, &users, |record| Outcome {
                actions: report::removal(record, &jail, cli.with_home),
                ..Outcome::removed(record, &jail)
            })?);
            continue;
        }
        outcomes.extend(open_for_leaving(cli, host, services, &jail)?.remove(&users, cli.with_home));
    }
    Ok(outcomes)
}

fn open_for_leaving<'a>(
    cli: &Cli,
    host: &'a Host,
    services: Option<&'a dyn Services>,
    jail: &Path,
) -> Result<Session<'a>, Trouble> {
    match Session::open(host, services, jail, &[]) {
        Err(_) if cli.force => Session::open_without_jail(host, services, jail),
        opened => opened,
    }
}

/// Out of one jail and into another.
fn move_to(
    cli: &Cli,
    host: &Host,
    services: Option<&dyn Services>,
    users: &[OsString],
    to: &Path,
) -> Result<Vec<Outcome>, Trouble> {
    // The new jail is looked at first: a bad one must not cost anybody his place in the old one.
    let to = Jail::open(to)?.path;
    let mut outcomes = Vec::new();
    let wish = Wish { home: HomeChoice::Move, shell: cli.shell.clone(), force: cli.force };
    for (from, users) in by_jail(cli, host, users, &mut outcomes)? {
        if from == to {
            outcomes.extend(users.iter().map(|user| Outcome::unchanged(user, &to, &[])));
            continue;
        }
        outcomes.extend(relocate(host, services, &from, &to, &users, &wish, cli.dry_run)?);
    }
    Ok(outcomes)
}

/// What would be said of each account that a jail has a record of.
fn dry_records(
    host: &Host,
    jail: &Path,
    users: &[OsString],
    tell: impl Fn(&Record) -> Outcome,
) -> Result<Vec<Outcome>, Trouble> {
    let name = convention::jail_name(jail.as_os_str().as_bytes());
    let records = Records::read(&host.state, jail, &name)?;
    Ok(users
        .iter()
        .map(|user| match records.iter().find(|record| record.user.0 == user.as_bytes()) {
            Some(record) => tell(record),
            None => Outcome::unchanged_because(user, jail, "was not put into the jail by us"),
        })
        .collect())
}

/// Which jail each account is in: the one named, else the one that its home says, else the one that has a record of it.
fn by_jail(
    cli: &Cli,
    host: &Host,
    users: &[OsString],
    outcomes: &mut Vec<Outcome>,
) -> Result<BTreeMap<PathBuf, Vec<OsString>>, Trouble> {
    let mut jails: BTreeMap<PathBuf, Vec<OsString>> = BTreeMap::new();
    if let Some(jail) = &cli.jail {
        jails.insert(clean_jail(jail)?, users.to_vec());
        return Ok(jails);
    }
    let files = Files::read(host)?;
    let view = View::new(&files.passwd.bytes, &files.group.bytes);
    let recorded: std::collections::HashMap<Vec<u8>, PathBuf> = Records::accounts_of_all(&host.state)?
        .into_iter()
        .map(|(record, jail)| (record.user.0, jail))
        .collect();
    for user in users {
        let by_record = recorded.get(user.as_bytes()).cloned();
        let by_home = || {
            let split = convention::split_home(view.account(user.as_bytes())?.home)?;
            crate::dir::clean(split.jail)
        };
        match by_record.or_else(by_home) {
            Some(jail) => jails.entry(jail).or_default().push(user.clone()),
            None if view.account(user.as_bytes()).is_some() => {
                outcomes.push(Outcome::unchanged_because(user, Path::new(""), "is in no jail"));
            }
            None => outcomes.push(Outcome::no_such_user(user, Path::new(""))),
        }
    }
    Ok(jails)
}
