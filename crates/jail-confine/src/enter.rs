//! The entry: five values, each consumed by the next.
//!
//! ```text
//! Invocation  what the caller handed over, made harmless      before anything is looked at: CVE-2021-4034, -2024-21626
//! Admission   who, where, under which policy                  the last name lookup: CVE-2019-14271, CVE-2025-32463
//! Cell        namespaces and mounts                           the filter is compiled before, from files of the host
//! Confined    rights given up, in the one order that works    Landlock below the finished root; seccomp last
//! exec        the user's program                              the only name used after the root changed but chdir
//! ```
//!
//! Whatever goes wrong on the way is a refusal: there is no path on which a program starts with less confinement than
//! the policy says.

use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use jail_sys::process::{self, Cloned, Exec, leak};
use rustix::process::{Pid, getppid};

use crate::admission::{self, Account, Admission, Jail};
use crate::agent;
use crate::announce::{self, Announcement};
use crate::cell::blueprint::{Blueprint, Privilege};
use crate::cell::{self, Cell, outside, registry};
use crate::cgroup::Groups;
use crate::chroot;
use crate::commands;
use crate::confined::{self, Identity};
use crate::environment::{self, Fixed};
use crate::explain;
use crate::filter;
use crate::invocation::{self, Call, Invocation, Terminal};
use crate::learn;
use crate::log::{Level, Log};
use crate::machine;
use crate::own_etc::{self, OwnFile};
use crate::policy::Policy;
use crate::policy::values::{Isolation, Network, Root, Seccomp, Session as Sharing};
use crate::programs;
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};
use crate::session::{self, Failure, Session};
use crate::waiter::{self, Orphans, Tie, Watch};

/// Refused, or failed before the command ran.
pub const REFUSED: i32 = 125;
/// Found, but it cannot be executed; as a shell has it.
pub const NOT_EXECUTABLE: i32 = 126;
/// Not found; as a shell has it.
pub const NOT_FOUND: i32 = 127;

/// The set-uid login shell, whole. Returns the exit status.
#[must_use]
pub fn login_shell() -> i32 {
    let invocation = match invocation::sanitize() {
        Ok(invocation) => invocation,
        Err(refusal) => return refuse(&refusal, &Log::open("jail-sh"), b"?"),
    };
    let log = Log::open("jail-sh");
    if let (Some(user), 0) = (&invocation.call.explain, invocation.uid) {
        return match explain::explain(user) {
            Ok(()) => 0,
            Err(refusal) => complain(&format!("jail-sh: {}", refusal.why), REFUSED),
        };
    }
    let caller = format!("uid {}", invocation.uid).into_bytes();
    match log_in(&invocation, &log) {
        Ok(status) => status,
        Err(refusal) => refuse(&refusal, &log, &caller),
    }
}

fn log_in(invocation: &Invocation, log: &Log) -> Result<i32> {
    invocation::become_root(invocation)?;
    let admission = admission::decide(invocation)?;
    for note in &admission.notes {
        log.line(Level::Notice, note);
    }
    let call = &invocation.call;
    if call.explain.is_some() {
        return Err(Refusal::new(What::Call, "--explain is for root"));
    }
    let what = match &call.command {
        Some(command) => format!("runs '{}'", printable(command.as_bytes())),
        None => "logs in".to_owned(),
    };
    let name = printable(&admission.account.name);
    let jail = admission.jail.path.display();
    if admission.policy.isolation == Isolation::Vm {
        log.line(Level::Info, &format!("{name} enters {jail} in a virtual machine and {what}"));
        match machine::hand_over(&admission, invocation)? {}
    }
    log.line(Level::Info, &format!("{name} enters {jail} and {what}"));
    let entry = Entry {
        privilege: Privilege::Root,
        terminal: invocation.terminal,
        directory: admission.home.clone(),
        program: Program::Shell(call),
        environment: &invocation.environment,
        set: &[],
        report: Report::Login,
        announcement: None,
        bond: Bond::ToConnection(invocation.parent),
        notebook: None,
    };
    enter(&admission, &entry, log)
}

