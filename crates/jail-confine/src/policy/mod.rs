//! Policy: what an entry may do, and where each value came from.
//!
//! Merged in this order, later over earlier: built-in, the jail's sections, `[default]`, `[jail]`, `[group]`, `[user]`,
//! and for jail-run its flags.

pub mod file;
pub mod text;
pub mod values;

use std::collections::BTreeMap;
use std::fmt;

use self::file::{Layer, PolicyFile, SectionEntry};
use self::values::{
    AbsolutePath, Accel, Bind, Capability, Count, Cpus, Discard, Home, Isolation, Limit, Limits, Network,
    Root, Seccomp, Session, Size, Stale, Umask, Violation,
};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    BuiltIn,
    /// The sections of the jail.
    Sections,
    /// A table of the policy file, such as `[user.dave]`.
    Table(String),
    /// A flag of jail-run.
    Flag,
}

impl Origin {
    /// Whether a person asked for this value; what a person asked for and cannot be had is a refusal.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        matches!(self, Self::Table(_) | Self::Flag)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Sections => f.write_str("the jail's sections"),
            Self::Table(table) => f.write_str(table),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// The merged policy. Each field is the key of its name in jail-sh.toml(5).
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each field is the policy key of its name; jail-sh.toml(5) describes them")]
pub struct Policy {
    pub network: Network,
    pub root: Root,
    pub discard: Discard,
    pub home: Home,
    pub session: Session,
    pub isolation: Isolation,
    /// `None`: the host's own.
    pub vm_kernel: Option<AbsolutePath>,
    pub vm_accel: Accel,
    pub stale: Stale,
    pub limits: Limits,
    pub memory: Limit<Size>,
    pub cpus: Limit<Cpus>,
    pub processes: Limit<Count>,
    pub open_files: Limit<Count>,
    pub tmp: Size,
    pub seccomp: Seccomp,
    pub violation: Violation,
    pub agent: bool,
    pub hostname: String,
    pub umask: Umask,
    /// `None`: what the jail's passwd says.
    pub shell: Option<AbsolutePath>,
    pub commands: Vec<String>,
    pub env: Vec<String>,
    pub bind: Vec<Bind>,
    pub capabilities: Vec<Capability>,
    pub r#unsafe: Vec<String>,
    pub jail: Option<AbsolutePath>,
    pub home_path: Option<AbsolutePath>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Default for Policy {
    fn default() -> Self {
        let env = ["TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_*", "TZ", "SSH_*"];
        Self {
            network: Network::None,
            root: Root::ReadOnly,
            discard: Discard::Memory,
            home: Home::Own,
            session: Session::Shared,
            isolation: Isolation::Namespaces,
            vm_kernel: None,
            vm_accel: Accel::Any,
            stale: Stale::Join,
            limits: Limits::Required,
            memory: Limit::None,
            cpus: Limit::None,
            processes: Limit::At(Count(512)),
            open_files: Limit::None,
            tmp: Size(256 << 20),
            seccomp: Seccomp::Default,
            violation: Violation::Errno,
            agent: false,
            hostname: "jail".to_owned(),
            umask: Umask(0o022),
            shell: None,
            commands: Vec::new(),
            env: env.map(str::to_owned).to_vec(),
            bind: Vec::new(),
            capabilities: Vec::new(),
            r#unsafe: Vec::new(),
            jail: None,
            home_path: None,
            origins: BTreeMap::new(),
        }
    }
}

/// Applies the keys of a layer to a policy; one line per key would hide that they all do the same.
macro_rules! apply {
    ($policy:ident, $layer:ident, $origin:ident;
     scalars { $($scalar:ident),* } optional { $($optional:ident),* } lists { $($list:ident + $more:ident),* }) => {
        $(if let Some(value) = &$layer.$scalar {
            $policy.$scalar = value.clone();
            $policy.origins.insert(stringify!($scalar), $origin.clone());
        })*
        $(if let Some(value) = &$layer.$optional {
            $policy.$optional = Some(value.clone());
            $policy.origins.insert(stringify!($optional), $origin.clone());
        })*
        $(if let Some(value) = &$layer.$list {
            $policy.$list = value.clone();
            $policy.origins.insert(key_name(stringify!($list)), $origin.clone());
        }
        if let Some(value) = &$layer.$more {
            $policy.$list.extend(value.iter().cloned());
            $policy.origins.insert(key_name(stringify!($list)), $origin.clone());
        })*
    };
}

/// `stringify!` keeps the `r#` of a raw identifier; the key has none.
fn key_name(identifier: &'static str) -> &'static str {
    identifier.strip_prefix("r#").unwrap_or(identifier)
}

impl Policy {
    /// Lays a layer over what is there.
    pub fn apply(&mut self, layer: &Layer, origin: &Origin) {
        let policy = self;
        apply! { policy, layer, origin;
            scalars { network, root, discard, home, session, isolation, stale, limits, memory, cpus, processes, open_files,
                tmp, seccomp, violation, agent, hostname, umask }
            optional { shell, jail, home_path }
            lists { commands + more_commands, env + more_env, bind + more_bind,
                capabilities + more_capabilities, r#unsafe + more_unsafe }
        }
        if let Some(kernel) = &layer.vm.kernel {
            policy.vm_kernel = Some(kernel.clone());
            policy.origins.insert("vm.kernel", origin.clone());
        }
        if let Some(accel) = layer.vm.accel {
            policy.vm_accel = accel;
            policy.origins.insert("vm.accel", origin.clone());
        }
    }

    /// Lays what the sections of the jail ask for over the built-in values.
    pub fn apply_sections(&mut self, entry: &SectionEntry) {
        let layer = Layer {
            network: entry.network.clone(),
            tmp: entry.tmp,
            more_env: (!entry.env.is_empty()).then(|| entry.env.clone()),
            ..Layer::default()
        };
        self.apply(&layer, &Origin::Sections);
    }

    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::BuiltIn)
    }

    /// Every key with its value and origin, in the order of the manual page.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String, &Origin)> {
        let list = |items: &[String]| format!("[{}]", items.join(", "));
        let shown = |items: Vec<String>| list(&items);
        let path =
            |p: &Option<AbsolutePath>, none: &str| p.as_ref().map_or(none.to_owned(), ToString::to_string);
        [
            ("network", self.network.to_string()),
            ("root", self.root.to_string()),
            ("discard", self.discard.to_string()),
            ("home", self.home.to_string()),
            ("session", self.session.to_string()),
            ("stale", self.stale.to_string()),
            ("isolation", self.isolation.to_string()),
            ("vm.kernel", path(&self.vm_kernel, "(the host's own)")),
            ("vm.accel", self.vm_accel.to_string()),
            ("memory", self.memory.to_string()),
            ("cpus", self.cpus.to_string()),
            ("processes", self.processes.to_string()),
            ("open_files", self.open_files.to_string()),
            ("limits", self.limits.to_string()),
            ("tmp", self.tmp.to_string()),
            ("seccomp", self.seccomp.to_string()),
            ("violation", self.violation.to_string()),
            ("unsafe", list(&self.r#unsafe)),
            ("commands", list(&self.commands)),
            ("env", list(&self.env)),
            ("agent", self.agent.to_string()),
            ("bind", shown(self.bind.iter().map(ToString::to_string).collect())),
            ("capabilities", shown(self.capabilities.iter().map(ToString::to_string).collect())),
            ("hostname", self.hostname.clone()),
            ("umask", self.umask.to_string()),
            ("shell", path(&self.shell, "(the jail's passwd)")),
            ("jail", path(&self.jail, "(the account's home)")),
            ("home_path", path(&self.home_path, "(the account's home)")),
        ]
        .map(|(key, value)| (key, value, self.origin(key)))
        .into()
    }
}

/// Who a policy is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The user's name.
    pub user: &'a [u8],
    /// The names of the user's groups.
    pub groups: &'a [Vec<u8>],
}

/// The layers of `[group]` and `[user]` that apply to a subject, in order.
///
/// # Errors
/// Two groups of the user's that give one key different values: neither name says which should win.
pub fn account_layers<'a>(
    file: &'a PolicyFile,
    subject: Subject<'_>,
) -> Result<Vec<(Origin, &'a Layer)>, String> {
    let mut layers: Vec<(Origin, &Layer)> = Vec::new();
    let of_user = |name: &String| subject.groups.iter().any(|group| group == name.as_bytes());
    for (name, layer) in file.group.iter().filter(|(name, _)| of_user(name)) {
        for (other, earlier) in &layers {
            if let Some(key) = conflict(earlier, layer) {
                return Err(format!(
                    "{other} and [group.{name}] give '{key}' different values and the user is in both groups; \
                     set it in [user.{}]",
                    crate::refusal::printable(subject.user)
                ));
            }
        }
        layers.push((Origin::Table(format!("[group.{name}]")), layer));
    }
    if let Some((name, layer)) = file.carried.iter().find(|(name, _)| name.as_bytes() == subject.user) {
        layers.insert(0, (Origin::Table(format!("from-jailkit.toml [user.{name}]")), layer));
    }
    if let Some((name, layer)) = file.user.iter().find(|(name, _)| name.as_bytes() == subject.user) {
        layers.push((Origin::Table(format!("[user.{name}]")), layer));
    }
    Ok(layers)
}

/// The first key that both layers set, to different values.
fn conflict(a: &Layer, b: &Layer) -> Option<&'static str> {
    macro_rules! first_conflict {
        ($($key:ident),*) => {
            $(if a.$key.is_some() && b.$key.is_some() && a.$key != b.$key { return Some(key_name(stringify!($key))); })*
        };
    }
    if a.vm.kernel.is_some() && b.vm.kernel.is_some() && a.vm.kernel != b.vm.kernel {
        return Some("vm.kernel");
    }
    if a.vm.accel.is_some() && b.vm.accel.is_some() && a.vm.accel != b.vm.accel {
        return Some("vm.accel");
    }
    first_conflict!(
        network,
        root,
        discard,
        home,
        session,
        isolation,
        stale,
        limits,
        memory,
        cpus,
        processes,
        open_files,
        tmp,
        seccomp,
        violation,
        agent,
        hostname,
        umask,
        shell,
        commands,
        env,
        bind,
        capabilities,
        r#unsafe,
        jail,
        home_path
    );
    None
}

