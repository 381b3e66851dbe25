//! Tries named attempts from inside a jail and prints, a line each, what the kernel answered.
//!
//!     probe mount_tmpfs ptrace:4711 connect_abstract:name
//!     mount_tmpfs EPERM
//!
//! `OK …` says that the attempt succeeded. An argument follows a colon. Static, so that it runs in any jail.

mod attempts;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut unknown = false;
    for word in std::env::args().skip(1) {
        let (name, argument) = word.split_once(':').unwrap_or((&word, ""));
        let Some(run) = attempts::find(name) else {
            eprintln!("probe: no attempt is called '{name}'");
            unknown = true;
            continue;
        };
        print!("{name} ");
        let argument = argument.to_owned();
        flush();
        print!("{}", sys::in_a_child(move || run(&argument)));
        flush();
    }
    if unknown { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn flush() {
    use std::io::Write;
    std::io::stdout().flush().expect("write to standard output");
}
