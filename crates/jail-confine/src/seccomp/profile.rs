//! A profile as written: the JSON of Docker, of the OCI runtime specification and of containers-common, read strictly.
//!
//! The three are one format with a few keys of their own each; a key that none of them has is refused with its line,
//! since a misspelt `excludes` would silently allow. Nothing is decided here: `compile` does that.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::action::Action;
use super::arch::{Arch, TOKENS};
use super::error::Error;
use super::names::Name;
use super::{caps, errno};

/// Larger than any real profile (Docker's has 13 KB), small enough to be no bomb.
const MAX_BYTES: usize = 1 << 20;
/// The kernel takes 4,096 instructions, so more rules than this cannot fit in any case.
const MAX_RULES: usize = 8192;
/// A rule has at most six distinct arguments; repeated ones mean "or".
const MAX_ARGS: usize = 256;

/// A profile's content, found well-formed.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) default: Action,
    pub(super) architectures: Architectures,
    pub(super) flags: Vec<Flag>,
    pub(super) rules: Vec<Rule>,
}

impl Content {
    /// Allows everything, so that only the floor is left.
    pub(super) fn allow_all() -> Self {
        Self {
            default: Action::Allow,
            architectures: Architectures::default(),
            flags: Vec::new(),
            rules: Vec::new(),
        }
    }

    pub(super) fn lists(&self, native: Arch, foreign: Arch) -> Listed {
        self.architectures.lists(native.token(), foreign.token())
    }
}

/// The ABIs a profile wants besides the machine's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Architectures {
    tokens: Vec<Token>,
    map: Vec<ArchMap>,
}

/// Whether a profile lists an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    Yes,
    No,
}

impl Architectures {
    fn lists(&self, native: &str, token: &str) -> Listed {
        let in_map = self
            .map
            .iter()
            .filter(|entry| entry.architecture.0 == native)
            .flat_map(|entry| &entry.sub_architectures)
            .any(|sub| sub.0 == token);
        if in_map || self.tokens.iter().any(|t| t.0 == token) { Listed::Yes } else { Listed::No }
    }
}

/// One rule: these calls, under these conditions, get this answer.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) names: Vec<Name>,
    pub(super) unknown: Vec<String>,
    pub(super) action: Action,
    pub(super) args: Vec<Arg>,
    pub(super) includes: Filter,
    pub(super) excludes: Filter,
}

/// When a rule is in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<MinKernel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawFilter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<MinKernel>,
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer, |RawFilter { caps, arches, min_kernel }| Ok(Self { caps, arches, min_kernel }))
    }
}

/// What `includes` and `excludes` are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    pub(super) arch: Arch,
    pub(super) caps: u64,
    pub(super) kernel: (u32, u32),
}

/// Whether a rule is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    InForce,
    NotHere,
}

impl Filter {
    /// As `includes`: every given kind must fit, and all capabilities.
    fn all_fit(&self, host: Host) -> bool {
        let held = |name: &String| caps::bit(name).is_some_and(|bit| host.caps & bit != 0);
        self.caps.iter().flatten().all(held)
            && self.arches.as_ref().is_none_or(|list| list.is_empty() || names_arch(list, host.arch))
            && self.min_kernel.as_ref().is_none_or(|min| min.reached(host.kernel))
    }

    /// As `excludes`: any that fits.
    fn any_fits(&self, host: Host) -> bool {
        let held = |name: &String| caps::bit(name).is_some_and(|bit| host.caps & bit != 0);
        self.caps.iter().flatten().any(held)
            || self.arches.as_ref().is_some_and(|list| names_arch(list, host.arch))
            || self.min_kernel.as_ref().is_some_and(|min| min.0.is_some() && min.reached(host.kernel))
    }
}

fn names_arch(list: &[String], native: Arch) -> bool {
    list.iter().any(|arch| arch == native.short_name())
}

impl Rule {
    pub(super) fn in_force(&self, host: Host) -> Force {
        if self.includes.all_fit(host) && !self.excludes.any_fits(host) {
            Force::InForce
        } else {
            Force::NotHere
        }
    }
}

/// `minKernel`: "4.8", compared with the kernel's first two numbers; "" is no condition.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct MinKernel(Option<(u32, u32)>);

impl MinKernel {
    fn reached(&self, kernel: (u32, u32)) -> bool {
        self.0.is_none_or(|min| kernel >= min)
    }
}

