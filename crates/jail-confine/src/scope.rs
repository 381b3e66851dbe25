//! A cell as a unit of systemd's: a scope below `jail.slice`, on hosts where systemd owns the tree of control groups.
//!
//! systemd is asked over its own socket, which only root may connect to, in the few messages of D-Bus that it takes: no bus
//! daemon has to run, and no library is linked into the set-uid program (docs/decisions/0005). The cell's first process
//! asks for itself, since a process id means something else on either side of its namespace; the limits lie on the slice
//! of the user's, `jail-UID.slice`, for all his cells together.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use jail_sys::process;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Pid;

use crate::dbus::{Message, Value};

/// systemd's manager listens here for root.
const SOCKET: &str = "/run/systemd/private";
/// Where version 2 is mounted on a host that has nothing else.
const TREE: &str = "/sys/fs/cgroup";
const SLICE: &str = "jail.slice";
/// How long systemd may take to put us where we asked to be.
const PATIENCE: Duration = Duration::from_secs(10);
/// "No limit", in a property of a unit.
pub(crate) const INFINITY: u64 = u64::MAX;

/// What is asked of systemd for one cell.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Whose.
    pub(crate) uid: u32,
    /// What the cell is called.
    pub(crate) cell: String,
    /// Properties of the user's slice, each by its name on the bus.
    pub(crate) limits: Vec<(&'static str, u64)>,
}

impl Request {
    fn slice(&self) -> String {
        format!("jail-{}.slice", self.uid)
    }

    /// A name that no cell before had: one that has ended may not be gone from systemd's list yet.
    fn name(&self) -> String {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        format!("jail-{}-{}-{:09}.scope", self.uid, now.tv_sec, now.tv_nsec)
    }

    /// Has systemd make the scope with the calling process and others in it, and waits until it is.
    ///
    /// # Errors
    /// What systemd answered, or that it did not answer in time.
    pub(crate) fn make(&self, others: &[u32]) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let mut manager = Manager::connect()?;
        self.limit(&mut manager, end)?;
        let scope = self.name();
        let properties = vec![
            ("Description", Value::Text(format!("Cell {} of uid {}", self.cell, self.uid))),
            ("Slice", Value::Text(self.slice())),
            // Zero is whoever asks.
            ("PIDs", Value::Processes([&[0], others].concat())),
            // What is below is ours: processes of later logins are moved in by jail-sh itself.
            ("Delegate", Value::Flag(true)),
            ("TasksMax", Value::Number(INFINITY)),
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ];
        let (unit, mode) = (Value::Text(scope.clone()), Value::Text("fail".to_owned()));
        let body = [unit, mode, Value::Properties(properties), Value::NoUnits];
        manager.call("StartTransientUnit", &body, end)?;
        // The answer is a job: when it is done the kernel says so.
        while !own_group().is_some_and(|group| group.ends_with(&scope)) {
            if Instant::now() > end {
                return Err(format!("systemd did not start '{scope}' within {} seconds", PATIENCE.as_secs()));
            }
            process::sleep_milliseconds(1);
        }
        match self.holds() {
            Holds::Yes => Ok(()),
            Holds::No => Err(format!("systemd did not set the limits of '{}'", self.slice())),
        }
    }

    /// Sets the limits on the user's slice, for as long as the host is up; where there are none and never were, the slice
    /// comes with the scope.
    fn limit(&self, manager: &mut Manager, end: Instant) -> Result<(), String> {
        let slice = self.slice();
        let none = self.limits.iter().all(|(_, value)| *value == INFINITY);
        // A policy that was stricter an hour ago has left its limits there.
        if none && !exists(&format!("/run/systemd/system.control/{slice}.d")) {
            return Ok(());
        }
        let limits = self.limits.iter().map(|(name, value)| (*name, Value::Number(*value))).collect();
        let body = [Value::Text(slice), Value::Flag(true), Value::Properties(limits)];
        manager.call("SetUnitProperties", &body, end)
    }

    /// Whether the kernel has a limit where one is asked for.
    fn holds(&self) -> Holds {
        for (name, value) in &self.limits {
            let file = match *name {
                "MemoryMax" => "memory.max",
                "CPUQuotaPerSecUSec" => "cpu.max",
                "TasksMax" => "pids.max",
                _ => continue,
            };
            let path = format!("{TREE}/{SLICE}/{}/{file}", self.slice());
            if *value != INFINITY && read(&path).is_none_or(|text| text.starts_with("max")) {
                return Holds::No;
            }
        }
        Holds::Yes
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
}

fn exists(path: &str) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
}

fn read(path: &str) -> Option<String> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    String::from_utf8(crate::admission::read_all(&file).ok()?).ok()
}

/// Whether systemd runs this host and there is nothing but version 2.
pub(crate) fn owner() -> Owner {
    if exists(SOCKET) && exists(&format!("{TREE}/cgroup.controllers")) {
        Owner::Systemd
    } else {
        Owner::Nobody
    }
}

/// Whose the tree of control groups is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It must be asked.
    Systemd,
    /// Groups are made by hand.
    Nobody,
}

/// The scope that a cell's first process is in, to move others into it; `None` if it is in none of ours.
pub(crate) fn of_process(pid: Pid) -> Option<OwnedFd> {
    let group = group_of(&format!("/proc/{pid}/cgroup"))?;
    let below = group.strip_prefix('/')?;
    if !below.starts_with(&format!("{SLICE}/")) || !below.ends_with(".scope") || below.contains("..") {
        return None;
    }
    let procs = format!("{TREE}/{below}/cgroup.procs");
    openat(CWD, procs, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn own_group() -> Option<String> {
    group_of("/proc/self/cgroup")
}

/// The line of version 2, `0::/PATH`.
fn group_of(file: &str) -> Option<String> {
    read(file)?.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// A connection to systemd's manager.
struct Manager {
    stream: UnixStream,
    serial: u32,
}

impl Manager {
    /// The handshake of D-Bus: who we are, by our uid in hexadecimal digits; the kernel has told it already.
    fn connect() -> Result<Self, String> {
        let failed = |why: std::io::Error| format!("cannot talk to systemd by '{SOCKET}': {why}");
        let mut stream = UnixStream::connect(SOCKET).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n").map_err(failed)?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0_u8];
            stream.read_exact(&mut byte).map_err(failed)?;
            line.extend_from_slice(&byte);
            if line.len() > 1024 {
                break;
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(format!(
                "systemd would not have us on '{SOCKET}': {}",
                String::from_utf8_lossy(&line).trim()
            ));
        }
        Ok(Self { stream, serial: 0 })
    }

    /// Calls a method of the manager and waits for its answer; signals that come meanwhile are not for us.
    fn call(&mut self, method: &str, body: &[Value], end: Instant) -> Result<(), String> {
        let failed = |why: std::io::Error| format!("systemd's {method}: {why}");
        self.serial = self.serial.saturating_add(1);
        self.stream.write_all(&Message::call(self.serial, method, body)).map_err(failed)?;
        loop {
            let answer = Message::read(&mut self.stream).map_err(failed)?;
            match answer.outcome_of(self.serial) {
                Some(outcome) => return outcome.map_err(|why| format!("systemd's {method}: {why}")),
                None if Instant::now() > end => return Err(format!("systemd's {method}: no answer")),
                None => {}
            }
        }
    }
}
