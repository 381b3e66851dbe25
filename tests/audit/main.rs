//! `jail-check --host`: nothing to say of a clean host, and each way round the login shell found where it was opened.
//!
//! One test after the other, since they spoil the host that all see. Each opens one way, asks, runs the very line that the
//! finding gives, and asks again. sshd's ways are in tests/attack/sshd.rs, where each is also walked.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;

use jailwright_tests::product::checkout;
use jailwright_tests::scratch::POLICY;
use jailwright_tests::sshd::Sshd;
use jailwright_tests::{Done, Output, Run, Scratch, Test, User, test};
use serde_json::Value;

fn main() -> ExitCode {
    jailwright_tests::suite_in_order(&[TESTS])
}

const TESTS: &[Test] = &[
    test!(scratch a_clean_host),
    test!(scratch what_belongs_to_the_account),
    test!(scratch jobs),
    test!(scratch units),
    test!(scratch rules_of_sudo),
    test!(scratch mail),
    test!(scratch web_servers),
    test!(scratch the_login_shell),
    test!(scratch policy_and_jail),
    test!(scratch hostile_homes),
    test!(scratch a_question_without_an_answer),
];

/// A jailed account on a host whose sshd has our drop-in.
struct Clean<'s> {
    user: User<'s>,
    sshd: Sshd,
    host: &'s Scratch,
}