/// What is run inside.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// The account's shell.
    Shell(&'a Call),
    /// A command and its arguments; never empty.
    Command(&'a [OsString]),
}

/// How a failure reaches the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// One plain sentence and a reference; the rest is for the log.
    Login,
    /// The whole reason, since the caller is his own administrator.
    Tool,
}

/// What becomes of a session whose caller ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// A login ends with its connection: with the process that started it, as it was first of all.
    ToConnection(Option<Pid>),
    /// As a login if root starts it; what a person started without root is left alone.
    AsUsual,
    /// It ends, whoever started it: it is a part of that process.
    WithCaller,
}

/// What an entry needs besides the admission.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What it works with.
    pub privilege: Privilege,
    /// The caller's terminal.
    pub terminal: Terminal,
    /// Where the program starts, as seen inside.
    pub directory: Vec<u8>,
    /// What is run.
    pub program: Program<'a>,
    /// The caller's environment.
    pub environment: &'a [(OsString, OsString)],
    /// Variables that are set, whatever the policy lets through.
    pub set: &'a [(OsString, OsString)],
    /// How a failure is told.
    pub report: Report,
    /// Who is told that the command has started.
    pub announcement: Option<&'a Announcement>,
    /// Whether the session outlives whoever started it.
    pub bond: Bond,
    /// Where what the command does is written down, instead of holding it to a profile.
    pub notebook: Option<BorrowedFd<'a>>,
}

/// Cell, confinement, exec. Ends with the program's exit status; returns only what kept it from starting.
///
/// # Errors
/// Whatever keeps the program from starting as confined as the policy says.
pub fn enter(admission: &Admission, entry: &Entry<'_>, log: &Log) -> Result<i32> {
    must_be_possible(&admission.policy)?;
    if admission.policy.isolation == Isolation::Vm {
        return Err(Refusal::new(What::Host, "a virtual machine is no cell to be entered; this is a defect"));
    }
    must_fit_the_base(admission)?;
    let in_chroot = admission.policy.isolation == Isolation::Chroot;
    if in_chroot {
        chroot::must_be_whole(admission)?;
    }
    if entry.privilege == Privilege::Root {
        // Keys of the host's sessions must not be reachable from inside: keyrings have no namespace.
        process::new_session_keyring().or_refuse(What::Host, || "get a session keyring of its own".into())?;
    }
    let mut notes = Vec::new();
    let agent = if admission.policy.agent {
        agent::find(entry.environment, admission.account.uid, entry.privilege, &mut notes)?
    } else {
        None
    };
    // Made before the filter, whose strict form knows the very pointers of this call.
    let expected = if in_chroot { Names::NONE } else { Names::in_a_new_cell(entry.terminal, agent.as_ref()) };
    let exec = prepare_exec(admission, entry, &expected)?;
    let filter = filter::compile(&admission.policy, &admission.profile, &exec, &mut notes)?;
    let parent = match entry.bond {
        Bond::ToConnection(parent) => parent,
        Bond::AsUsual | Bond::WithCaller => getppid(),
    };

    // Inherited by all that is started from here on.
    confined::drop_bounding_set(&admission.policy.capabilities)?;
    let own = own_etc::files(admission);
    let terminal = if in_chroot { None } else { cell::copy_terminal(entry.terminal, entry.privilege)? };
    let (cell, mut groups, lock) = if in_chroot {
        (None, private_groups(admission, &registry::open_run()?, &mut notes)?, None)
    } else {
        let (cell, mut groups, lock) = find_cell(admission, entry, &own, &mut notes)?;
        groups.follow(cell.init_pid, &mut notes);
        (Some(cell), groups, lock)
    };
    let named = match &cell {
        Some(cell) => move_in(cell, admission, entry.environment, (terminal, agent), &own)?,
        None => Names::NONE,
    };
    let (exec, filter) = if named == expected {
        (exec, filter)
    } else {
        let exec = prepare_exec(admission, entry, &named)?;
        // The strict form is built in, so no file is read for it here.
        let filter = match admission.policy.seccomp {
            Seccomp::Strict => filter::compile(&admission.policy, &admission.profile, &exec, &mut notes)?,
            _ => filter,
        };
        (exec, filter)
    };

    let account = &admission.account;
    let session = Session {
        policy: &admission.policy,
        groups_of_cell: &groups,
        privilege: entry.privilege,
        uid: account.uid,
        gid: account.gid,
        groups: &account.groups,
        home: &admission.home,
        directory: &entry.directory,
        terminal: entry.terminal,
        filter: &filter,
        program: &exec,
        recorder: None,
    };
    // What the session's process finds out besides is in its own memory.
    for note in notes.drain(..) {
        log.line(Level::Notice, &note);
    }
    let start = entry.announcement.map(|_| announce::Exec::listen()).transpose()?;
    let detaches = entry.announcement.is_some_and(Announcement::detaches);
    match process::clone(0).or_refuse(What::Host, || "start the session's process".into())? {
        Cloned::Child => {
            let ready = if detaches { announce::let_go_of_terminal() } else { Ok(()) };
            let ready = ready.and_then(|()| if in_chroot { into_chroot(admission, &groups) } else { Ok(()) });
            let failure = match ready {
                Ok(()) => match entry.notebook {
                    None => session::start(&session, &mut notes),
                    Some(notebook) => learn::start(&session, notebook, &mut notes),
                },
                Err(refusal) => Failure::Refused(refusal),
            };
            if let Some(start) = &start {
                start.failed();
            }
            process::exit_now(tell(&failure, &session, entry.report, log, &notes))
        }
        Cloned::Parent { pid, pidfd } => {
            // The waiter closes them, with all else that it does not need. The session's process holds its own copy of
            // the lock until it executes the user's program.
            leak(pidfd);
            lock.map(leak);
            groups.settled();
            if let (Some(announcement), Some(start)) = (entry.announcement, start) {
                if start.heard()? == announce::Start::Made {
                    announcement.make()?;
                }
            }
            let (identity, tie) = match entry.privilege {
                Privilege::Root => (
                    Identity::Change { uid: account.uid, gid: account.gid, groups: Vec::new() },
                    if detaches { Tie::None } else { Tie::To(parent) },
                ),
                Privilege::UserNamespace => {
                    (Identity::Keep, if entry.bond == Bond::WithCaller { Tie::To(parent) } else { Tie::None })
                }
            };
            let orphans = if in_chroot { Orphans::AreEnded } else { Orphans::EndWithTheCell };
            let watch = Watch { child: pid, terminal: entry.terminal, identity, tie, orphans };
            match waiter::wait(&watch, cell.as_ref())? {}
        }
    }
}

