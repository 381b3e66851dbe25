//! From the command line to the report: which accounts, which jail, what to do, and the exit status.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jail_accounts::convention;
use jail_provision::sshd;

use crate::cli::Cli;
use crate::host::Host;
use crate::jail::Jail;
use crate::manager::{Services, Systemctl};
use crate::plan::{HomeChoice, Wish};
use crate::record::{Home, Records};
use crate::report::{self, Outcome};
use crate::session::{Session, plan_all};
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
    if users.is_empty() {
        return Err(Trouble::usage("no user is named").hint("see jail-user --help"));
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
        home: if cli.move_home { HomeChoice::Move } else { HomeChoice::Make },
        shell: cli.shell.clone(),
        force: cli.force,
    };
    if cli.dry_run {
        return dry_run(host, jail, &users, &wish);
    }
    let (mut session, notes) = Session::open(host, services, jail, &users)?;
    notes.iter().for_each(|note| complain!("jail-user: {note}"));
    let mut outcomes = session.add(&users, &wish);
    warn_of_sshd(host, &mut outcomes);
    Ok(outcomes)
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
    let tell = |(user, plan): (&OsString, Result<crate::plan::Planned, Trouble>)| match plan {
        Err(trouble) => Outcome::failed(user, &jail.path, trouble),
        Ok(plan) if !plan.changes => Outcome::unchanged(user, &jail.path, &plan.warnings),
        Ok(plan) => Outcome {
            changed: true,
            actions: report::steps(&plan.record, &jail.path),
            warnings: plan.warnings,
            ..Outcome::unchanged(user, &jail.path, &[])
        },
    };
    Ok(users.iter().zip(planned).map(tell).collect())
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
            outcomes.extend(dry_release(host, &jail, &users)?);
            continue;
        }
        let mut session = match Session::open(host, services, &jail, &[]) {
            Ok((session, notes)) => {
                notes.iter().for_each(|note| complain!("jail-user: {note}"));
                session
            }
            Err(_) if cli.force => Session::open_without_jail(host, services, &jail)?,
            Err(trouble) => return Err(trouble),
        };
        outcomes.extend(session.release(&users, cli.force));
    }
    Ok(outcomes)
}

/// Out of one jail and into another. An account that cannot go into the new one is released all the same, and said so.
fn move_to(
    cli: &Cli,
    host: &Host,
    services: Option<&dyn Services>,
    users: &[OsString],
    to: &Path,
) -> Result<Vec<Outcome>, Trouble> {
    if cli.dry_run {
        return Err(Trouble::usage("--move-to has no dry run").hint("try --release --dry-run"));
    }
    // The new jail is looked at first: a bad one must not cost anybody his place in the old one.
    Jail::open(to)?;
    let mut outcomes = Vec::new();
    let recorded = Records::accounts_of_all(&host.state)?;
    let (going, staying): (Vec<OsString>, Vec<OsString>) = users.iter().cloned().partition(|user| {
        recorded
            .iter()
            .any(|(record, _)| record.user.0 == user.as_bytes() && matches!(record.home, Home::Moved { .. }))
    });
    for user in &staying {
        let trouble =
            Trouble::failed(format!("{} was not put into its jail with its home (-m)", quoted(user)))
                .hint("--release it, move what it needs by hand, and jail it anew");
        outcomes.push(Outcome::failed(user, to, trouble));
    }
    if going.is_empty() {
        return Ok(outcomes);
    }
    let released = release(cli, host, services, &going)?;
    let (failed, out): (Vec<Outcome>, Vec<Outcome>) =
        released.into_iter().partition(|done| done.error.is_some());
    outcomes.extend(failed);
    let out: Vec<OsString> = out.iter().map(|done| done.user.as_os_str().to_owned()).collect();
    let wish = Wish { home: HomeChoice::Move, shell: cli.shell.clone(), force: cli.force };
    let (mut session, notes) = Session::open(host, services, to, &out)?;
    notes.iter().for_each(|note| complain!("jail-user: {note}"));
    outcomes.extend(session.add(&out, &wish).into_iter().map(|mut done| {
        if done.error.is_some() {
            done.changed = true;
            done.warnings.push(format!("{} is in no jail now", quoted(done.user.as_os_str())));
        }
        done
    }));
    Ok(outcomes)
}

fn dry_release(host: &Host, jail: &Path, users: &[OsString]) -> Result<Vec<Outcome>, Trouble> {
    let name = convention::jail_name(jail.as_os_str().as_bytes());
    let records = Records::read(&host.state, jail, &name)?;
    Ok(users
        .iter()
        .map(|user| match records.iter().find(|record| record.user.0 == user.as_bytes()) {
            Some(record) => Outcome::released(record, jail),
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
        let clean = crate::dir::clean(jail.as_os_str().as_bytes()).ok_or_else(|| {
            Trouble::usage(format!("the jail {} is not an absolute path", quoted(jail.as_os_str())))
        })?;
        jails.insert(clean, users.to_vec());
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
            None => outcomes.push(Outcome::failed(
                user,
                Path::new(""),
                Trouble::failed(format!("there is no user {}", quoted(user))),
            )),
        }
    }
    Ok(jails)
}
