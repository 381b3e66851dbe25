//! From a profile to a program: which rules are in force, what each system call gets, the floor below, and the search over
//! numbers on top.

use std::fmt;

use super::action::Action;
use super::ahead;
use super::arch::{Arch, Width, X32_BIT};
use super::builtin::{Builtin, Profile};
use super::dag::{Compare, Dag, Id, Test, Word};
use super::emit::{self, MAX_INSTRUCTIONS};
use super::errno::{ENOSYS, EPERM};
use super::error::Error;
use super::floor::{Floor, PortFilter, UnsafeItem};
use super::names::Name;
use super::profile::{Arg, Content, Flag, Force, Host, Listed, Op, Rule};
use super::program::Program;
use super::table::SYSCALLS;

/// What becomes of a call that the profile does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Violation {
    /// As the profile says (`defaultAction`).
    #[default]
    Errno,
    /// The process is killed.
    Kill,
    /// The call is **made** and logged: for finding out what a profile lacks.
    Log,
}

/// The pointers of the one execve that `strict` lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecPointers {
    /// execve's first argument.
    pub path: u64,
    /// Its second.
    pub argv: u64,
    /// Its third.
    pub envp: u64,
}

/// Everything a program depends on besides the profile.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// The machine; `Arch::NATIVE` for a program that is to be loaded.
    pub arch: Arch,
    /// What replaces its default action.
    pub violation: Violation,
    /// Whether Landlock filters ports.
    pub ports: PortFilter,
    /// Opened parts of the floor.
    pub unsafe_open: &'a [UnsafeItem],
    /// The running kernel, for `minKernel`.
    pub kernel: (u32, u32),
    /// The capabilities kept, as a mask of bits (`caps::bit`).
    pub caps: u64,
    /// If given, only the execve with exactly these pointers passes, and no execveat.
    pub strict_exec: Option<ExecPointers>,
}

impl<'a> Settings<'a> {
    /// A profile with nothing opened and no capability kept.
    #[must_use]
    pub fn plain(profile: &'a Profile, kernel: (u32, u32)) -> Self {
        Self {
            profile,
            arch: Arch::NATIVE,
            violation: Violation::Errno,
            ports: PortFilter::None,
            unsafe_open: &[],
            kernel,
            caps: 0,
            strict_exec: None,
        }
    }
}

/// Something about a profile that its owner may want to know; none of them makes a program laxer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A rule names a call that no table of ours has: it stays closed.
    UnknownName(String),
    /// A rule names a call that the running kernel is too old for.
    NewerThanKernel(&'static str, (u8, u8)),
    /// The profile lists a foreign ABI, which stays closed.
    AbiClosed(Arch),
    /// Two rules with different answers may both fit a call; the first listed holds.
    Overlap(&'static str),
    /// A rule allows what the floor keeps closed.
    Floor(&'static str, UnsafeItem),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName(name) => write!(f, "unknown system call {name:?} stays closed"),
            Self::NewerThanKernel(name, (major, minor)) => {
                write!(f, "{name} came with kernel {major}.{minor}; the running one does not have it")
            }
            Self::AbiClosed(arch) => {
                write!(f, "programs of the {} ABI are killed unless the policy opens it", arch.short_name())
            }
            Self::Overlap(name) => {
                write!(f, "rules for {name} with different answers may overlap; the first one holds")
            }
            Self::Floor(name, item) => {
                write!(
                    f,
                    "{name} is allowed by the profile and stays closed unless unsafe = [\"{}\"]",
                    item.as_str()
                )
            }
        }
    }
}

/// A graph of this many nodes cannot become a program that the kernel takes.
const MAX_NODES: usize = 2 * MAX_INSTRUCTIONS;

/// Compiles a profile. A built-in one under plain settings was compiled ahead.
///
/// # Errors
/// If the program would be longer than the kernel takes, or the profile is `strict` and no pointers are given.
pub fn compile(settings: &Settings<'_>) -> Result<(Program, Vec<Note>), Error> {
    match ahead::program(settings) {
        Some(program) => Ok((program, Vec::new())),
        None => compile_now(settings),
    }
}