impl<'s> Clean<'s> {
    fn new(host: &'s Scratch) -> Clean<'s> {
        let user = host.jailed_user(&["basicshell"]);
        let drop_in = checkout().join("share/ssh/60-jailwright.conf");
        let sshd = Sshd::start(&format!("Include {}", drop_in.display()));
        Clean { user, sshd, host }
    }

    fn ask(&self, more: &[&str]) -> Output {
        let check = self.host.product().command("jail-check").args(["--host", "--sshd-config"]);
        check.arg(self.sshd.server_config()).args(more).arg(&self.user.name).run()
    }

    fn findings(&self) -> Vec<Value> {
        let out = self.ask(&["--json"]);
        let report: Value = serde_json::from_str(&out.text()).expect("JSON");
        assert_eq!(report["unfinished"], Value::Array(Vec::new()), "{report:#}");
        let findings = report["findings"].as_array().expect("a list").clone();
        assert_eq!(out.status, i32::from(!findings.is_empty()), "the status says whether there are findings");
        findings
    }

    fn ids(&self) -> BTreeSet<String> {
        self.findings().iter().map(|finding| finding["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Opens a way, sees it found and nothing else, closes it by its own line, sees it gone.
    #[track_caller]
    fn shows(&self, id: &str, open: &str, close: Close<'_>) {
        Run::sh(open).run().ok();
        let findings = self.findings();
        let ids: Vec<&str> = findings.iter().filter_map(|finding| finding["id"].as_str()).collect();
        assert_eq!(ids, [id], "after: {open}\n{findings:#?}");
        for key in ["what", "why", "close"] {
            assert!(
                findings[0][key].as_str().is_some_and(|text| !text.is_empty()),
                "no {key} in {:#}",
                findings[0]
            );
        }
        let line = findings[0]["close"].as_str().expect("a line");
        match close {
            Close::ByItsLine => drop(Run::sh(line).run().ok()),
            // The rest reloads a server that does not run here.
            Close::ByItsFirstCommand => {
                drop(Run::sh(line.split(" && ").next().expect("a command")).run().ok())
            }
            Close::By(other) => drop(Run::sh(other).run().ok()),
        }
        assert_eq!(self.ids(), BTreeSet::new(), "{id} is still found after: {line}");
    }
}

enum Close<'a> {
    ByItsLine,
    ByItsFirstCommand,
    /// Its line needs a program that this machine need not have, or an editor.
    By(&'a str),
}

fn a_clean_host(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    assert_eq!(clean.ids(), BTreeSet::new());
    let out = clean.ask(&[]);
    assert!(out.text().contains("no way round the login shell found"), "{}", out.text());
    let unknown = host.product().command("jail-check").args(["--host", "root"]).run();
    assert!(
        unknown.status != 0 && unknown.errors().contains("'root' is no jailed account"),
        "{}",
        unknown.errors()
    );
    Ok(())
}

fn what_belongs_to_the_account(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let (name, uid) = (&clean.user.name, clean.user.uid);
    let twin = format!("echo 'twin{uid}:x:{uid}:{uid}::/home:/bin/bash' >>/etc/passwd");
    clean.shows("uid-shared", &twin, Close::ByItsLine);
    clean.shows("group", &format!("groupadd -f docker && gpasswd -a {name} docker"), Close::ByItsLine);
    clean.shows("group", &format!("usermod -g disk {name}"), Close::ByItsLine);
    Ok(())
}

fn jobs(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let (name, uid) = (&clean.user.name, clean.user.uid);
    let table = format!("/var/spool/cron/crontabs/{name}");
    let open = format!(
        "mkdir -p /var/spool/cron/crontabs && echo '* * * * * true' >{table} && chown {name} {table}"
    );
    clean.shows("cron", &open, Close::By(&format!("sed -i '1iSHELL=/usr/local/sbin/jail-sh' {table}")));
    let host_table = format!("printf '# x\\n* * * * * {name} true\\n* * * * * root true\\n' >/etc/cron.d/jw");
    clean.shows("cron-host", &host_table, Close::ByItsLine);
    let job = format!(
        "mkdir -p /var/spool/cron/atjobs && touch /var/spool/cron/atjobs/a1 && chown {uid} /var/spool/cron/atjobs/a1"
    );
    clean.shows("at", &job, Close::ByItsLine);
    Ok(())
}

fn units(host: &Scratch) -> Done {
    if !Path::new("/usr/bin/systemctl").exists() {
        return jailwright_tests::skip("no systemd on this machine");
    }
    let clean = Clean::new(host);
    let (name, uid) = (&clean.user.name, clean.user.uid);
    let mask = format!("rm /etc/systemd/system/user@{uid}.service");
    clean.shows("systemd-user-manager", &mask, Close::ByItsFirstCommand);
    let linger = format!("/var/lib/systemd/linger/{name}");
    let open = format!("mkdir -p /var/lib/systemd/linger && touch {linger}");
    clean.shows("systemd-linger", &open, Close::By(&format!("rm {linger}")));
    let unit =
        format!("printf '[Service]\\nUser={name}\\nExecStart=/bin/true\\n' >/etc/systemd/system/jw.service");
    clean.shows("systemd-unit", &unit, Close::ByItsFirstCommand);
    Ok(())
}

fn rules_of_sudo(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let name = &clean.user.name;
    Run::sh("mkdir -p /etc/sudoers.d; printf 'root ALL=(ALL:ALL) ALL\\n%%sudo ALL=(ALL) ALL\\n@includedir /etc/sudoers.d\\n' >/etc/sudoers").run().ok();
    assert_eq!(clean.ids(), BTreeSet::new(), "rules for others are none of the account's");
    let rule = |text: &str| format!("echo '{text}' >/etc/sudoers.d/jw");
    let gone = Close::By("rm /etc/sudoers.d/jw");
    clean.shows("sudo", &rule(&format!("{name} ALL=(root) NOPASSWD: /usr/bin/apt")), gone);
    clean.shows("sudo", &rule(&format!("%{name} ALL=ALL")), Close::By("rm /etc/sudoers.d/jw"));
    clean.shows("sudo-as", &rule(&format!("root ALL=({name}) ALL")), Close::By("rm /etc/sudoers.d/jw"));
    clean.shows("doas", &format!("echo 'permit nopass {name} as root' >/etc/doas.conf"), Close::ByItsLine);
    Ok(())
}

fn mail(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let (name, forward) = (&clean.user.name, clean.user.home.join(".forward"));
    let pipe = format!("echo '|/bin/sh x' >{}", forward.display());
    clean.shows("mail-file", &pipe, Close::ByItsFirstCommand);
    Run::sh(&format!("rm {}; sed -i '/^{name}:/d' /etc/aliases", forward.display())).run().ok();
    clean.shows("mail", "mkdir -p /etc/mail && touch /etc/mail/sendmail.cf", Close::ByItsFirstCommand);
    Run::sh("rm /etc/mail/sendmail.cf").run().ok();
    Ok(())
}

fn web_servers(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let name = &clean.user.name;
    for (dir, file, text) in [
        ("/etc/php/8.2/fpm/pool.d", "jw.conf", format!("[jw]\\nuser = {name}\\n")),
        ("/etc/uwsgi/apps-enabled", "jw.ini", format!("[uwsgi]\\nuid = {name}\\n")),
        ("/etc/supervisor/conf.d", "jw.conf", format!("[program:x]\\nuser={name}\\n")),
        ("/etc/apache2/sites-enabled", "jw.conf", format!("SuexecUserGroup {name} {name}\\n")),
    ] {
        let open = format!("mkdir -p {dir} && printf '{text}' >{dir}/{file}");
        clean.shows("web", &open, Close::ByItsLine);
    }
    let open = "mkdir -p /etc/apache2/mods-enabled /etc/apache2/conf-enabled && cd /etc/apache2/mods-enabled && touch userdir.load suexec.load";
    clean.shows("web-userdir", open, Close::ByItsFirstCommand);
    Run::sh("rm /etc/apache2/mods-enabled/userdir.load").run().ok();
    Ok(())
}

fn the_login_shell(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let shell = host.product().jail_sh().display();
    clean.shows("shell-listed", &format!("echo {shell} >>/etc/shells"), Close::ByItsLine);
    clean.shows("shell-mode", &format!("chmod 6755 {shell}"), Close::ByItsLine);
    clean.shows("shell-mode", &format!("chmod 755 {shell}"), Close::ByItsLine);
    clean.shows("shell-unsafe", &format!("chown {} {shell}", clean.user.uid), Close::ByItsLine);
    clean.shows("shell-unsafe", &format!("chmod 4775 {shell}"), Close::ByItsLine);
    clean.shows("shell-unsafe", "chmod 777 /usr/local/sbin", Close::ByItsLine);
    let back = format!("mv {shell}.away {shell}");
    clean.shows("shell-missing", &format!("mv {shell} {shell}.away"), Close::By(&back));
    Ok(())
}

fn policy_and_jail(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    host.add_policy("");
    let kept = std::fs::read(POLICY).expect("read");
    clean.shows("policy-unsafe", &format!("chmod 666 {POLICY}"), Close::ByItsLine);
    clean.shows("policy-unsafe", &format!("chown {} {POLICY}", clean.user.uid), Close::ByItsLine);
    std::fs::write(POLICY.to_owned() + ".kept", kept).expect("write");
    let back = format!("mv {POLICY}.kept {POLICY}");
    clean.shows("policy-wrong", &format!("echo 'networg = 1' >>{POLICY}"), Close::By(&back));
    let jail = clean.user.jail.as_deref().expect("a jail").display();
    clean.shows("jail-unsafe", &format!("chmod 777 {jail}"), Close::ByItsLine);
    let old = std::fs::metadata("/srv").expect("stat").permissions();
    clean.shows("jail-unsafe", "chmod 777 /srv", Close::ByItsLine);
    std::fs::set_permissions("/srv", old).expect("chmod");
    Ok(())
}

/// What a user puts where the audit looks must not lead it elsewhere, hold it up, or reach the terminal.
fn hostile_homes(host: &Scratch) -> Done {
    let clean = Clean::new(host);
    let home = &clean.user.home;
    let secret = host.unique("/srv/secret");
    std::fs::write(&secret, "|root's secret\n").expect("write");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("chmod");
    symlink(&secret, home.join(".forward")).expect("link");
    symlink("/", home.join(".config")).expect("link");
    Run::new("mkfifo").arg(home.join(".procmailrc")).run().ok();
    Run::new("truncate").args(["-s", "1T"]).arg(home.join(".qmail")).run().ok();
    let started = std::time::Instant::now();
    let out = clean.ask(&["--json"]);
    assert!(started.elapsed().as_secs() < 10, "a FIFO or a large file held it up");
    assert!(!out.text().contains("secret"), "a link of the user's was followed:\n{}", out.text());
    assert_eq!(clean.ids(), BTreeSet::new());
    let table = format!("/var/spool/cron/crontabs/{}", clean.user.name);
    Run::sh("mkdir -p /var/spool/cron/crontabs").run().ok();
    std::fs::write(&table, "* * * * * \x1b[2J\x07x\n").expect("write");
    let told = clean.ask(&[]).text() + &clean.ask(&["--json"]).text();
    assert!(told.contains("cron") && !told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    std::fs::remove_file(&table).expect("rm");
    Ok(())
}

/// An audit that could not look is no clean audit.
fn a_question_without_an_answer(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let check = || host.product().command("jail-check").args(["--host", "--sshd-config", "/nowhere"]);
    let out = check().arg(&user.name).run();
    assert_eq!(out.status, 5, "{}", out.text());
    assert!(out.text().contains("not looked at: sshd -T"), "{}", out.text());
    let json = check().arg("--json").arg(&user.name).run();
    let report: Value = serde_json::from_str(&json.text()).expect("JSON");
    assert_eq!(report["unfinished"].as_array().map(Vec::len), Some(1), "{report:#}");
    Ok(())
}
