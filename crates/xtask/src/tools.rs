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
    let admin = |name, command| Tool { name, section: "8", command };
    vec![
        admin("jail-check", jail_init::check::command()),
        admin("jail-cp", jail_init::cp::command()),
        admin("jail-export", jail_init::export::command()),
        admin("jail-init", jail_init::init::command()),
        admin("jail-list", jail_init::list::command()),
        admin("jail-update", jail_init::update::command()),
        admin("jail-user", jail_user::cli::command()),
        Tool { name: "jail-run", section: "1", command: jail_run::cli::command() },
    ]
}
