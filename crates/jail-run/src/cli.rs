//! The flags. Every policy key is one, by the same name.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser};
use jail_confine::policy::file::{Layer, VmLayer};
use jail_confine::policy::values::{
    AbsolutePath, Accel, Bind, Capability, Count, Cpus, Discard, Home, Isolation, Limit, Limits, Network,
    Root, Seccomp, Size, Umask, Violation,
};

const EXAMPLES: &str = "\
Examples:
  jail-run basicshell -- bash
  jail-run basicshell --with ./untrusted -- ./untrusted
  jail-run -j /home/jail --user www-data --memory 512M -- \\
    /usr/bin/php job.php
  jail-run --learn job.toml -- ./job
  jail-run ./job.toml --seccomp ./job.json -- ./job
      what it did is all that it may do from then on
  jail-run --vm basicshell --with ./untrusted -- ./untrusted
  jail-run --vm --keep lab basicshell -- bash
      goes on where it was left; jail-run --reset lab puts it back
  jail-run -j /home/jail --user www-data --background \\
    --pidfile /run/job.pid -- /usr/bin/job

Exit status: the command's own (128 + n for a signal); 126 not executable,
127 not found; 125 refused, or failed before the command ran.";

/// What a person types.
#[derive(Debug, Parser)]
#[command(
    name = "jail-run",
    version,
    about = "Runs a command in a jail, with or without root",
    long_about = "Runs a command in a jail: namespaces, a read-only root, no capabilities, no new privileges, Landlock \
                  and a seccomp filter. Without -j the jail is made from sections, kept under the cache, and thrown \
                  away with what the command wrote.",
    after_help = EXAMPLES,
    override_usage = "jail-run [-j JAIL | SECTION...] [--with PATH]... [OPTIONS] -- COMMAND..."
)]
pub struct Cli {
    /// Sections to make the jail from, such as basicshell; with a slash in it, a section's file
    #[arg(value_name = "SECTION")]
    pub sections: Vec<String>,
    /// Enter this jail instead of making one
    #[arg(short, long, value_name = "JAIL", conflicts_with_all = ["sections", "with"])]
    pub jail: Option<PathBuf>,
    /// Bring in a program or directory of the host, read-only at its own path, with the libraries it needs
    #[arg(long, value_name = "PATH")]
    pub with: Vec<PathBuf>,
    /// Root only: whom the command runs as
    #[arg(long, value_name = "NAME|UID[:GID]")]
    pub user: Option<String>,
    /// Root only: the command's group, instead of the user's own
    #[arg(long, value_name = "NAME|GID", requires = "user")]
    pub group: Option<String>,
    /// Return as soon as the command has started, and leave it running without a terminal
    #[arg(long)]
    pub background: bool,
    /// Write the pid of jail-run there once the command has started; a signal to it reaches the command
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Write a line to this open descriptor once the command has started, for a supervisor
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
    /// Start in this directory, as seen inside
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,
    /// Run the command on the host's own files, which it cannot change, and write from what it did the section FILE
    /// (NAME.toml) and beside it the seccomp profile NAME.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sections", "jail", "with", "user", "background", "pidfile",
        "ready_fd", "explain"])]
    pub learn: Option<PathBuf>,
    /// Keep a virtual machine's disk under this name: what it changes in its jail and in its home (/home) is there the next
    /// time. jail-list shows the machines
    #[arg(long, value_name = "NAME", conflicts_with = "learn")]
    pub keep: Option<String>,
    /// How large the disk of a new machine is made, such as 4G; it takes no more than is written
    #[arg(long, value_name = "SIZE", requires = "keep")]
    pub disk: Option<Size>,
    /// Put a machine that is kept back as it was made, and run nothing
    #[arg(long, value_name = "NAME", conflicts_with_all = ["sections", "jail", "with", "keep", "learn", "command"])]
    pub reset: Option<String>,
    /// Print the merged policy with where each value came from, and run nothing
    #[arg(long)]
    pub explain: bool,
    /// What the session may do.
    #[command(flatten)]
    pub policy: PolicyFlags,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The policy keys as flags.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Policy (as in jail-sh.toml(5))")]
