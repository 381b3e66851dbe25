//! Running a program to its end: what it printed, and how it ended in the shell's numbers.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status as a shell has it: 128+n for a signal.
    pub status: i32,
    /// Standard output, untouched.
    pub stdout: Vec<u8>,
    /// Standard error, untouched.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text without its last newline.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Standard error as text without its last newline.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end_matches('\n').to_owned()
    }

    /// Fails the test unless the program ended well.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.text(), self.errors());
        self
    }
}

/// A program about to be run. Without an explicit [`Run::input`] it reads from /dev/null.
pub struct Run {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

impl Run {
    /// A program by path or by name.
    pub fn new(program: impl AsRef<OsStr>) -> Run {
        Run { command: Command::new(program), input: Vec::new(), limit: Duration::from_secs(60) }
    }

    /// A line for `/bin/sh`, as root in the scratch host.
    pub fn sh(line: &str) -> Run {
        Run::new("/bin/sh").args(["-c", line])
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.command.args(args);
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.command.arg(arg);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Takes one variable away.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Run {
        self.command.env_remove(name);
        self
    }

    /// Starts from an empty environment.
    #[must_use]
    pub fn env_clear(mut self) -> Run {
        self.command.env_clear();
        self
    }

    /// Working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<std::path::Path>) -> Run {
        self.command.current_dir(dir);
        self
    }

    /// What it reads.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.input = bytes.into();
        self
    }

    /// How long it may take (60 s unless said).
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// The command as the standard library has it, for a [`crate::Pty`] or a background process.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it in the background in a process group of its own; the guard kills it.
    #[track_caller]
    #[must_use]
    pub fn background(mut self) -> Background {
        self.command.process_group(0);
        let stdin = if self.input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start it");
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&self.input).expect("feed it");
        }
        Background { child }
    }

    /// Runs it to its end. Fails the test if it takes too long.
    #[track_caller]
    pub fn run(mut self) -> Output {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("start {:?}: {error}", self.command.get_program()),
        };
        let stdin = child.stdin.take();
        let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let input = std::mem::take(&mut self.input);
        // Its reader may have left early (`yes | head`): that is for the test to see in the status.
        let feeder = std::thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                drop(stdin.write_all(&input));
            }
        });
        let stdout = std::thread::spawn(move || read_all(&mut out));
        let stderr = std::thread::spawn(move || read_all(&mut err));
        let status = wait_within(&mut child, self.limit).unwrap_or_else(|| {
            drop(child.kill());
            drop(child.wait());
            panic!("{:?} took over {:?}", self.command, self.limit)
        });
        feeder.join().expect("feeder");
        Output {
            status,
            stdout: stdout.join().expect("reader of stdout"),
            stderr: stderr.join().expect("reader of stderr"),
        }
    }
}

/// A program in the background; dropped, it is killed.
pub struct Background {
    child: Child,
}

impl Background {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL, as a machine that vanishes does.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Kills it and gives back what it printed.
    #[must_use]
    pub fn stop_and_read(mut self) -> Vec<u8> {
        self.kill();
        self.child.stdout.as_mut().map(read_all).unwrap_or_default()
    }

    /// Its exit status, if it ends in time.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        wait_within(&mut self.child, limit)
    }

    /// Reads the first line of its standard output.
    #[track_caller]
    pub fn first_line(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().expect("piped");
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).expect("read") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(from.read_to_end(&mut bytes));
    bytes
}

fn wait_within(child: &mut Child, limit: Duration) -> Option<i32> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// Asks again and again until it is so; fails the test if it never is.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < end, "after {limit:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a program of this name is on the machine.
#[must_use]
pub fn have(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|dir| std::path::Path::new(dir).join(program).exists())
}
