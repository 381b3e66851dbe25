//! Whether sshd confines a jailed account: forwarding and ~/.ssh/rc happen outside of every login shell.
//!
//! sshd itself is asked (`sshd -T -C user=…`), since only it knows what its files mean together.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::trouble::{Trouble, cannot};

/// Settings as sshd has them in force for one user.
pub type Settings = BTreeMap<String, String>;

/// Asks sshd for a user's settings. No shell, an empty environment, an absolute path.
pub fn settings(sshd: &Path, config: Option<&Path>, user: &OsStr) -> Result<Settings, Trouble> {
    let mut who = OsString::from("user=");
    who.push(user);
    who.push(",host=localhost,addr=127.0.0.1");
    let mut command = Command::new(sshd);
    if let Some(config) = config {
        command.arg("-f").arg(config);
    }
    let output = command
        .arg("-T")
        .arg("-C")
        .arg(who)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(cannot("run", sshd))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").escape_debug().to_string();
        return Err(Trouble::failed(format!("sshd -T does not say what is in force: {last}")));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
        .collect())
}

/// The settings that let a jailed user act outside of the jail; empty if all is shut.
#[must_use]
pub fn open_doors(settings: &Settings) -> Vec<String> {
    let value = |key: &str| settings.get(key).map(String::as_str).unwrap_or_default();
    let mut open = Vec::new();
    let forwarding_off = value("disableforwarding") == "yes";
    for key in ["allowtcpforwarding", "allowstreamlocalforwarding", "allowagentforwarding", "x11forwarding"] {
        if !forwarding_off && !matches!(value(key), "no" | "") {
            open.push(format!("{key} {}", value(key)));
        }
    }
    if !matches!(value("permittunnel"), "no" | "") && !forwarding_off {
        open.push(format!("permittunnel {}", value("permittunnel")));
    }
    for key in ["permituserrc", "permituserenvironment"] {
        if !matches!(value(key), "no" | "") {
            open.push(format!("{key} {}", value(key)));
        }
    }
    if value("subsystem").contains("internal-sftp") && value("chrootdirectory") == "none" {
        open.push("subsystem sftp internal-sftp".to_owned());
    }
    if value("forcecommand").contains("internal-sftp") && value("chrootdirectory") == "none" {
        open.push("forcecommand internal-sftp".to_owned());
    }
    open
}

/// What to tell the administrator after jailing, if anything.
#[must_use]
pub fn warning(sshd: Option<&Path>, user: &OsStr) -> Option<String> {
    const HOW: &str =
        "install share/jailwright/ssh/60-jailwright.conf in /etc/ssh/sshd_config.d and reload sshd";
    let sshd = sshd?;
    match settings(sshd, None, user) {
        Err(trouble) => Some(format!("{trouble}; {HOW}")),
        Ok(settings) => {
            let open = open_doors(&settings);
            (!open.is_empty()).then(|| {
                format!("sshd lets jailed users act outside of the jail ({}); {HOW}", open.join(", "))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        open_doors(
            &text
                .lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        )
    }

    #[test]
    fn doors() {
        let shut = "disableforwarding yes\nallowtcpforwarding yes\npermituserrc no\npermituserenvironment no\n\
                    subsystem sftp /usr/lib/openssh/sftp-server\nchrootdirectory none";
        assert_eq!(of(shut), Vec::<String>::new());
        assert_eq!(
            of(&shut.replace("disableforwarding yes", "disableforwarding no")),
            ["allowtcpforwarding yes"]
        );
        assert_eq!(of(&shut.replace("permituserrc no", "permituserrc yes")), ["permituserrc yes"]);
        assert_eq!(
            of(&shut.replace("/usr/lib/openssh/sftp-server", "internal-sftp")),
            ["subsystem sftp internal-sftp"]
        );
    }
}