/// Compiles a profile even if its program was compiled ahead.
///
/// # Errors
/// Those of [`compile`].
pub fn compile_now(settings: &Settings<'_>) -> Result<(Program, Vec<Note>), Error> {
    let profile = settings.profile;
    if profile.builtin() == Some(Builtin::Strict) && settings.strict_exec.is_none() {
        return Err(Error::new(
            profile.name(),
            None,
            "strict lets one execve pass and was not told which",
            "use it for a command, not for a shell",
        ));
    }
    let content = profile.content()?;
    let mut notes = Vec::new();
    let mut dag = Dag::default();
    let plan = Plan::new(settings, &content);
    let root = whole(&plan, &mut dag).ok_or_else(|| too_long(profile))?;
    let instructions = emit::emit(&dag, root).map_err(|_| too_long(profile))?;
    // Our own profiles are known to name newer calls and foreign ABIs: nobody need read about it.
    if profile.builtin().is_none() {
        plan.note(&mut notes);
    }
    let flag = |wanted| content.flags.contains(&wanted);
    let flags = jail_sys::seccomp::Flags {
        log: true,
        spec_allow: flag(Flag::SpecAllow),
        tsync: flag(Flag::Tsync),
        wait_killable: flag(Flag::WaitKillable),
    };
    Ok((Program::new(instructions, flags), notes))
}

/// A program that asks a supervisor about every call of the machine's own ABI; foreign ones are answered as the floor does.
///
/// It is the supervisor who holds the floor then: see `learn`.
///
/// # Errors
/// None that a test has not shown to be impossible.
pub fn ask_about_everything() -> Result<Program, Error> {
    let mut dag = Dag::default();
    let (ask, kill) = (dag.answer(Action::Notify), dag.answer(Action::KillProcess));
    let enosys = dag.answer(Action::Errno(ENOSYS));
    let native = dag.test(Test::at_least(Word::NUMBER, X32_BIT), enosys, ask);
    let root = dag.test(Test::equal(Word::ARCH, Arch::NATIVE.audit()), native, kill);
    let instructions =
        emit::emit(&dag, root).map_err(|_| Error::new("learn", None, "the program is too long", ""))?;
    Ok(Program::from_instructions(instructions))
}

fn too_long(profile: &Profile) -> Error {
    Error::new(
        profile.name(),
        None,
        format!("its program is longer than the kernel's {MAX_INSTRUCTIONS} instructions"),
        "use fewer rules with arguments",
    )
}

/// What the rules in force say about one system call.
#[derive(Debug, Clone, Default)]
struct Said<'a> {
    /// The first rule without conditions; it beats those with.
    always: Option<Action>,
    /// The rules with conditions, in order.
    under: Vec<&'a Rule>,
    /// A rule states the default action: it changes nothing, but `violation` does not touch it either.
    states_default: bool,
    /// Any rule names the call, in force or not.
    named: bool,
}

/// A profile held against the host: the same for every ABI.
struct Plan<'a> {
    settings: &'a Settings<'a>,
    content: &'a Content,
    said: Vec<Said<'a>>,
    /// The newest call the profile's author knew: what came later gets ENOSYS.
    era: (u8, u8),
    unknown_names: Vec<&'a str>,
}

impl<'a> Plan<'a> {
    fn new(settings: &'a Settings<'a>, content: &'a Content) -> Self {
        let host = Host { arch: settings.arch, caps: settings.caps, kernel: settings.kernel };
        let said = vec![Said::default(); SYSCALLS.len()];
        let mut plan = Self { settings, content, said, era: (0, 0), unknown_names: Vec::new() };
        for rule in &content.rules {
            let force = rule.in_force(host);
            if force == Force::InForce {
                plan.unknown_names.extend(rule.unknown.iter().map(String::as_str));
            }
            for name in &rule.names {
                let Some(entry) = plan.said.get_mut(name.index()) else { continue };
                plan.era = plan.era.max(name.since());
                entry.named = true;
                if force == Force::InForce {
                    entry.add(rule, content.default);
                }
            }
        }
        plan
    }

    fn note(&self, notes: &mut Vec<Note>) {
        notes.extend(self.unknown_names.iter().map(|name| Note::UnknownName((*name).to_owned())));
        let (major, minor) = self.settings.kernel;
        for (name, said) in Name::all().zip(&self.said) {
            let since = name.since();
            if said.named && (u32::from(since.0), u32::from(since.1)) > (major, minor) {
                notes.push(Note::NewerThanKernel(name.as_str(), since));
            }
            if said.always.is_none() && said.overlaps() {
                notes.push(Note::Overlap(name.as_str()));
            }
        }
        self.floor().each_closed(|name, item| {
            if self.said.get(name.index()).is_some_and(Said::allows_something) {
                notes.push(Note::Floor(name.as_str(), item));
            }
        });
        for arch in self.settings.arch.foreign() {
            if self.content.lists(self.settings.arch, *arch) == Listed::Yes && !self.opens(*arch) {
                notes.push(Note::AbiClosed(*arch));
            }
        }
    }

