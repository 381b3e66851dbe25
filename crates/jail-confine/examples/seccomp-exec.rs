//! Runs a command under a seccomp profile and nothing else: to try a profile, and for the tests with real programs.
//!
//!     cargo run -p jail-confine --example seccomp-exec -- [--violation log] default|transfer|FILE COMMAND…

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use jail_confine::seccomp::{Builtin, Settings, Source, Violation, compile, parse};

fn main() -> ExitCode {
    let error = match run(std::env::args_os().skip(1).collect()) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("seccomp-exec: {error}");
    ExitCode::from(125)
}

fn run(args: Vec<OsString>) -> Result<std::convert::Infallible, String> {
    let (violation, args) = match args.as_slice() {
        [flag, value, rest @ ..] if flag == "--violation" => match value.to_str() {
            Some("errno") => (Violation::Errno, rest),
            Some("kill") => (Violation::Kill, rest),
            Some("log") => (Violation::Log, rest),
            _ => return Err("--violation is errno, kill or log".to_owned()),
        },
        all => (Violation::Errno, all),
    };
    let [name, command, arguments @ ..] = args else {
        return Err("usage: seccomp-exec [--violation errno|kill|log] PROFILE COMMAND…".to_owned());
    };
    let text = name.to_string_lossy();
    let profile = match Builtin::parse(&text) {
        Some(builtin) => Source::Builtin(builtin).profile(),
        None => parse(&std::fs::read(name).map_err(|e| format!("'{text}': {e}"))?, &text),
    };
    let profile = profile.map_err(|e| e.to_string())?;
    let settings = Settings { violation, ..Settings::plain(&profile, (u32::MAX, 0)) };
    let (program, notes) = compile(&settings).map_err(|e| e.to_string())?;
    for note in notes {
        eprintln!("seccomp-exec: {note}");
    }
    rustix::thread::set_no_new_privs(true).map_err(|e| format!("no_new_privs: {e}"))?;
    program.load(program.flags()).map_err(|e| format!("load: {e}"))?;
    Err(format!("'{}': {}", command.to_string_lossy(), Command::new(command).args(arguments).exec()))
}
