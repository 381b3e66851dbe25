//! What jailkit's own files say of a user, in words of our policy: pure functions of the files' bytes.
//!
//! `jk_chrootsh.ini` and `jk_lsh.ini` are read as those two read them: one section counts, the user's, else that of his
//! primary group, else DEFAULT, and nothing is merged.

use jail_provision::import::ini::{self, Ini, Section};
use jail_provision::toml_text;

/// What is carried over for one user.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Keys of the policy, each a line of TOML.
    pub lines: Vec<String>,
    /// What is otherwise here, for the administrator to read.
    pub notes: Vec<String>,
}

/// Reads a file of which DEFAULT is a section as any other.
#[must_use]
pub fn read(bytes: &[u8]) -> Ini {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> =
        text.lines().map(|line| if line.trim() == "[DEFAULT]" { "[jk DEFAULT]" } else { line }).collect();
    ini::parse(lines.join("\n").as_bytes())
}

/// The one section that counts for a user.
pub(crate) fn section<'a>(ini: &'a Ini, user: &str, group: Option<&str>) -> Option<&'a Section> {
    let named = |name: &str| ini.sections.iter().find(|section| section.name == name);
    let of_group = || group.and_then(|group| named(&format!("group {group}")));
    named(user).or_else(of_group).or_else(|| named("jk DEFAULT"))
}

pub(crate) fn value<'a>(section: &'a Section, key: &str) -> Option<&'a str> {
    section
        .keys
        .iter()
        .find(|found| found.name == key)
        .map(|found| found.value.trim())
        .filter(|v| !v.is_empty())
}

fn is_on(section: &Section, key: &str) -> bool {
    value(section, key).is_some_and(|value| !matches!(value, "0" | "no" | "false"))
}

/// Carries over what holds for a user whose shell inside is `shell`.
#[must_use]
pub fn settings(chrootsh: &Ini, lsh: &Ini, user: &str, group: Option<&str>, shell: &[u8]) -> Settings {
    let mut settings = Settings::default();
    let own = section(chrootsh, user, group);
    if let Some(own) = own {
        settings.of_chrootsh(own);
    }
    let inner = own.and_then(|own| value(own, "injail_shell")).map_or(shell, str::as_bytes);
    if inner.rsplit(|b| *b == b'/').next() == Some(b"jk_lsh") {
        settings.of_lsh(section(lsh, user, group));
    }
    settings
}

impl Settings {
    fn of_chrootsh(&mut self, section: &Section) {
        // These are ours to set.
        let set = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "USERNAME"];
        let mut env = value(section, "env").map(ini::words).unwrap_or_default();
        env.retain(|name| !set.contains(&name.as_str()));
        if !env.is_empty() {
            self.lines.push(format!("\"+env\" = {}", toml_text::list(&env)));
        }
        match value(section, "injail_shell") {
            Some(shell) if shell.ends_with("/jk_lsh") => {}
            Some(shell) if shell.starts_with('/') => {
                self.lines.push(format!("shell = {}", toml_text::string(shell)))
            }
            Some(shell) => self.notes.push(format!("injail_shell = {shell}: no absolute path, left out")),
            None => {}
        }
        for key in ["relax_home_group", "relax_home_group_permissions"] {
            if is_on(section, key) {
                self.notes.push(format!("{key}: not needed, a home's group is not looked at"));
            }
        }
        for (key, rule) in [
            ("relax_home_owner", "a home must belong to its user or to root"),
            ("relax_home_other_permissions", "a home that everybody may write to is refused"),
        ] {
            if is_on(section, key) {
                self.notes.push(format!("{key}: not carried over, {rule}"));
            }
        }
        if is_on(section, "injail_login_shell") {
            self.notes.push(
                "injail_login_shell: not needed, a login gets a login shell and `-c` keeps its command"
                    .into(),
            );
        }
    }

    fn of_lsh(&mut self, section: Option<&Section>) {
        let Some(section) = section else {
            self.notes.push(
                "jk_lsh.ini has no section for the user: jk_lsh let nothing run, and nor does this".into(),
            );
            self.lines.push("commands = [\"/nothing-is-allowed\"]".into());
            return;
        };
        let executables = value(section, "executables").map(ini::words).unwrap_or_default();
        if executables.is_empty() {
            self.lines.push("commands = [\"/nothing-is-allowed\"]".into());
        } else {
            self.lines.push(format!("commands = {}", toml_text::list(&executables)));
        }
        if let Some(umask) = value(section, "umask") {
            self.lines.push(format!("umask = {}", toml_text::string(&format!("{umask:0>3}"))));
        }
        if is_on(section, "allow_word_expansion") {
            self.notes.push(
                "allow_word_expansion: not carried over, a command line is split and never expanded".into(),
            );
        }
        if let Some(environment) = value(section, "environment") {
            self.notes.push(format!("environment = {environment}: not carried over"));
        }
    }
}

