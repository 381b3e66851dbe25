//! What a filter costs at a login: reading the profile, compiling it, loading it. Microseconds, the quickest of many.
//!
//!     cargo run --release -p jail-confine --example seccomp-cost [PROFILE.json]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jail_confine::seccomp::{Builtin, Flags, Profile, Program, Settings, Source, compile};

const ROUNDS: u32 = 400;

fn main() -> ExitCode {
    let file = std::env::args_os().nth(1);
    let result = match file {
        Some(path) => from_file(&path),
        None => [Builtin::Default, Builtin::Transfer, Builtin::Off].into_iter().try_for_each(|builtin| {
            let source = Source::Builtin(builtin);
            measure(builtin.as_str(), || source.profile().map_err(|e| e.to_string()))
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seccomp-cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn from_file(path: &std::ffi::OsStr) -> Result<(), String> {
    let json = std::fs::read(path).map_err(|e| format!("{}: {e}", path.to_string_lossy()))?;
    let name = path.to_string_lossy();
    measure(&name, || Source::File { json: &json, name: &name }.profile().map_err(|e| e.to_string()))
}

fn measure(name: &str, read: impl Fn() -> Result<Profile, String>) -> Result<(), String> {
    let profile = read()?;
    let settings = Settings::plain(&profile, (6, 18));
    let (program, _) = compile(&settings).map_err(|e| e.to_string())?;
    let first = timed(|| black_box(read().is_ok()));
    let parse = quickest(|| read().is_ok());
    let build = quickest(|| compile(&settings).is_ok());
    let load = load_time(&program)?;
    println!(
        "{name}: {} instructions; read {parse:.1} (first {:.1}), compile {build:.1}, load {load:.1} us",
        program.len(),
        micros(first)
    );
    Ok(())
}

/// Each thread loads the program once: filters pile up, and a second one would cost the first one's checks too.
fn load_time(program: &Program) -> Result<f64, String> {
    rustix::thread::set_no_new_privs(true).map_err(|e| format!("no_new_privs: {e}"))?;
    let mut best = Duration::MAX;
    for _ in 0..50 {
        let took = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let start = Instant::now();
                program.load(Flags { log: true, ..Flags::default() }).map(|()| start.elapsed())
            });
            thread.join().map_err(|_| "a thread died".to_owned())?.map_err(|e| format!("load: {e}"))
        })?;
        best = best.min(took);
    }
    Ok(micros(best))
}

fn quickest(work: impl Fn() -> bool) -> f64 {
    let best = (0..ROUNDS).map(|_| timed(|| black_box(work()))).min().unwrap_or_default();
    micros(best)
}

fn timed(work: impl FnOnce() -> bool) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