impl TryFrom<String> for MinKernel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let parsed = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parsed {
            Some(min) if min != (0, 0) => Ok(Self(Some(min))),
            _ => Err(format!("minKernel {text:?} is not two numbers such as \"4.8\"")),
        }
    }
}

/// One condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arg {
    pub(super) index: u8,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) value_two: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawArg {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Op,
}

impl RawArg {
    fn check(self) -> Result<Arg, String> {
        let index = u8::try_from(self.index).ok().filter(|i| *i < 6);
        let index = index.ok_or_else(|| format!("argument index {} is not 0 to 5", self.index))?;
        Ok(Arg { index, op: self.op, value: self.value, value_two: self.value_two })
    }
}

impl<'de> Deserialize<'de> for Arg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer, RawArg::check)
    }
}

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// How a program is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillable,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum ActionName {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// An architecture by its OCI name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Token(String);

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match TOKENS.binary_search(&text.as_str()) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(format!("unknown architecture {text:?}")),
        }
    }
}

#[derive(Debug, Clone)]
struct ArchMap {
    architecture: Token,
    sub_architectures: Vec<Token>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawArchMap {
    architecture: Token,
    sub_architectures: Option<Vec<Token>>,
}

impl<'de> Deserialize<'de> for ArchMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer, |raw: RawArchMap| {
            let sub_architectures = raw.sub_architectures.unwrap_or_default();
            Ok(Self { architecture: raw.architecture, sub_architectures })
        })
    }
}

/// A profile as an object; what it lacks is checked afterwards.
struct Whole(RawProfile);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer, |raw| Ok(Self(raw)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawProfile {
    default_action: Option<ActionName>,
    default_errno_ret: Option<u64>,
    default_errno: Option<String>,
    arch_map: Option<Vec<ArchMap>>,
    architectures: Option<Vec<Token>>,
    flags: Option<Vec<Flag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawRule {
    names: Option<NameList>,
    name: Option<String>,
    action: ActionName,
    errno_ret: Option<u64>,
    errno: Option<String>,
    args: Option<Vec<Arg>>,
    // Read so that it is accepted; it says nothing to us.
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer, RawRule::check)
    }
}

/// Reads an object and checks it while its line is still known. (serde's derived code would also take a list in its place.)
fn object<'de, D, Raw, Checked>(
    deserializer: D,
    check: fn(Raw) -> Result<Checked, String>,
) -> Result<Checked, D::Error>
where
    D: Deserializer<'de>,
    Raw: Deserialize<'de>,
{
    struct Object<Raw, Checked>(fn(Raw) -> Result<Checked, String>);
    impl<'de, Raw: Deserialize<'de>, Checked> Visitor<'de> for Object<Raw, Checked> {
        type Value = Checked;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Checked, A::Error> {
            let raw = Raw::deserialize(MapAccessDeserializer::new(map))?;
            (self.0)(raw).map_err(serde::de::Error::custom)
        }
    }
    deserializer.deserialize_map(Object(check))
}

impl RawRule {
    fn check(self) -> Result<Rule, String> {
        let list = match (self.names, self.name) {
            (Some(_), Some(_)) => return Err("a rule has both name and names".to_owned()),
            (Some(list), None) => list,
            (None, Some(name)) => NameList::one(name),
            (None, None) => NameList::default(),
        };
        if list.known.is_empty() && list.unknown.is_empty() {
            return Err("a rule names no system call".to_owned());
        }
        let args = self.args.unwrap_or_default();
        if args.len() > MAX_ARGS {
            return Err(format!("a rule has {} argument conditions, more than {MAX_ARGS}", args.len()));
        }
        Ok(Rule {
            names: list.known,
            unknown: list.unknown,
            action: action(self.action, self.errno_ret, self.errno.as_deref())?,
            args,
            includes: self.includes.unwrap_or_default(),
            excludes: self.excludes.unwrap_or_default(),
        })
    }
}

