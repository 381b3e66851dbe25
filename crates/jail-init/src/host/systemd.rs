//! systemd: the user manager runs units from the jailed home on the host, and a system unit may run as the account.

use std::path::{Path, PathBuf};

use super::Finding;
use super::accounts::Account;
use super::shown;
use super::view::{View, Whose, lines};

/// Where an administrator's own units lie.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system"];

pub(super) fn look(view: &View, account: &Account) -> Vec<Finding> {
    let present = ["/usr/bin/systemctl", "/bin/systemctl", "/run/systemd/system"];
    if !present.iter().any(|path| view.has(path)) {
        return Vec::new();
    }
    let mut findings = manager(view, account);
    findings.extend(linger(view, account));
    findings.extend(system_units(view, account));
    findings
}

fn manager(view: &View, account: &Account) -> Vec<Finding> {
    let uid = account.uid;
    let null = Some(&b"/dev/null"[..]);
    if UNITS.iter().any(|dir| view.link(format!("{dir}/user@{uid}.service")).as_deref() == null) {
        return Vec::new();
    }
    let units: usize = [".config/systemd/user", ".local/share/systemd/user"]
        .iter()
        .map(|dir| view.names(account.below_home(dir), Whose::Users).len())
        .sum();
    let now = match units {
        0 => String::new(),
        n => format!("; there are {n} entries in the home's systemd/user directories"),
    };
    vec![Finding::of(
        account,
        "systemd-user-manager",
        format!("user@{uid}.service is not masked{now}"),
        "with libpam-systemd a login starts it on the host, and it runs units from the jailed home outside of any jail",
        format!(
            "ln -sfn /dev/null /etc/systemd/system/user@{uid}.service && systemctl daemon-reload && \
             systemctl stop user@{uid}.service"
        ),
    )]
}

fn linger(view: &View, account: &Account) -> Vec<Finding> {
    let name = account.shown();
    if view.lstat(Path::new("/var/lib/systemd/linger").join(super::view::path(&account.name))).is_none() {
        return Vec::new();
    }
    vec![Finding::of(
        account,
        "systemd-linger",
        "the account lingers",
        "systemd starts its user manager at boot, without any login",
        format!("loginctl disable-linger {name}"),
    )]
}

fn system_units(view: &View, account: &Account) -> Vec<Finding> {
    const WHY: &str = "the unit's program runs as the account on the host, without the login shell";
    let mut findings = Vec::new();
    for file in unit_files(view) {
        let Some(bytes) = view.read(&file, Whose::Roots) else { continue };
        let uid = account.uid.to_string();
        let is_ours = |line: &[u8]| {
            let value = line.strip_prefix(b"User").map(<[u8]>::trim_ascii).and_then(|l| l.strip_prefix(b"="));
            value.map(<[u8]>::trim_ascii).is_some_and(|v| v == account.name || v == uid.as_bytes())
        };
        if let Some(line) = lines(&bytes).find(|line| is_ours(line)) {
            let unit = file.display();
            findings.push(Finding::of(
                account,
                "systemd-unit",
                format!("'{unit}' says '{}'", shown(line)),
                WHY,
                format!("sed -i 's/^User *=.*/User=nobody/' {unit} && systemctl daemon-reload"),
            ));
        }
    }
    findings
}

/// Services and their drop-ins.
fn unit_files(view: &View) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in UNITS {
        for name in view.names(dir, Whose::Roots) {
            let path = Path::new(dir).join(&name);
            let name = name.to_string_lossy();
            if name.ends_with(".service") {
                files.push(path);
            } else if name.ends_with(".service.d") {
                files.extend(view.names(&path, Whose::Roots).into_iter().map(|conf| path.join(conf)));
            }
        }
    }
    files
}
