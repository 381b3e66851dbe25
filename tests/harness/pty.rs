//! A terminal with a program on it: send keys, wait for words, change its size. What expect(1) does, in a page.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::runner::lock;

/// A program on a pseudo-terminal of its own (session leader, controlling terminal).
pub struct Pty {
    master: File,
    child: Child,
    seen: Arc<(Mutex<Screen>, Condvar)>,
}

#[derive(Default)]
struct Screen {
    bytes: Vec<u8>,
    closed: bool,
}

/// How long a terminal may stay silent before a test fails.
const PATIENCE: Duration = Duration::from_secs(15);

impl Pty {
    /// Starts `command` on a new terminal of 24 by 200 (wide, so that typed lines are not wrapped).
    #[track_caller]
    #[must_use]
    pub fn spawn(command: &Command) -> Pty {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("openpt");
        rustix::pty::grantpt(&master).expect("grantpt");
        rustix::pty::unlockpt(&master).expect("unlockpt");
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)
            .expect("open the terminal");
        let size = Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).expect("set the size");
        let end = |fd: &std::os::fd::OwnedFd| Stdio::from(fd.try_clone().expect("dup"));
        // setsid(1) gives the program its session and its controlling terminal: no code runs between fork and exec here.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            on_terminal.current_dir(dir);
        }
        let child =
            on_terminal.stdin(end(&slave)).stdout(end(&slave)).stderr(end(&slave)).spawn().expect("start it");
        drop(slave);
        let master = File::from(master);
        let seen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let (mut reader, shared) = (master.try_clone().expect("dup"), Arc::clone(&seen));
        let pid = child.id();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match reader.read(&mut buffer) {
                    Ok(n @ 1..) => {
                        lock(&shared.0).bytes.extend_from_slice(&buffer[..n]);
                        shared.1.notify_all();
                    }
                    // EIO is how a terminal says that its last user has gone; login(1) hangs it up and opens it again.
                    _ if has_ended(pid) => break,
                    _ => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            lock(&shared.0).closed = true;
            shared.1.notify_all();
        });
        Pty { master, child, seen }
    }

    /// Types these bytes.
    #[track_caller]
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("type");
    }

    /// Types a line.
    #[track_caller]
    pub fn line(&mut self, line: &str) {
        self.send(&format!("{line}\r"));
    }

    /// Waits until `words` appear, and takes everything up to and with them off the screen.
    #[track_caller]
    pub fn expect(&mut self, words: &str) -> String {
        self.expect_within(words, PATIENCE)
    }

    /// [`Pty::expect`] with another patience.
    #[track_caller]
    pub fn expect_within(&mut self, words: &str, patience: Duration) -> String {
        let end = Instant::now() + patience;
        let mut screen = lock(&self.seen.0);
        loop {
            let found = screen.bytes.windows(words.len()).position(|part| part == words.as_bytes());
            if let Some(at) = found {
                let rest = screen.bytes.split_off(at + words.len());
                let taken = std::mem::replace(&mut screen.bytes, rest);
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !screen.closed,
                "never saw {words:?}; the terminal{} shows:\n{}",
                if screen.closed { ", closed by now," } else { "" },
                String::from_utf8_lossy(&screen.bytes)
            );
            screen =
                self.seen.1.wait_timeout(screen, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Everything that is still shown until the program's end.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        let mut screen = lock(&self.seen.0);
        while !screen.closed {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "it does not end; the terminal shows:\n{}",
                String::from_utf8_lossy(&screen.bytes)
            );
            screen =
                self.seen.1.wait_timeout(screen, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        String::from_utf8_lossy(&std::mem::take(&mut screen.bytes)).into_owned()
    }

    /// Runs a line in the shell on it and gives back what it printed, up to a mark that the line itself does not hold.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.line(&format!("{line}; echo \"<\"\"end>\""));
        let shown = self.expect("<end>");
        // What was typed is echoed first; twice, if it was typed before the shell read.
        let answer = shown.rsplit_once("end>\"").map_or(shown.as_str(), |(_, rest)| rest);
        let answer = answer.trim_end_matches("<end>");
        answer.trim_matches(['\r', '\n']).replace("\r\n", "\n")
    }

    /// Tells the program that its window changed.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("resize");
    }

    /// Waits for the program's end; its exit status as a shell has it.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                use std::os::unix::process::ExitStatusExt;
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(
                Instant::now() < end,
                "it does not end; the terminal shows:\n{}",
                String::from_utf8_lossy(&lock(&self.seen.0).bytes)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the program as a machine that vanishes does.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether a child of ours has ended, reaped or not.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['Z', 'X']))
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.kill();
    }
}
