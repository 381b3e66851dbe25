//! The command line: jailkit's flags with their meaning, and ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, CommandFactory, Parser};

/// Puts accounts into jails and takes them out again.
#[derive(Debug, Parser)]
#[command(name = "jail-user", version, max_term_width = 100, after_help = EXAMPLES)]
#[command(group(ArgGroup::new("what").args(["release", "move_to", "remove", "from_jailkit", "back"])))]
pub struct Cli {
    /// The jail (with --release: found from the account if left out; with --from-jailkit and --back: only accounts in it)
    #[arg(short, long, value_name = "JAIL")]
    pub jail: Option<PathBuf>,

    /// Move the home into the jail; without it a new one is made from /etc/skel
    #[arg(short, long = "move", conflicts_with = "what")]
    pub move_home: bool,

    /// Leave the home and passwd's word of it where they are: the cell mounts it at the same path
    #[arg(short, long, conflicts_with_all = ["what", "move_home"])]
    pub bind_home: bool,

    /// Make the accounts first, by the host's own useradd, with a home in the jail
    #[arg(long, conflicts_with_all = ["what", "move_home"])]
    pub create: bool,

    /// Let these public keys in (a file as ssh-keygen makes it, - for standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "what")]
    pub key: Option<PathBuf>,

    /// The shell in the jail; else the account's own if the jail has it, else bash
    #[arg(short, long, value_name = "PATH", conflicts_with_all = ["release", "remove", "back"])]
    pub shell: Option<PathBuf>,

    /// Accepted for jailkit's sake: we never ask
    #[arg(short, long)]
    pub noninteractive: bool,

    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,

    /// Show what would be done, as a diff, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Report in JSON
    #[arg(long)]
    pub json: bool,

    /// Go on in spite of running processes or of changes made to the account since
    #[arg(short, long)]
    pub force: bool,

    /// Take accounts out of the jail, as they were before
    #[arg(short, long)]
    pub release: bool,

    /// Move accounts, homes and all, from their jail to another one
    #[arg(long, value_name = "JAIL")]
    pub move_to: Option<PathBuf>,

    /// Delete accounts: out of the jail, then by the host's own userdel; the home stays where it is
    #[arg(long)]
    pub remove: bool,

    /// With --remove: delete the home as well
    #[arg(long, requires = "remove")]
    pub with_home: bool,

    /// Take over accounts that jailkit jailed, with what /etc/jailkit says of them
    #[arg(long)]
    pub from_jailkit: bool,

    /// Give accounts that came from jailkit back to it, as they were
    #[arg(long)]
    pub back: bool,

    /// With --from-jailkit and --back: every account that it concerns
    #[arg(long)]
    pub all: bool,

    /// Also the accounts that a file names, one a line (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    /// Also the members of a group of the host
    #[arg(long, value_name = "GROUP")]
    pub group: Option<OsString>,

    /// The login shell that jailed accounts get; else the jail-sh beside this program
    #[arg(long, value_name = "PATH")]
    pub login_shell: Option<PathBuf>,

    /// The accounts
    #[arg(value_name = "USER")]
    pub users: Vec<OsString>,
}

const EXAMPLES: &str = "EXAMPLES:
  jail-user -j /home/jail -m dave
      put dave and his home into the jail
  jail-user -j /home/jail -m --dry-run dave
      show what that would change
  jail-user --release dave
      put dave back as he was
  jail-user -j /home/jail --create --key erin.pub erin
      make the account erin, jailed, with her key
  jail-user -j /home/jail --bind-home dave
      jail dave, whose home stays in /home/dave
  jail-user --from-jailkit --dry-run dave
      show what taking dave over from jailkit would change
  jail-user --back dave
      give dave back to jailkit
  jail-user --from-jailkit --all -j /home/jail
      take over every account of jailkit's in that jail
  jail-user -j /home/jail --group students
      jail every member of a group

FILES:
  /var/lib/jailwright/NAME/accounts.json
      what the accounts of a jail were before; --release and --back go by it
  /etc/jailwright/accounts
      who is in which jail while the home stays outside (--bind-home)
  /etc/jailwright/from-jailkit.toml
      what --from-jailkit carried over, a table for each user; --back takes it
      out

EXIT STATUS:
  0 done   1 failed   2 usage   3 bad policy   4 refused as unsafe";

/// The definition, for the man page and the completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