    fn floor(&self) -> Floor<'a> {
        Floor { opened: self.settings.unsafe_open, ports: self.settings.ports }
    }

    fn opens(&self, arch: Arch) -> bool {
        let item = match arch {
            Arch::X86 => UnsafeItem::I386,
            Arch::X32 => UnsafeItem::X32,
            _ => return true,
        };
        self.settings.unsafe_open.contains(&item)
    }

    /// Foreign ABIs that the profile lists and the policy opens.
    fn foreign(&self, arch: Arch) -> bool {
        self.settings.arch.foreign().contains(&arch)
            && self.content.lists(self.settings.arch, arch) == Listed::Yes
            && self.opens(arch)
    }

    /// The answer to a call that no rule lists, as the policy wants it.
    fn default(&self) -> Action {
        match self.settings.violation {
            Violation::Errno => self.content.default,
            Violation::Kill => Action::KillProcess,
            Violation::Log => Action::Log,
        }
    }

    /// The answer to a call that the profile's author cannot have known.
    fn unknown(&self) -> Action {
        match self.content.default {
            Action::Allow | Action::Log | Action::Trace(_) | Action::Notify => self.default(),
            _ => Action::Errno(ENOSYS),
        }
    }
}

impl<'a> Said<'a> {
    fn add(&mut self, rule: &'a Rule, default: Action) {
        if rule.action == default {
            self.states_default = true;
        } else if rule.args.is_empty() {
            self.always = self.always.or(Some(rule.action));
        } else {
            self.under.push(rule);
        }
    }

    fn allows_something(&self) -> bool {
        let allows = |action: Action| action.rank() > Action::Errno(EPERM).rank();
        match self.always {
            Some(action) => allows(action),
            None => self.under.iter().any(|rule| allows(rule.action)),
        }
    }

    fn overlaps(&self) -> bool {
        let first = self.under.first().map(|rule| rule.action);
        self.under.iter().any(|rule| Some(rule.action) != first)
    }
}

/// The whole program: each ABI's search, told apart by the architecture and x32's bit.
fn whole(plan: &Plan<'_>, dag: &mut Dag) -> Option<Id> {
    let machine = plan.settings.arch;
    let mut root = dag.answer(Action::KillProcess);
    if plan.foreign(Arch::X86) {
        let i386 = abi(plan, Arch::X86, dag)?;
        root = dag.test(Test::equal(Word::ARCH, Arch::X86.audit()), i386, root);
    }
    let mut native = abi(plan, machine, dag)?;
    if machine == Arch::X86_64 {
        let x32 = if plan.foreign(Arch::X32) {
            abi(plan, Arch::X32, dag)?
        } else {
            dag.answer(Action::Errno(ENOSYS))
        };
        native = dag.test(Test::at_least(Word::NUMBER, X32_BIT), x32, native);
    }
    Some(dag.test(Test::equal(Word::ARCH, machine.audit()), native, root))
}

/// The search over the numbers of one ABI. `None` if the graph grows beyond any program.
fn abi(plan: &Plan<'_>, arch: Arch, dag: &mut Dag) -> Option<Id> {
    let decisions = decisions(plan, arch, dag)?;
    let base = if arch == Arch::X32 { X32_BIT } else { 0 };
    let unknown = dag.answer(plan.unknown());
    let mut by_number = Vec::with_capacity(600);
    for (name, decision) in Name::all().zip(&decisions) {
        let Some(place) = name.number(arch).and_then(|nr| nr.checked_sub(base)) else { continue };
        let place = usize::try_from(place).ok()?;
        if by_number.len() <= place {
            by_number.resize(place + 1, unknown);
        }
        if let Some(slot) = by_number.get_mut(place) {
            *slot = *decision;
        }
    }
    by_number.push(unknown);
    let mut intervals: Vec<(u32, Id)> = Vec::with_capacity(256);
    for (place, decision) in by_number.iter().enumerate() {
        if intervals.last().map(|(_, last)| last) != Some(decision) {
            intervals.push((base + u32::try_from(place).ok()?, *decision));
        }
    }
    Some(dag.search(Word::NUMBER, &intervals))
}

/// What each call of the table gets on one ABI, the floor included.
fn decisions(plan: &Plan<'_>, arch: Arch, dag: &mut Dag) -> Option<Vec<Id>> {
    let default = dag.answer(plan.default());
    let stated_default = dag.answer(plan.content.default);
    let unknown = dag.answer(plan.unknown());
    let mut decisions = Vec::with_capacity(plan.said.len());
    // What the profile itself says, without `violation`: the floor gives way only to that.
    let mut stated = Vec::with_capacity(plan.said.len());
    for (said, call) in plan.said.iter().zip(SYSCALLS.iter()) {
        let otherwise = match said {
            Said { states_default: true, .. } => stated_default,
            Said { named: false, .. } if call.since > plan.era => unknown,
            _ => default,
        };
        let decision = said.decide(dag, arch, otherwise);
        stated.push(if otherwise == default && default != stated_default {
            said.decide(dag, arch, stated_default)
        } else {
            decision
        });
        decisions.push(decision);
        if dag.len() > MAX_NODES {
            return None;
        }
    }
    if let Some(pointers) = plan.settings.strict_exec {
        only_this_exec(dag, arch, pointers, &mut decisions, default);
    }
    plan.floor().each(|name, layer| {
        if let (Some(decision), Some(stated)) = (decisions.get_mut(name.index()), stated.get(name.index())) {
            *decision = layer.under(dag, *decision, *stated);
        }
    });
    Some(decisions)
}