/// For a process that stays outside and hears what an untrusted program says: from here on it is the user, for good.
///
/// # Errors
/// If a right is left; the process must end then.
pub fn become_the_user(account: &Account) -> Result<()> {
    confined::drop_bounding_set(&[])?;
    let identity = Identity::Change { uid: account.uid, gid: account.gid, groups: account.groups.clone() };
    confined::give_up_rights(&identity, &[])
}

/// The names in the cell of what a login brings along.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    terminal: Option<Vec<u8>>,
    agent: Option<Vec<u8>>,
}

impl Names {
    /// Where nothing is mounted for a login, nothing has a name.
    const NONE: Self = Self { terminal: None, agent: None };

    /// The first login of a new cell always gets these, so the environment can be laid out in advance.
    fn in_a_new_cell(terminal: Terminal, agent: Option<&OwnedFd>) -> Self {
        Self {
            terminal: terminal.fd().map(|_| b"/dev/ttyj0".to_vec()),
            agent: agent.map(|_| agent::PLACEHOLDER.to_vec()),
        }
    }
}

/// Goes into the cell, and makes of it what this login is to find: its terminal and agent, no agent that it may not have,
/// and names of hosts and name servers as they are now (a cell found running has those of when it was made).
// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
fn move_in(
    cell: &Cell,
    admission: &Admission,
    environment: &[(OsString, OsString)],
    (terminal, agent): (Option<OwnedFd>, Option<OwnedFd>),
    own: &[OwnFile],
) -> Result<Names> {
    let terminal = cell.join(terminal.as_ref())?;
    if !admission.policy.agent {
        agent::cover(&admission.home, environment)?;
    }
    if cell.was_running() {
        own_etc::refresh(own)?;
    }
    let agent = agent.map(|socket| cell::name_agent(&socket)).transpose()?;
    Ok(Names { terminal, agent })
}