/// Merges everything that the administrator wrote over what is built in and what the sections ask for.
///
/// # Errors
/// Groups that contradict each other.
pub fn merge(
    file: &PolicyFile,
    sections: Option<&SectionEntry>,
    jail: &[u8],
    subject: Subject<'_>,
) -> Result<Policy, String> {
    let mut policy = Policy::default();
    if let Some(sections) = sections {
        policy.apply_sections(sections);
    }
    policy.apply(&file.default, &Origin::Table("[default]".to_owned()));
    if let Some((name, layer)) = file.jail.iter().find(|(name, _)| name.as_bytes() == jail) {
        policy.apply(layer, &Origin::Table(format!("[jail.\"{name}\"]")));
    }
    for (origin, layer) in account_layers(file, subject)? {
        policy.apply(layer, &origin);
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PolicyFile {
        PolicyFile::parse(text.as_bytes(), "f").expect("valid")
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let file = parse(
            "[default]\nmemory='1G'\nnetwork='none'\n[jail.'/j']\nmemory='2G'\n[group.g]\nroot='writable'\n\
             [user.dave]\nroot='discard'\n'+env'=['X']\n",
        );
        let sections = SectionEntry { network: Some(Network::Host), tmp: None, env: vec!["Y".to_owned()] };
        let subject = Subject { user: b"dave", groups: &[b"g".to_vec()] };
        let policy = merge(&file, Some(&sections), b"/j", subject).expect("merged");
        assert_eq!(policy.memory, Limit::At(Size(2 << 30)));
        assert_eq!(policy.root, Root::Discard);
        assert_eq!(policy.network, Network::None, "the administrator's word over the section's");
        assert_eq!(policy.origin("network"), &Origin::Table("[default]".to_owned()));
        assert_eq!(policy.origin("root"), &Origin::Table("[user.dave]".to_owned()));
        assert!(policy.env.ends_with(&["Y".to_owned(), "X".to_owned()]));
        assert_eq!(policy.origin("tmp"), &Origin::BuiltIn);
    }

    #[test]
    fn groups_that_contradict_are_refused() {
        let file = parse("[group.a]\nseccomp='transfer'\n[group.b]\nseccomp='default'\nroot='writable'\n");
        let both = [b"a".to_vec(), b"b".to_vec()];
        let refused = merge(&file, None, b"/j", Subject { user: b"u", groups: &both }).unwrap_err();
        assert!(
            refused.contains("[group.a]") && refused.contains("[group.b]") && refused.contains("seccomp")
        );
        assert!(merge(&file, None, b"/j", Subject { user: b"u", groups: &both[1..] }).is_ok());
    }
}
