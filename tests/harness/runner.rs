//! Runs a suite's tests, in a scratch host where they need one, and reports as libtest does.
//!
//! Why not libtest: a test that finds its program or its kernel feature missing must be counted as skipped with the
//! reason, and the whole program has to enter its namespaces before the first thread starts.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::scratch::{self, Scratch};

/// Why a test did not run to its end, though nothing is wrong.
#[derive(Debug)]
pub struct Skip(pub String);

/// What a test gives back; a failure is a panic.
pub type Done = Result<(), Skip>;

/// Ends a test as skipped: `return skip("no screen on this machine")`.
///
/// # Errors
/// Always: that is its purpose.
pub fn skip(why: impl Into<String>) -> Done {
    Err(Skip(why.into()))
}

/// A test's function, by what it needs.
#[derive(Clone, Copy)]
pub enum Body {
    /// Anyone may run it, anywhere.
    Plain(fn() -> Done),
    /// Needs root: accounts, sshd and the product in a scratch host.
    Scratch(fn(&Scratch) -> Done),
}

/// One test. Made by [`crate::test!`].
#[derive(Clone, Copy)]
pub struct Test {
    /// Its path: `login::transfer::scp_both_modes`.
    pub name: &'static str,
    /// What to run.
    pub body: Body,
}

/// A test that takes longer hangs: the program says which and ends.
const HANGS_AFTER: Duration = Duration::from_secs(240);

/// Runs the tests that the command line selects; the whole of a suite's `main`.
#[must_use]
pub fn suite(groups: &[&[Test]]) -> ExitCode {
    suite_with_threads(2, groups)
}

/// [`suite`], one test after the other: for tests that change what others stand on, such as the policy file.
#[must_use]
pub fn suite_in_order(groups: &[&[Test]]) -> ExitCode {
    suite_with_threads(1, groups)
}

fn suite_with_threads(threads: usize, groups: &[&[Test]]) -> ExitCode {
    let options = Options::from_args(threads);
    let all = groups.iter().flat_map(|group| group.iter().copied());
    let (tests, left_out): (Vec<Test>, Vec<Test>) = all.partition(|test| options.selects(test.name));
    if options.list {
        for test in &tests {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(line) = &options.shell {
        if !scratch::is_inside() {
            return scratch::run_this_program_inside();
        }
        return Scratch::set_up().shell(line);
    }
    let wants_scratch = tests.iter().any(|test| matches!(test.body, Body::Scratch(_)));
    let is_root = rustix::process::geteuid().is_root();
    if wants_scratch && is_root && !scratch::is_inside() {
        return scratch::run_this_program_inside();
    }
    let scratch = (wants_scratch && is_root).then(Scratch::set_up);
    run_all(&tests, left_out.len(), scratch.as_ref(), options.threads)
}

struct Options {
    words: Vec<String>,
    not: Vec<String>,
    exact: bool,
    list: bool,
    shell: Option<String>,
    threads: usize,
}

impl Options {
    /// libtest's options, as far as they mean something here.
    fn from_args(threads: usize) -> Options {
        let mut options =
            Options { words: Vec::new(), not: Vec::new(), exact: false, list: false, shell: None, threads };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => options.exact = true,
                "--shell" => options.shell = args.next(),
                "--list" => options.list = true,
                "--skip" => options.not.extend(args.next()),
                "--test-threads" => {
                    options.threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, threads);
                }
                "--color" | "--format" => drop(args.next()),
                flag if flag.starts_with('-') => {}
                word => options.words.push(word.to_owned()),
            }
        }
        options
    }

    fn selects(&self, name: &str) -> bool {
        let matches = |word: &String| if self.exact { name == word } else { name.contains(word.as_str()) };
        (self.words.is_empty() || self.words.iter().any(matches)) && !self.not.iter().any(matches)
    }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    skipped: usize,
    failed: Vec<&'static str>,
}

fn run_all(tests: &[Test], left_out: usize, scratch: Option<&Scratch>, threads: usize) -> ExitCode {
    println!("\nrunning {} tests", tests.len());
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let started = Instant::now();
    let queue: Mutex<VecDeque<Test>> = Mutex::new(tests.iter().copied().collect());
    let running: Mutex<Vec<(&'static str, Instant)>> = Mutex::new(Vec::new());
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let Some(test) = lock(&queue).pop_front() else { return };
                        lock(&running).push((test.name, Instant::now()));
                        run_one(test, scratch, &tally);
                        lock(&running).retain(|(name, _)| *name != test.name);
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            end_if_one_hangs(&lock(&running));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(scratch) = scratch {
        const NAME: &str = "the_host_is_as_it_was";
        let left = scratch.left_behind();
        if left.is_empty() {
            tally.passed += 1;
            println!("test {NAME} ... ok");
        } else {
            tally.failed.push(NAME);
            println!("test {NAME} ... FAILED\n    left behind: {}", left.join("\n    left behind: "));
        }
    }
    for name in &tally.failed {
        println!("failed: {name}");
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {left_out} filtered out; finished in {:.2}s\n",
        if tally.failed.is_empty() { "ok" } else { "FAILED" },
        tally.passed,
        tally.failed.len(),
        tally.skipped,
        started.elapsed().as_secs_f32()
    );
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(test: Test, scratch: Option<&Scratch>, tally: &Mutex<Tally>) {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| match (test.body, scratch) {
        (Body::Plain(run), _) => run(),
        (Body::Scratch(run), Some(scratch)) => run(scratch),
        (Body::Scratch(_), None) => skip("it needs root: accounts, sshd and mounts in namespaces of its own"),
    }));
    let took = started.elapsed().as_secs_f32();
    let mut tally = lock(tally);
    match outcome {
        Ok(Ok(())) => {
            tally.passed += 1;
            println!("test {} ... ok ({took:.2} s)", test.name);
        }
        Ok(Err(Skip(why))) => {
            tally.skipped += 1;
            println!("test {} ... ignored\n    skipped because {why}", test.name);
        }
        Err(_) => {
            tally.failed.push(test.name);
            println!("test {} ... FAILED ({took:.2} s)", test.name);
        }
    }
}

/// A hung test can't be stopped from outside its thread: end the program, and with it the scratch host.
fn end_if_one_hangs(running: &[(&'static str, Instant)]) {
    for (name, since) in running {
        if since.elapsed() > HANGS_AFTER {
            println!(
                "test {name} ... FAILED (hangs)\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured"
            );
            std::process::exit(101);
        }
    }
}

/// A lock that a failed test poisoned is still good: nothing here is left half written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
