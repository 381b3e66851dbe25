//! The programs that define their flags with clap, and the section of the manual each belongs to.

use clap::Command;

/// One program.
pub(crate) struct Tool {
    /// Its name.
    pub(crate) name: &'static str,
    /// The manual's section: 1 for anyone's, 8 for the administrator's.
    pub(crate) section: &'static str,
    /// Its flags.
    pub(crate) command: Command,
}

/// Every program with a page of its own.
pub(crate) fn all() -> Vec<Tool> {
    vec![
        Tool { name: "jail-init", section: "8", command: jail_init::init::command() },
        Tool { name: "jail-user", section: "8", command: jail_user::cli::command() },
        Tool { name: "jail-run", section: "1", command: jail_run::cli::command() },
    ]
}
