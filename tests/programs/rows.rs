//! Runs the tasks of one section, each in a cell of its own, and tells of all that failed at once.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use jailwright_tests::command::have;
use jailwright_tests::{Done, Pty, Run, Scratch, User, skip};

use crate::services::{self, Services};
use crate::table::{self, Lacks, Status, Task};

/// The test of one section.
pub(crate) fn run(host: &Scratch, name: &str) -> Done {
    // A test's name is an identifier; most sections' names have a hyphen where it has none.
    let name = if name == "jk_lsh" { name.to_owned() } else { name.replace('_', "-") };
    // Their authority must be in the host's list before a jail copies it.
    let services = services::start();
    let mut tasks = table::tasks().remove(&name).unwrap_or_default();
    let optional = table::section(&name).optional_programs();
    tasks.retain(|program, _| !optional.contains(program) || have(program));
    if services.is_none() {
        let before = tasks.len();
        tasks.retain(|_, task| !task.needs_servers());
        println!(
            "    {} tasks of {name} left out: their servers need openssl, git and python3",
            before - tasks.len()
        );
    }
    if let Some(lacks) = table::section(&name).lacks() {
        return refused_by_name(host, &name, &lacks);
    }
    let section = Section { host, name, user: host.plain_user(), services };
    let mut jails = BTreeMap::new();
    let mut failures = Vec::new();
    for (program, task) in &tasks {
        let jail = jails.entry(task.with.clone()).or_insert_with(|| section.jail(&task.with));
        if let Err(what) = section.task(jail, task) {
            failures.push(format!("[{}] {program}: {what}", section.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} tasks failed:\n{}",
        failures.len(),
        tasks.len(),
        failures.join("\n")
    );
    Ok(())
}

/// On a host without the section's program, jail-init says which Debian package has it.
fn refused_by_name(host: &Scratch, name: &str, lacks: &Lacks) -> Done {
    let jail = format!("/srv/programs/{name}");
    let done = host.product().command("jail-init").args(["-j", &jail, name]).run();
    let said = done.errors();
    assert_ne!(done.status, 0, "a jail without {}", lacks.program);
    assert!(said.contains(&lacks.program), "{said}");
    if let Some(package) = &lacks.package {
        assert!(said.contains(package.as_str()), "no word of package {package}: {said}");
    }
    skip(format!("this host lacks {}: jail-init said so", lacks.program))
}

struct Section<'s> {
    host: &'s Scratch,
    name: String,
    user: User<'s>,
    services: Option<&'static Services>,
}

impl Section<'_> {
    /// A jail of this section and those a task needs besides.
    fn jail(&self, with: &[String]) -> PathBuf {
        let mut sections = vec![self.name.as_str()];
        sections.extend(with.iter().map(String::as_str));
        self.host.jail(&format!("/srv/programs/{}", sections.join("+")), &sections)
    }

    /// One task: what went wrong, in words.
    fn task(&self, jail: &std::path::Path, task: &Task) -> Result<(), String> {
        let script = format!("cd \"$HOME\"; {}{}", exports(task), self.fill(&task.run));
        let run = self.host.product().command("jail-run").arg("-j").arg(jail).args([
            "--user",
            &self.user.name,
            "--",
        ]);
        // One stream, as on a terminal: where a complaint goes is the program's choice.
        let run = run.args(["/bin/sh", "-c", &format!("exec 2>&1\n{script}")]);
        let run = run.env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
        let talk = task.talk.as_deref();
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| match talk {
            Some(talk) => on_terminal(run, talk),
            None => alone(run),
        }));
        let (status, output) = ended.map_err(|why| message(why.as_ref()))?;
        self.judge(task, status, &output)
    }

    fn judge(&self, task: &Task, status: i32, output: &str) -> Result<(), String> {
        let output = output.replace("\r\n", "\n");
        let output = output.trim_end();
        let expected = match &task.status {
            None => Some(0),
            Some(Status::Code(code)) => Some(*code),
            Some(Status::Word(_)) => None,
        };
        if expected.is_some_and(|code| code != status) {
            return Err(format!("status {status} instead of {expected:?}; it said: {output}"));
        }
        if let Some(out) = &task.out {
            let out = self.fill(out);
            if out.trim_end() != output {
                return Err(format!("it said {output:?} instead of {out:?}"));
            }
        }
        for part in &task.has {
            let part = self.fill(part);
            if !output.contains(&part) {
                return Err(format!("{part:?} is not in what it said: {output:?}"));
            }
        }
        Ok(())
    }

    /// Puts in what only this run knows.
    fn fill(&self, text: &str) -> String {
        let id = self.user.uid.to_string();
        let mut text = text.replace("{user}", &self.user.name).replace("{group}", &self.user.name);
        text = text.replace("{uid}", &id).replace("{gid}", &id);
        if text.contains("{ssh}") {
            let key =
                std::fs::read_to_string(self.user.sshd().dir().join("client_key")).expect("the client's key");
            text =
                text.replace("{ssh}", &self.user.sshd().port().to_string()).replace("{key}", key.trim_end());
        }
        if let Some(services) = self.services {
            text = text
                .replace("{http}", &services.http.to_string())
                .replace("{https}", &services.https.to_string());
            text = text.replace("{dns}", &services.dns.to_string());
        }
        text
    }
}

/// The task's variables: set by its own shell, for the policy lets only few through.
fn exports(task: &Task) -> String {
    task.env.iter().map(|(name, value)| format!("export {name}='{value}'; ")).collect()
}

/// What a failing wait said.
fn message(why: &(dyn std::any::Any + Send)) -> String {
    let text =
        why.downcast_ref::<String>().map(String::as_str).or_else(|| why.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// Runs it without a terminal: status and output.
fn alone(run: Run) -> (i32, String) {
    let done = run.run();
    let errors = done.errors();
    (done.status, done.text() + &errors)
}

/// Runs it on a terminal: waits for words, types answers, and gives back its status and all that was shown.
fn on_terminal(run: Run, talk: &[(String, String)]) -> (i32, String) {
    let mut terminal = Pty::spawn(&run.into_command());
    let mut shown = String::new();
    for (words, keys) in talk {
        shown += &terminal.expect(words);
        terminal.send(keys);
    }
    shown += &terminal.rest();
    (terminal.wait(), shown)
}
