//! The caller's terminal while a machine has it.

use jail_wire::Window;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether the session gets a terminal: if both what it reads and what it writes is one.
#[must_use]
pub fn has_terminal() -> bool {
    isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout())
}

/// Its size.
#[must_use]
pub fn window() -> Option<Window> {
    let size = tcgetwinsize(rustix::stdio::stdin()).ok()?;
    Some(Window { rows: size.ws_row, columns: size.ws_col })
}

/// While this lives each key goes to the guest as it is; its terminal gives it a meaning.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn set() -> Option<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before).is_err() {
            // It has been hung up.
        }
    }
}
