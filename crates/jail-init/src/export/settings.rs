//! From the policy of a jail to what a container engine starts it with.
//!
//! An image carries a user, variables, a command, labels; a policy says more than that. What an image cannot carry is named
//! in a note, never dropped in silence: an administrator must know what the engine has to be told by flags.

use std::collections::BTreeMap;
use std::path::Path;

use jail_accounts::{group, passwd};
use jail_confine::policy::file::{EntryFile, SectionEntry};
use jail_confine::policy::values::{Limit, Seccomp, Violation};
use jail_confine::policy::{self, Policy, merge};
use jail_confine::seccomp::Builtin;
use jail_confine::{admission, environment};
use jail_provision::error::{Error, Result};
use jail_provision::host::{Host as _, RealHost};
use jail_provision::jailroot::JailRoot;
use jail_provision::manifest::Manifest;
use jail_provision::state::State;
use jail_provision::text;
use serde_json::Value;

use super::subject::Subject;
use crate::oci;

/// No account of the jail's: an image runs as nobody unless it is told who.
const NOBODY: u32 = 65_534;

/// Who runs in the container.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Everything that is told to a container engine.
pub(crate) struct Container {
    pub(crate) user: User,
    pub(crate) policy: Policy,
    pub(crate) image: oci::Settings,
    /// The seccomp profile, in Docker's form; `None` if the policy has none.
    pub(crate) seccomp: Option<Vec<u8>>,
    pub(crate) notes: Vec<String>,
}

/// The label with the software bill of material; it comes to the others once the bill is made.
pub(crate) const BILL: &str = "org.jailwright.sbom";

/// The settings of a jail for one user of it, or for nobody.
///
/// # Errors
/// There is no such user, or the policy or the seccomp profile cannot be read.
pub(crate) fn container(subject: &Subject, name: Option<&str>) -> Result<Container> {
    let Subject { jail, state, manifest, .. } = subject;
    let user = user(subject, name)?;
    let policy = policy(jail, state, name)?;
    let seccomp = seccomp(&policy)?;
    let mut notes = Vec::new();
    not_carried(&policy, &mut notes);
    let image = image_settings(&user, &policy, manifest);
    Ok(Container { user, policy, image, seccomp, notes })
}

