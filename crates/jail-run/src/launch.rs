//! Starting a daemon: into the background, with a pid file, with a word to a supervisor.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;

use jail_confine::announce::{Announcement, PidFile};
use jail_confine::enter::REFUSED;
use jail_confine::invocation;
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_sys::process::{self, Cloned};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitOptions, waitpid};

use crate::cli::Cli;

/// Puts what was inherited in order, all but the descriptor of `--ready-fd`, which is given back. Runs before the flags
/// are read, since reading them opens files.
///
/// # Errors
/// A number that is no open descriptor above 2.
pub fn tidy_up() -> Result<Option<OwnedFd>> {
    let Some(number) = ready_number(std::env::args_os().skip(1)) else {
        invocation::tidy_up()?;
        return Ok(None);
    };
    let wrong =
        || format!("use --ready-fd {}: it must be an open descriptor, 3 or above", number.to_string_lossy());
    let fd: i32 = number
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or(rustix::io::Errno::INVAL)
        .or_refuse(What::Call, wrong)?;
    let kept = jail_sys::inherit::close_all_but(fd).or_refuse(What::Call, wrong)?;
    invocation::tidy_up_but_descriptors()?;
    Ok(Some(kept))
}

/// The value of `--ready-fd` as the flags will have it: before `--`, the last one.
fn ready_number(arguments: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut found = None;
    let mut arguments = arguments.take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--ready-fd" {
            found = arguments.next();
        } else if let Some(value) = argument.to_str().and_then(|text| text.strip_prefix("--ready-fd=")) {
            found = Some(OsString::from(value));
        }
    }
    found
}

/// Who is to be told of the start. With `--background` the caller goes on from here in a process of its own; the one that
/// was called waits for the word and ends.
///
/// # Errors
/// A pid file's directory that is not there.
pub fn prepare(cli: &Cli, ready: Option<OwnedFd>) -> Result<Option<Announcement>> {
    let pid_file = cli.pidfile.as_deref().map(open).transpose()?;
    let launcher = if cli.background { Some(go_into_background()?) } else { None };
    let somebody = ready.is_some() || pid_file.is_some() || launcher.is_some();
    Ok(somebody.then_some(Announcement { ready, pid_file, launcher }))
}

fn open(path: &Path) -> Result<PidFile> {
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let name = path.file_name().map(OsStr::to_owned).ok_or_else(|| {
        Refusal::new(What::Call, format!("the pid file '{}' is no file's name", path.display()))
    })?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())
        .or_refuse(What::Call, || format!("open '{}' for the pid file", parent.display()))?;
    Ok(PidFile { directory, name })
}

fn go_into_background() -> Result<OwnedFd> {
    let doing = || "go into the background".to_owned();
    let (hear, say) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing)?;
    match process::clone(0).or_refuse(What::Host, doing)? {
        Cloned::Child => {
            rustix::process::setsid().or_refuse(What::Host, doing)?;
            Ok(say)
        }
        Cloned::Parent { pid, .. } => {
            drop(say);
            let mut byte = [0_u8; 1];
            if let Ok(1) = rustix::io::retry_on_intr(|| rustix::io::read(&hear, &mut byte)) {
                process::exit_now(0);
            }
            let ended = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
            let status = ended.ok().flatten().and_then(|(_, status)| status.exit_status());
            // It has said why, unless that was the command's own word on a terminal that it had let go of.
            eprintln!("jail-run: the command was not started in the background");
            process::exit_now(status.filter(|status| *status != 0).unwrap_or(REFUSED))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_is_found_before_the_flags_are_read() {
        let number = |words: &[&str]| ready_number(words.iter().map(OsString::from));
        assert_eq!(number(&["basicshell", "--ready-fd", "5", "--", "x"]), Some("5".into()));
        assert_eq!(number(&["--ready-fd=7", "--ready-fd=8"]), Some("8".into()));
        assert_eq!(number(&["a", "--", "--ready-fd", "5"]), None);
    }
}
