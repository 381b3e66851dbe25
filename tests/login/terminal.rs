//! `ssh -tt`: a person at a terminal. Prompt, keys, jobs, window, editors, multiplexers.

use std::time::Duration;

use jailwright_tests::command::{have, wait_until};
use jailwright_tests::user::{Under, processes_of};
use jailwright_tests::{Done, Pty, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_login_greets_with_a_prompt),
    test!(scratch the_terminal_is_known_by_name),
    test!(scratch a_window_that_changes),
    test!(scratch control_c),
    test!(scratch control_z_bg_and_fg),
    test!(scratch a_background_job),
    test!(scratch control_d_ends_the_login),
    test!(scratch the_kind_of_terminal_passes),
    test!(scratch vim_writes_a_file),
    test!(scratch tmux_new_and_attach),
    test!(scratch screen_new_and_attach),
    test!(scratch a_lost_connection_ends_the_jobs),
    test!(scratch a_lost_connection_runs_the_hangup_trap),
    test!(scratch a_lost_connection_without_a_terminal),
    test!(scratch nothing_of_a_private_session_is_left),
    test!(scratch su_runs_a_command),
    test!(scratch su_gives_the_terminal_back),
    test!(scratch login_program),
];

/// A login whose prompt has been seen.
fn at_prompt(user: &User<'_>) -> Pty {
    let mut terminal = user.terminal();
    terminal.expect("$ ");
    terminal
}

fn a_login_greets_with_a_prompt(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = user.terminal();
    let greeting = terminal.expect("$ ");
    for bad in ["not found", "No such file", "cannot", "Permission denied", "I have no name", "job control"] {
        assert!(!greeting.contains(bad), "{greeting}");
    }
    assert_eq!(terminal.ask("pwd"), user.inner_home.to_str().expect("UTF-8"));
    assert_eq!(terminal.ask("echo ~"), user.inner_home.to_str().expect("UTF-8"));
    assert_eq!(terminal.ask("shopt -q login_shell && echo login"), "login");
    assert_eq!(terminal.ask("echo $0"), "-bash");
    assert_eq!(terminal.ask("id -un"), user.name);
    terminal.line("exit 7");
    assert_eq!(terminal.wait(), 7);
    Ok(())
}

fn the_terminal_is_known_by_name(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "extendedshell"]);
    let mut terminal = at_prompt(&user);
    let name = terminal.ask("tty");
    assert!(name.starts_with("/dev/"), "{name}");
    assert_eq!(terminal.ask("test -t 0 -a -w $(tty) && echo yes"), "yes");
    assert_eq!(terminal.ask("echo words >/dev/tty"), "words");
    assert_eq!(terminal.ask("echo words >$(tty)"), "words");
    Ok(())
}

fn a_window_that_changes(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    assert_eq!(terminal.ask("stty size"), "24 200");
    terminal.ask("trap 'echo it changed' WINCH");
    terminal.resize(50, 132);
    terminal.expect_within("it changed", Duration::from_secs(20));
    assert_eq!(terminal.ask("stty size"), "50 132");
    Ok(())
}

fn control_c(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    terminal.line("echo rea''dy; sleep 100");
    terminal.expect("ready");
    wait_until("sleep runs", Duration::from_secs(20), || runs(&user, "sleep 100"));
    terminal.send("\x03");
    terminal.expect("$ ");
    assert_eq!(terminal.ask("echo $?"), "130");
    assert!(!runs(&user, "sleep 100"));
    Ok(())
}

fn control_z_bg_and_fg(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    terminal.line("echo rea''dy; sleep 101");
    terminal.expect("ready");
    wait_until("sleep runs", Duration::from_secs(20), || runs(&user, "sleep 101"));
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect("$ ");
    terminal.ask("bg");
    let jobs = terminal.ask("jobs");
    assert!(jobs.contains("Running"), "{jobs}");
    terminal.line("fg");
    terminal.expect("sleep 101");
    std::thread::sleep(Duration::from_millis(200));
    terminal.send("\x03");
    terminal.expect("$ ");
    assert_eq!(terminal.ask("echo $?"), "130");
    Ok(())
}