pub struct PolicyFlags {
    /// none, host, private, or ports: connect=443,53:bind=8080
    #[arg(long, value_parser = network)]
    pub network: Option<Network>,
    /// read-only, writable or discard
    #[arg(long)]
    pub root: Option<Root>,
    /// memory or disk (root only): where changes to a discarded root lie until then
    #[arg(long)]
    pub discard: Option<Discard>,
    /// own or all: which homes of a jail are there
    #[arg(long)]
    pub home: Option<Home>,
    /// namespaces, chroot or vm
    #[arg(long)]
    pub isolation: Option<Isolation>,
    /// Run it in a virtual machine of its own: the same as --isolation vm
    #[arg(long, conflicts_with = "isolation")]
    pub vm: bool,
    /// The kernel that a virtual machine boots, instead of the host's own
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub vm_kernel: Option<AbsolutePath>,
    /// kvm or any: whether a virtual machine may be emulated where the processor cannot run it
    #[arg(long)]
    pub vm_accel: Option<Accel>,
    /// Memory, such as 512M
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Limit<Size>>,
    /// Share of processors, such as 0.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<Limit<Cpus>>,
    /// How many processes
    #[arg(long, value_name = "N")]
    pub processes: Option<Limit<Count>>,
    /// How many open files a process may have
    #[arg(long, value_name = "N")]
    pub open_files: Option<Limit<Count>>,
    /// required or best-effort: what happens if a limit cannot be set
    #[arg(long)]
    pub limits: Option<Limits>,
    /// Size of /tmp, /var/tmp, /run and /dev/shm together
    #[arg(long, value_name = "SIZE")]
    pub tmp: Option<Size>,
    /// default, transfer, strict, off, or the path of a Docker or OCI JSON profile
    #[arg(long, value_name = "NAME|FILE", value_parser = seccomp)]
    pub seccomp: Option<Seccomp>,
    /// errno, kill or log
    #[arg(long)]
    pub violation: Option<Violation>,
    /// A part of the seccomp floor to open; may be given more than once
    #[arg(long = "unsafe", value_name = "PART")]
    pub unsafe_parts: Vec<String>,
    /// A directory of the host to show: FROM:TO, or FROM:TO:ro for reading only
    #[arg(long, value_name = "FROM:TO[:ro]", value_parser = bind)]
    pub bind: Vec<Bind>,
    /// Set a variable, or let one through by name (LC_* for all that begin so)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// A program that may be run; with one given, no other can be executed or read. May be given more than once
    #[arg(long, value_name = "NAME|PATH")]
    pub commands: Vec<String>,
    /// Bring in the caller's ssh agent
    #[arg(long)]
    pub agent: bool,
    /// A capability to keep, such as net_bind_service
    #[arg(long, value_name = "NAME")]
    pub capabilities: Vec<Capability>,
    /// Name of the host inside
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// File mode creation mask, such as 077
    #[arg(long, value_name = "MASK")]
    pub umask: Option<Umask>,
}

/// The definition, for man page and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

impl PolicyFlags {
    /// The flags as a layer of policy.
    #[must_use]
    pub fn layer(&self) -> Layer {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let names: Vec<String> = self
            .env
            .iter()
            .filter_map(|variable| variable.to_str())
            .filter(|variable| !variable.contains('='))
            .map(str::to_owned)
            .collect();
        Layer {
            network: self.network.clone(),
            root: self.root,
            discard: self.discard,
            home: self.home,
            isolation: if self.vm { Some(Isolation::Vm) } else { self.isolation },
            vm: VmLayer { kernel: self.vm_kernel.clone(), accel: self.vm_accel },
            memory: self.memory,
            cpus: self.cpus,
            processes: self.processes,
            open_files: self.open_files,
            limits: self.limits,
            tmp: self.tmp,
            seccomp: self.seccomp.clone(),
            violation: self.violation,
            more_unsafe: some(&self.unsafe_parts),
            more_bind: (!self.bind.is_empty()).then(|| self.bind.clone()),
            more_env: some(&names),
            more_capabilities: (!self.capabilities.is_empty()).then(|| self.capabilities.clone()),
            more_commands: some(&self.commands),
            agent: self.agent.then_some(true),
            hostname: self.hostname.clone(),
            umask: self.umask,
            ..Layer::default()
        }
    }