/// What a file of ours begins with.
const HEAD: &str = "# What jail-user --from-jailkit carried over; --back takes it out again. jail-sh.toml comes before it.\n";

/// The first line of a user's table.
#[must_use]
pub fn header(user: &str) -> String {
    format!("[user.{}]", toml_text::string(user))
}

/// The file with a user's table put in, replaced, or (without lines) taken out.
#[must_use]
pub fn with_user(file: &str, user: &str, lines: &[String]) -> String {
    let header = header(user);
    let mut kept = String::new();
    let mut ours = false;
    for line in file.lines() {
        if line.starts_with('[') {
            ours = line == header;
        }
        if !ours {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if kept.is_empty() {
        kept.push_str(HEAD);
    }
    if !lines.is_empty() {
        kept.push_str(&header);
        kept.push('\n');
        lines.iter().for_each(|line| kept.push_str(&format!("{line}\n")));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROOTSH: &[u8] =
        b"[DEFAULT]\nenv = TERM, PATH, LANG\n[group web]\ninjail_shell = /bin/bash\nrelax_home_owner = 1\n\
        [dave]\nenv = EDITOR\n";

    #[test]
    fn one_section_counts() {
        let (chrootsh, none) = (read(CHROOTSH), read(b""));
        let of = |user: &str, group| settings(&chrootsh, &none, user, group, b"/bin/bash").lines;
        assert_eq!(of("erin", None), ["\"+env\" = [\"TERM\", \"LANG\"]"]);
        assert_eq!(
            of("dave", Some("web")),
            ["\"+env\" = [\"EDITOR\"]"],
            "the user's own, and nothing merged"
        );
        assert_eq!(of("erin", Some("web")), ["shell = \"/bin/bash\""]);
        assert_eq!(settings(&chrootsh, &none, "erin", Some("web"), b"").notes.len(), 1);
    }

    #[test]
    fn a_list_of_commands() {
        let lsh = read(b"[DEFAULT]\nexecutables = /usr/bin/scp, /usr/lib/openssh/sftp-server\numask = 22\n");
        let of = |lsh: &Ini, shell: &[u8]| settings(&read(b""), lsh, "erin", None, shell).lines;
        assert_eq!(
            of(&lsh, b"/usr/sbin/jk_lsh"),
            ["commands = [\"/usr/bin/scp\", \"/usr/lib/openssh/sftp-server\"]", "umask = \"022\""]
        );
        assert_eq!(of(&lsh, b"/bin/bash"), Vec::<String>::new());
        assert_eq!(
            of(&read(b""), b"/usr/sbin/jk_lsh"),
            ["commands = [\"/nothing-is-allowed\"]"],
            "as jk_lsh: nothing"
        );
    }

    #[test]
    fn tables_come_and_go() {
        let one = with_user("", "a.b\"c", &["umask = \"022\"".into()]);
        assert!(one.ends_with("[user.\"a.b\\\"c\"]\numask = \"022\"\n"), "{one}");
        let two = with_user(&one, "dave", &["shell = \"/x\"".into()]);
        assert_eq!(with_user(&two, "a.b\"c", &[]), format!("{HEAD}[user.\"dave\"]\nshell = \"/x\"\n"));
        assert_eq!(with_user(&two, "dave", &[]), one);
    }
}