fn a_background_job(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    terminal.ask("sleep 102 & true");
    wait_until("sleep runs", Duration::from_secs(20), || runs(&user, "sleep 102"));
    assert!(terminal.ask("jobs").contains("Running"));
    terminal.ask("kill %1; wait %1");
    wait_until("sleep is gone", Duration::from_secs(20), || !runs(&user, "sleep 102"));
    Ok(())
}

fn control_d_ends_the_login(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    terminal.ask("(exit 3)");
    terminal.ask("false");
    // Only at its prompt does the shell read the key itself.
    terminal.expect("$ ");
    std::thread::sleep(Duration::from_millis(300));
    terminal.send("\x04");
    terminal.wait();
    wait_until("the login is gone", Duration::from_secs(20), || user.processes().is_empty());
    Ok(())
}

fn the_kind_of_terminal_passes(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "terminfo"]);
    for kind in ["xterm-256color", "screen", "linux"] {
        let mut terminal = user.terminal_of(kind);
        terminal.line("echo \"<$TERM>\"");
        terminal.expect(&format!("<{kind}>"));
    }
    Ok(())
}

fn vim_writes_a_file(host: &Scratch) -> Done {
    if !have("vim") {
        return skip("no vim on this machine");
    }
    let user = host.jailed_user(&["basicshell", "editors"]);
    let mut terminal = user.terminal_of("xterm");
    terminal.expect("$ ");
    terminal.line("vim -u NONE -N text");
    terminal.expect("\x1b[");
    std::thread::sleep(Duration::from_millis(700));
    terminal.send("ihello from vim\x1b");
    std::thread::sleep(Duration::from_millis(200));
    terminal.send(":wq\r");
    let file = user.home.join("text");
    wait_until("the file is written", Duration::from_secs(10), || {
        std::fs::read_to_string(&file).is_ok_and(|text| text == "hello from vim\n")
    });
    Ok(())
}

/// A section of the administrator's own, with programs that no shipped section of the main job has.
fn admin_section(name: &str, commands: &[&str]) {
    let list = commands.iter().map(|c| format!("{c:?}")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "description = \"{name}\"\ninclude = [\"basicshell\", \"terminfo\", \"locale\"]\ncommands = [{list}]\n"
    );
    std::fs::create_dir_all("/etc/jailwright/profiles").expect("mkdir");
    std::fs::write(format!("/etc/jailwright/profiles/{name}.toml"), text).expect("write");
}

fn multiplexer_user<'s>(host: &'s Scratch, program: &str) -> Result<User<'s>, jailwright_tests::Skip> {
    if !have(program) {
        return Err(jailwright_tests::Skip(format!("no {program} on this machine")));
    }
    if Under::test() == Under::Jailkit {
        return Err(jailwright_tests::Skip("no section of jailkit's has it".to_owned()));
    }
    host.product();
    admin_section(program, &[program]);
    Ok(host.jailed_user(&[program]))
}

fn tmux_new_and_attach(host: &Scratch) -> Done {
    let user = multiplexer_user(host, "tmux")?;
    let mut terminal = user.terminal_of("xterm");
    terminal.expect("$ ");
    terminal.line("export LC_ALL=C.UTF-8; tmux -f /dev/null new-session -d -s work; echo made:$?");
    terminal.expect("made:0");
    terminal.line("tmux attach -t work");
    terminal.expect("[work]");
    terminal.line("echo in''side $(( 6 * 7 ))");
    terminal.expect("inside 42");
    // tmux takes keys that come in one burst for pasted text.
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("\x02");
    std::thread::sleep(Duration::from_millis(200));
    terminal.send("d");
    terminal.expect("detached");
    terminal.line("tmux kill-server; echo end:$?");
    terminal.expect("end:0");
    Ok(())
}

fn screen_new_and_attach(host: &Scratch) -> Done {
    let user = multiplexer_user(host, "screen")?;
    let mut terminal = user.terminal_of("xterm");
    terminal.expect("$ ");
    terminal
        .line("mkdir -m 700 -p ~/.screen; export SCREENDIR=$HOME/.screen; screen -dmS work; echo made:$?");
    terminal.expect("made:0");
    terminal.line("screen -r work");
    // A key that comes before screen has the terminal would be the shell's.
    wait_until("screen has the terminal", Duration::from_secs(15), || {
        user.ssh("SCREENDIR=$HOME/.screen screen -ls").run().text().contains("(Attached)")
    });
    terminal.line("echo in''side $(( 6 * 7 ))");
    terminal.expect("inside 42");
    terminal.send("\x01d");
    terminal.expect("detached");
    terminal.line("screen -S work -X quit; echo end:$?");
    terminal.expect("end:0");
    Ok(())
}