fn user(subject: &Subject, name: Option<&str>) -> Result<User> {
    let jail = &subject.jail;
    let file = jail.read(Path::new("/etc/passwd"), 16 << 20).unwrap_or_default();
    let Some(name) = name else {
        let has_bash = subject.roots().iter().any(|root| root.stat(Path::new("/bin/bash")).is_ok());
        let shell = if has_bash { "/bin/bash" } else { "/bin/sh" };
        let (home, shell) = ("/".to_owned(), shell.to_owned());
        return Ok(User { name: "nobody".to_owned(), uid: NOBODY, gid: NOBODY, home, shell });
    };
    let Some(entry) = passwd::by_name(&file, name.as_bytes()) else {
        let names: Vec<String> =
            passwd::entries(&file).map(|e| String::from_utf8_lossy(e.name).into_owned()).collect();
        return Err(Error::usage(format!("{} has no user '{name}'", text::quote(jail.path())))
            .hint(format!("there are: {}; jail-user -j JAIL USER puts another in", names.join(", "))));
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let shell = if entry.shell.is_empty() || entry.shell.ends_with(b"/jail-sh") {
        "/bin/sh".to_owned()
    } else {
        text(entry.shell)
    };
    Ok(User { name: name.to_owned(), uid: entry.uid, gid: entry.gid, home: text(entry.home), shell })
}

/// Root's jails follow the administrator's file; those of others, as jail-run does, what is built in and the sections.
fn policy(jail: &JailRoot, state: &State, name: Option<&str>) -> Result<Policy> {
    let path = state.entry_path();
    let sections = match std::fs::read(&path) {
        Ok(bytes) => {
            let shown = path.display().to_string();
            EntryFile::parse(&bytes, &shown).map_err(|e| Error::profile(e.to_string()))?.entry
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => SectionEntry::default(),
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    let file = if rustix::process::geteuid().is_root() {
        admission::policy_file().map_err(|refusal| Error::profile(refusal.why))?
    } else {
        jail_confine::policy::file::PolicyFile::default()
    };
    let groups = RealHost::system().read(Path::new("/etc/group"), 16 << 20).unwrap_or_default();
    let user = name.unwrap_or("").as_bytes();
    let groups: Vec<Vec<u8>> = group::groups_of(&groups, user)
        .into_iter()
        .filter_map(|gid| group::by_gid(&groups, gid).map(|entry| entry.name.to_vec()))
        .collect();
    let jail = std::os::unix::ffi::OsStrExt::as_bytes(jail.path().as_os_str());
    merge(&file, Some(&sections), jail, policy::Subject { user, groups: &groups }).map_err(Error::profile)
}

/// The profile as an engine reads it. What our floor adds is not in it: the engine's own default leaves most of that out too.
fn seccomp(policy: &Policy) -> Result<Option<Vec<u8>>> {
    let builtin = match &policy.seccomp {
        Seccomp::Default => Builtin::Default,
        Seccomp::Transfer => Builtin::Transfer,
        Seccomp::Strict => Builtin::Strict,
        Seccomp::Off => return Ok(None),
        Seccomp::File(path) => {
            let path = Path::new(&path.0);
            let json = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            jail_confine::seccomp::parse(&json, &path.display().to_string())
                .map_err(|e| Error::profile(e.to_string()))?;
            return answering(json, policy.violation).map(Some);
        }
    };
    builtin.json().map(|json| answering(json.to_vec(), policy.violation)).transpose()
}

/// Another answer to what the profile does not allow, if the policy asks for one; else the profile stays as it is.
fn answering(json: Vec<u8>, violation: Violation) -> Result<Vec<u8>> {
    let action = match violation {
        Violation::Errno => return Ok(json),
        Violation::Kill => "SCMP_ACT_KILL_PROCESS",
        Violation::Log => "SCMP_ACT_LOG",
    };
    let failed = |e: serde_json::Error| Error::profile(format!("the seccomp profile is no JSON: {e}"));
    let mut profile: Value = serde_json::from_slice(&json).map_err(failed)?;
    if let Some(profile) = profile.as_object_mut() {
        profile.insert("defaultAction".to_owned(), action.into());
        profile.remove("defaultErrnoRet");
        profile.remove("defaultErrno");
    }
    serde_json::to_vec_pretty(&profile).map_err(failed)
}

fn image_settings(user: &User, policy: &Policy, manifest: &Manifest) -> oci::Settings {
    let env = [
        ("PATH", environment::PATH),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
    ];
    let labels = BTreeMap::from([
        ("org.jailwright.sections".to_owned(), manifest.sections.join(" ")),
        ("org.jailwright.network".to_owned(), policy.network.to_string()),
        ("org.jailwright.env".to_owned(), policy.env.join(" ")),
        ("org.jailwright.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    // A list of one command is what a container's entrypoint is. A shell that the policy names is the way in too; one that
    // it does not name is only what runs if nothing else is asked for.
    let (entrypoint, cmd) = match (policy.commands.as_slice(), &policy.shell) {
        ([only], _) => (Some(vec![only.clone()]), None),
        (_, Some(shell)) => (Some(vec![shell.0.clone()]), None),
        _ => (None, Some(vec![user.shell.clone()])),
    };
    oci::Settings {
        user: format!("{}:{}", user.uid, user.gid),
        env: Some(env.map(|(name, value)| format!("{name}={value}")).to_vec()),
        entrypoint,
        cmd,
        working_dir: user.home.clone(),
        labels: Some(labels),
    }
}

/// What the policy says and an image cannot: the engine has to be told.
fn not_carried(policy: &Policy, notes: &mut Vec<String>) {
    match policy.seccomp {
        Seccomp::Transfer => notes.push(
            "the profile 'transfer' is too narrow for an engine to set a container up under it: add --security-opt \
             no-new-privileges, and it is loaded last"
                .to_owned(),
        ),
        Seccomp::Strict => notes.push(
            "no engine can start a container under the profile 'strict': it allows nothing but reading, writing and ending"
                .to_owned(),
        ),
        _ => {}
    }
    if policy.commands.len() > 1 {
        notes.push("the list of commands stays behind: a container engine has none".to_owned());
    }
    if !policy.r#unsafe.is_empty() {
        notes.push(
            "'unsafe' stays behind: it opens parts of jail-sh's own floor, which an engine does not have"
                .into(),
        );
    }
    if policy.agent {
        notes.push("'agent' stays behind: a container has no agent's socket".to_owned());
    }
    if let Limit::At(files) = &policy.open_files {
        notes.push(format!("open_files = {files} is for the engine: podman run --ulimit nofile={files}"));
    }
}