impl Said<'_> {
    fn decide(&self, dag: &mut Dag, arch: Arch, otherwise: Id) -> Id {
        if let Some(action) = self.always {
            return dag.answer(action);
        }
        self.under.iter().rev().fold(otherwise, |rest, rule| {
            let fits = dag.answer(rule.action);
            conditions(dag, arch, &rule.args, fits, rest)
        })
    }
}

/// Conditions on different arguments must all hold; as soon as one argument is named twice, any suffices
/// (the container runtimes make a rule of each condition then).
fn conditions(dag: &mut Dag, arch: Arch, args: &[Arg], yes: Id, no: Id) -> Id {
    let repeated = args.iter().enumerate().any(|(i, a)| args.iter().take(i).any(|b| a.index == b.index));
    if repeated {
        args.iter().rev().fold(no, |rest, arg| condition(dag, arch, *arg, yes, rest))
    } else {
        args.iter().rev().fold(yes, |rest, arg| condition(dag, arch, *arg, rest, no))
    }
}

/// One 64-bit comparison by its two halves; 32-bit ABIs have only the low one.
fn condition(dag: &mut Dag, arch: Arch, arg: Arg, yes: Id, no: Id) -> Id {
    let halves = Halves { arg: arg.index, width: arch.width() };
    match arg.op {
        Op::Eq => halves.masked(dag, u64::MAX, arg.value, yes, no),
        Op::Ne => halves.masked(dag, u64::MAX, arg.value, no, yes),
        Op::MaskedEq => halves.masked(dag, arg.value, arg.value_two, yes, no),
        Op::Ge => halves.ordered(dag, Compare::GreaterOrEqual, arg.value, yes, no),
        Op::Lt => halves.ordered(dag, Compare::GreaterOrEqual, arg.value, no, yes),
        Op::Gt => halves.ordered(dag, Compare::Greater, arg.value, yes, no),
        Op::Le => halves.ordered(dag, Compare::Greater, arg.value, no, yes),
    }
}

#[derive(Clone, Copy)]
struct Halves {
    arg: u8,
    width: Width,
}

impl Halves {
    fn masked(self, dag: &mut Dag, mask: u64, value: u64, yes: Id, no: Id) -> Id {
        let (mask_high, mask_low) = split(mask);
        let (value_high, value_low) = split(value);
        let low = Test::masked(Word::low(self.arg), mask_low, value_low);
        if self.width == Width::Low {
            return dag.test(low, yes, no);
        }
        // A chain of such conditions tests the high half once: each continues where the next one's has been tested.
        let high = Test::masked(Word::high(self.arg), mask_high, value_high);
        let (yes_after_high, _) = dag.given(yes, high);
        let (no_after_high, no) = dag.given(no, high);
        let low = dag.test(low, yes_after_high, no_after_high);
        dag.test(high, low, no)
    }

    fn ordered(self, dag: &mut Dag, compare: Compare, value: u64, yes: Id, no: Id) -> Id {
        let (value_high, value_low) = split(value);
        let test = |word, compare, value| Test { word, mask: u32::MAX, compare, value };
        let low = dag.test(test(Word::low(self.arg), compare, value_low), yes, no);
        match self.width {
            Width::Low => low,
            Width::Full => {
                let high = Word::high(self.arg);
                let equal = dag.test(Test::equal(high, value_high), low, no);
                dag.test(test(high, Compare::Greater, value_high), yes, equal)
            }
        }
    }
}

fn split(value: u64) -> (u32, u32) {
    // Both halves fit by construction.
    let high = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (high, low)
}

/// Leaves of execve only the call with these pointers, of execveat nothing.
fn only_this_exec(dag: &mut Dag, arch: Arch, exec: ExecPointers, decisions: &mut [Id], otherwise: Id) {
    let wanted = [(0, exec.path), (1, exec.argv), (2, exec.envp)];
    for (call, keeps) in [("execve", true), ("execveat", false)] {
        let slot = Name::find(call).and_then(|name| decisions.get_mut(name.index()));
        let Some(slot) = slot else { continue };
        let allowed = if keeps { *slot } else { otherwise };
        *slot = wanted.iter().rev().fold(allowed, |rest, (index, value)| {
            let arg = Arg { index: *index, op: Op::Eq, value: *value, value_two: 0 };
            condition(dag, arch, arg, rest, otherwise)
        });
    }
}