/// Joins an action with its errno, given as a number or (containers-common, where it wins) as a name.
fn action(name: ActionName, ret: Option<u64>, text: Option<&str>) -> Result<Action, String> {
    let by_name = match text.filter(|t| !t.is_empty()) {
        Some(text) => Some(errno::number(text).ok_or_else(|| format!("unknown errno {text:?}"))?),
        None => None,
    };
    let data = match (by_name, ret) {
        (Some(number), _) => Some(number),
        (None, Some(ret)) => {
            Some(u16::try_from(ret).map_err(|_| format!("errnoRet {ret} is larger than 65535"))?)
        }
        (None, None) => None,
    };
    match (name, data) {
        (ActionName::Errno, Some(errno)) if errno > errno::MAX => {
            Err(format!("errnoRet {errno} is larger than {}, the kernel's limit", errno::MAX))
        }
        (ActionName::Errno, errno) => Ok(Action::Errno(errno.unwrap_or(errno::EPERM))),
        (ActionName::Trace, data) => Ok(Action::Trace(data.unwrap_or(errno::EPERM))),
        (ActionName::Notify, _) => {
            Err("SCMP_ACT_NOTIFY needs a supervisor that stays, which a jail does not have".to_owned())
        }
        (_, Some(_)) => Err("an errno is given to an action that returns none".to_owned()),
        (ActionName::KillThread, None) => Ok(Action::KillThread),
        (ActionName::KillProcess, None) => Ok(Action::KillProcess),
        (ActionName::Trap, None) => Ok(Action::Trap),
        (ActionName::Allow, None) => Ok(Action::Allow),
        (ActionName::Log, None) => Ok(Action::Log),
    }
}

/// The names of a rule, looked up while they are read, so that the usual name costs no allocation.
#[derive(Debug, Default)]
struct NameList {
    known: Vec<Name>,
    unknown: Vec<String>,
}

impl NameList {
    fn one(name: String) -> Self {
        match Name::find(&name) {
            Some(known) => Self { known: vec![known], unknown: Vec::new() },
            None => Self { known: Vec::new(), unknown: vec![name] },
        }
    }

    fn take(&mut self, name: &str) {
        match Name::find_after(name, self.known.last().copied()) {
            Some(known) => self.known.push(known),
            None => self.unknown.push(name.to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for NameList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = NameList;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of system call names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NameList, A::Error> {
                let mut list = NameList::default();
                while seq.next_element_seed(OneName(&mut list))?.is_some() {}
                Ok(list)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

struct OneName<'a>(&'a mut NameList);

impl<'de> DeserializeSeed<'de> for OneName<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for OneName<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a system call")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        self.0.take(name);
        Ok(())
    }
}

/// Reads a profile's content. `file` is only its name, for messages.
pub(super) fn read(json: &[u8], file: &str) -> Result<Content, Error> {
    let refuse = |line, what: String, hint| Err(Error::new(file, line, what, hint));
    if json.len() > MAX_BYTES {
        return refuse(
            None,
            format!("{} bytes are more than {MAX_BYTES}", json.len()),
            "split or shorten it",
        );
    }
    let raw = match serde_json::from_slice::<Whole>(json) {
        Ok(Whole(raw)) => raw,
        Err(error) => {
            let text = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            let what = text.strip_suffix(&place).unwrap_or(&text);
            return refuse(Some(error.line()), what.to_owned(), "see docs/seccomp.md for the format");
        }
    };
    if raw.listener_path.is_some() || raw.listener_metadata.is_some() {
        let what = "listenerPath needs a supervisor that stays, which a jail does not have";
        return refuse(None, what.to_owned(), "remove it, and rules with SCMP_ACT_NOTIFY");
    }
    if raw.arch_map.is_some() && raw.architectures.is_some() {
        return refuse(None, "both archMap and architectures are given".to_owned(), "keep one of them");
    }
    let Some(default) = raw.default_action else {
        let hint = "add one, such as SCMP_ACT_ERRNO; for no profile at all write seccomp = \"off\"";
        return refuse(None, "defaultAction is missing".to_owned(), hint);
    };
    let default = match action(default, raw.default_errno_ret, raw.default_errno.as_deref()) {
        Ok(default) => default,
        Err(what) => {
            return refuse(None, format!("default: {what}"), "correct defaultAction or defaultErrnoRet");
        }
    };
    let rules = raw.syscalls.unwrap_or_default();
    if rules.len() > MAX_RULES {
        let what = format!("{} rules are more than {MAX_RULES}", rules.len());
        return refuse(None, what, "join rules that have the same action");
    }
    let architectures = Architectures {
        tokens: raw.architectures.unwrap_or_default(),
        map: raw.arch_map.unwrap_or_default(),
    };
    let flags = raw.flags.unwrap_or_default();
    Ok(Content { default, architectures, flags, rules })
}