fn a_lost_connection_ends_the_jobs(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    terminal.line("sleep 103 & sleep 104");
    wait_until("both run", Duration::from_secs(20), || runs(&user, "sleep 103") && runs(&user, "sleep 104"));
    terminal.kill();
    user.wait_for_the_end();
    Ok(())
}

fn a_lost_connection_runs_the_hangup_trap(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal = at_prompt(&user);
    terminal.ask("trap 'echo hung up >~/trap; exit' HUP");
    terminal.kill();
    let trace = user.home.join("trap");
    wait_until("the trap ran", Duration::from_secs(10), || trace.exists());
    Ok(())
}

/// Nobody hangs up a pipe: the waiter hears of the end of sshd's process.
fn a_lost_connection_without_a_terminal(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("on a host without us the command runs on");
    }
    let user = host.jailed_user(&["basicshell"]);
    let mut client = user.ssh("sleep 107; sleep 108").background();
    wait_until("it runs", Duration::from_secs(20), || runs(&user, "sleep 107"));
    client.kill();
    user.wait_for_the_end();
    Ok(())
}

/// What has made itself a daemon lives on in a shared session, as on any host; a private one ends with its login.
fn nothing_of_a_private_session_is_left(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("sessions are ours");
    }
    let user = host.jailed_user(&["basicshell", "extendedshell"]);
    host.add_policy(&format!("[user.{}]\nsession = \"private\"\n", user.name));
    let mut terminal = at_prompt(&user);
    terminal.line("(trap '' HUP; sleep 105 </dev/null >/dev/null 2>&1 &) ; echo star''ted");
    terminal.expect("started");
    wait_until("it runs", Duration::from_secs(20), || runs(&user, "sleep 105"));
    terminal.line("exit");
    terminal.wait();
    wait_until("it is gone", Duration::from_secs(20), || user.processes().is_empty());
    Ok(())
}

fn su_runs_a_command(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = Run::new("su").args(["-", &user.name, "-c", "echo $HOME; exit 9"]).run();
    assert_eq!(out.status, 9, "{}", out.errors());
    assert_eq!(out.text(), user.inner_home.to_str().expect("UTF-8"));
    Ok(())
}

/// root's own shell must have its terminal and its controlling tty after a jailed `su -` (sandbox: tty theft, bwrap#744).
fn su_gives_the_terminal_back(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let bash = Run::new("bash").args(["--norc", "--noprofile"]).env("TERM", "dumb").env("PS1", "root# ");
    let mut terminal = Pty::spawn(&bash.into_command());
    terminal.expect("root# ");
    terminal.line(&format!("su - {}", user.name));
    terminal.expect("$ ");
    assert_eq!(terminal.ask("echo ~"), user.inner_home.to_str().expect("UTF-8"));
    terminal.line("sleep 106");
    wait_until("sleep runs", Duration::from_secs(20), || runs(&user, "sleep 106"));
    terminal.send("\x03");
    terminal.expect("$ ");
    terminal.line("exit");
    terminal.expect("root# ");
    assert_eq!(terminal.ask("echo back </dev/tty"), "back");
    terminal.line("read word; echo \"<$word>\"");
    std::thread::sleep(Duration::from_millis(100));
    terminal.line("typed");
    terminal.expect("<typed>");
    Ok(())
}

fn login_program(host: &Scratch) -> Done {
    if !std::path::Path::new("/bin/login").exists() {
        return skip("no login(1) on this machine");
    }
    let user = host.jailed_user(&["basicshell"]);
    let mut terminal =
        Pty::spawn(&Run::new("/bin/login").args(["-f", &user.name]).env("TERM", "dumb").into_command());
    terminal.expect("$ ");
    assert_eq!(terminal.ask("echo ~"), user.inner_home.to_str().expect("UTF-8"));
    terminal.line("exit");
    terminal.wait();
    Ok(())
}

fn runs(user: &User<'_>, command: &str) -> bool {
    processes_of(user.uid).iter().any(|(_, line)| line == command)
}