/// Nothing of the host's can be asked for control groups once its root is out of reach.
fn into_chroot(admission: &Admission, groups: &Groups) -> Result<()> {
    groups.begin(&[]).map_err(|why| {
        Refusal::new(What::Host, format!("cannot enter the session's control groups: {why}"))
    })?;
    chroot::change_root(&admission.jail)
}

/// A cell of this login's own, or the one that all logins of the user share; with it the lock that keeps it alive until
/// the session's program is executed.
// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
fn find_cell(
    admission: &Admission,
    entry: &Entry<'_>,
    own: &[OwnFile],
    notes: &mut Vec<String>,
) -> Result<(Cell, Groups, Option<OwnedFd>)> {
    let policy = &admission.policy;
    let draw = |groups: &Groups| Blueprint::draw(admission, start_of(entry), entry.privilege, own, groups);
    if entry.privilege == Privilege::UserNamespace {
        let mut groups = Groups::none_without_root(policy, notes)?;
        let cell = Cell::for_one_login(draw(&groups)?, &mut groups)?;
        return Ok((cell, groups, None));
    }
    let run = registry::open_run()?;
    let uid = admission.account.uid;
    match policy.session {
        Sharing::Private => {
            let mut groups = private_groups(admission, &run, notes)?;
            let cell = Cell::for_one_login(draw(&groups)?, &mut groups)?;
            Ok((cell, groups, None))
        }
        Sharing::Shared => {
            let mut groups = Groups::prepare(policy, uid, &registry::cell_key(admission), &run, notes)?;
            let (cell, lock) = registry::find_or_create(admission, &run, &mut groups, draw)?;
            Ok((cell, groups, Some(lock)))
        }
    }
}

/// The control groups of a login that shares no cell.
fn private_groups(admission: &Admission, run: &OwnedFd, notes: &mut Vec<String>) -> Result<Groups> {
    let name = format!("login-{}", std::process::id());
    Groups::prepare(&admission.policy, admission.account.uid, &name, run, notes)
}

/// Only jail-run starts in a directory that may have to be made; a login's home is there or it is refused.
fn start_of<'a>(entry: &'a Entry<'_>) -> Option<&'a [u8]> {
    (entry.report == Report::Tool).then_some(entry.directory.as_slice())
}

/// What the policy asks for and this version or host cannot give is refused before anything is made.
pub(crate) fn must_be_possible(policy: &Policy) -> Result<()> {
    match policy.isolation {
        Isolation::Namespaces => {}
        Isolation::Chroot => chroot::must_be_possible(policy)?,
        Isolation::Vm => machine::must_be_possible(policy, Privilege::Root)?,
    }
    if policy.network == Network::Private {
        outside::must_be_there()?;
    }
    commands::must_be_possible(policy)
}

/// A base is everybody's: there is no place in it for one user's changes, and none in the jail's own few files that
/// would outlast the base's next update.
fn must_fit_the_base(admission: &Admission) -> Result<()> {
    match &admission.jail.base {
        Some(base) if admission.policy.root == Root::Writable => Err(Refusal::new(
            What::Policy,
            format!(
                "root = \"writable\" (from {}) does not go with a jail on the base '{}'; \"discard\" does, and so does a \
                 jail of its own files",
                admission.policy.origin("root"),
                base.path.display()
            ),
        )),
        _ => Ok(()),
    }
}

// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
fn prepare_exec(admission: &Admission, entry: &Entry<'_>, names: &Names) -> Result<Exec> {
    let c_string = |bytes: &[u8]| {
        CString::new(bytes).or_refuse(What::Call, || format!("pass on '{}'", printable(bytes)))
    };
    let listed = !admission.policy.commands.is_empty();
    let (path, argv) = match entry.program {
        Program::Shell(call) if listed => {
            let command = call.command.as_ref().map(|command| command.as_bytes());
            commands::of_login(&admission.policy, &admission.jail, command)?
        }
        Program::Command(words) if listed => {
            let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            commands::of_words(&admission.policy, &admission.jail, words)?
        }
        Program::Shell(call) => shell_call(&admission.shell, call),
        Program::Command(words) => {
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            (find_program(&admission.jail, words.first().map_or(b"".as_slice(), Vec::as_slice)), words)
        }
    };
    let fixed = Fixed {
        home: &admission.home,
        user: &admission.account.name,
        shell: &admission.shell,
        terminal: names.terminal.as_deref(),
        agent: names.agent.as_deref(),
    };
    let policy = &admission.policy;
    let env = environment::build(entry.environment, entry.set, &policy.env, fixed);
    let argv = argv.iter().map(|argument| c_string(argument)).collect::<Result<Vec<_>>>()?;
    Ok(Exec::new(c_string(&path)?, argv, env))
}

/// The path of a program as a shell would find it, looked up in the jail's tree. Not found: the name itself, whose
/// exec then fails with the right status.
fn find_program(jail: &Jail, name: &[u8]) -> Vec<u8> {
    if name.contains(&b'/') {
        return name.to_vec();
    }
    let found = jail.layers().find_map(|layer| programs::find(layer, name, environment::PATH.split(':')));
    found.map_or_else(|| name.to_vec(), |program| program.path)
}

/// The shell with the arguments that sshd would have given it.
fn shell_call(shell: &[u8], call: &Call) -> (Vec<u8>, Vec<Vec<u8>>) {
    let base = shell.rsplit(|b| *b == b'/').next().unwrap_or(shell);
    let argv0 = if call.login { [b"-".as_slice(), base].concat() } else { base.to_vec() };
    let mut argv = vec![argv0];
    if let Some(command) = &call.command {
        argv.push(b"-c".to_vec());
        argv.push(command.as_bytes().to_vec());
    }
    (shell.to_vec(), argv)
}

/// The one sentence with which jail-run says why it did nothing; returns the exit status.
#[must_use]
pub fn complain_as_tool(refusal: &Refusal) -> i32 {
    complain(&format!("jail-run: {}", refusal.why), REFUSED)
}

/// Tells why the user's program did not start; returns the exit status.
fn tell(failure: &Failure, session: &Session<'_>, report: Report, log: &Log, notes: &[String]) -> i32 {
    for note in notes {
        log.line(Level::Notice, note);
    }
    let caller = format!("uid {}", session.uid).into_bytes();
    match failure {
        Failure::Refused(refusal) => match report {
            Report::Login => refuse(refusal, log, &caller),
            Report::Tool => complain_as_tool(refusal),
        },
        Failure::Exec(errno) => {
            let path = printable(session.program.path().to_bytes());
            let status = if *errno == jail_sys::Errno::NOENT { NOT_FOUND } else { NOT_EXECUTABLE };
            // execve(2) gives it to a process whose user became one process too many when it took that user on.
            let remedy = match *errno {
                jail_sys::Errno::AGAIN => "; this user runs as many processes already as `processes` allows",
                _ => "",
            };
            let why = format!("cannot execute '{path}' inside the jail: {errno}{remedy}");
            log.line(Level::Warning, &format!("{}: {why}", printable(&caller)));
            let name = match report {
                Report::Login => "jail-sh",
                Report::Tool => "jail-run",
            };
            complain(&format!("{name}: {why}"), status)
        }
    }
}

/// One plain sentence for the client, the whole reason for the log, and a reference that ties them together. Returns the
/// exit status.
pub fn refuse(refusal: &Refusal, log: &Log, caller: &[u8]) -> i32 {
    let mut random = [0_u8; 4];
    let reference = match rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u32::from_ne_bytes(random),
        Err(_) => std::process::id(),
    };
    log.line(Level::Warning, &format!("refused {} [{reference:08x}]: {}", printable(caller), refusal.why));
    complain(&format!("jail-sh: {} (reference {reference:08x})", refusal.what.sentence()), REFUSED)
}

fn complain(sentence: &str, status: i32) -> i32 {
    let line = format!("{sentence}\n");
    if std::io::stderr().write_all(line.as_bytes()).is_err() {
        // Nobody listens; the status says it too.
    }
    status
}