    /// The variables that are set, not just let through.
    #[must_use]
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let split = |variable: &OsString| {
            let bytes = variable.as_bytes();
            let at = bytes.iter().position(|b| *b == b'=')?;
            let (name, value) = (bytes.get(..at)?, bytes.get(at.checked_add(1)?..)?);
            Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
        };
        self.env.iter().filter_map(split).collect()
    }
}

/// `none`, `host`, or `connect=443,53:bind=8080`.
fn network(word: &str) -> Result<Network, String> {
    if !word.contains('=') {
        return word.parse();
    }
    let (mut connect, mut bind) = (Vec::new(), Vec::new());
    for part in word.split(':') {
        let (ports, list) = match part.split_once('=') {
            Some(("connect", ports)) => (ports, &mut connect),
            Some(("bind", ports)) => (ports, &mut bind),
            _ => return Err(format!("'{part}' is neither connect=PORTS nor bind=PORTS")),
        };
        for port in ports.split(',') {
            list.push(port.parse().map_err(|_| format!("'{port}' is no port"))?);
        }
    }
    Ok(Network::Ports { connect, bind })
}

/// A file's name may be relative here.
fn seccomp(word: &str) -> Result<Seccomp, String> {
    match word.parse() {
        Err(_) if word.contains('/') || word.contains('.') => std::path::absolute(word)
            .map_err(|error| error.to_string())
            .and_then(|path| path.to_str().ok_or_else(|| "the path is not UTF-8".to_owned())?.parse()),
        other => other,
    }
}

fn absolute(word: &str) -> Result<AbsolutePath, String> {
    let path = std::path::absolute(word).map_err(|error| error.to_string())?;
    path.to_str().ok_or_else(|| "the path is not UTF-8".to_owned())?.parse()
}

fn bind(word: &str) -> Result<Bind, String> {
    let mut parts = word.split(':');
    let wrong = || format!("'{word}' is not FROM:TO or FROM:TO:ro");
    let (from, to) = (parts.next().ok_or_else(wrong)?, parts.next().ok_or_else(wrong)?);
    let read_only = match (parts.next(), parts.next()) {
        (None, _) => false,
        (Some("ro"), None) => true,
        _ => return Err(wrong()),
    };
    Ok(Bind { from: from.parse()?, to: to.parse()?, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn flags_become_policy() {
        let cli = Cli::try_parse_from([
            "jail-run",
            "basicshell",
            "--memory",
            "512M",
            "--cpus",
            "0.5",
            "--network",
            "connect=443,53:bind=8080",
            "--bind",
            "/srv/a:/a:ro",
            "--env",
            "X=1",
            "--env",
            "LC_*",
            "--",
            "true",
            "-x",
        ])
        .expect("parsed");
        let layer = cli.policy.layer();
        assert_eq!(layer.memory, Some(Limit::At(Size(512 << 20))));
        assert_eq!(layer.network, Some(Network::Ports { connect: vec![443, 53], bind: vec![8080] }));
        assert_eq!(layer.more_env, Some(vec!["LC_*".to_owned()]));
        assert_eq!(cli.policy.variables(), [("X".into(), "1".into())]);
        assert!(layer.more_bind.is_some_and(|binds| binds[0].read_only));
        assert_eq!(cli.command, ["true", "-x"]);
        assert!(
            Cli::try_parse_from(["jail-run", "basicshell", "true"]).is_ok_and(|cli| cli.command.is_empty())
        );
    }
}
