//! Whether sshd confines a jailed account: forwarding, ~/.ssh/rc and internal-sftp happen outside of every login shell.
//!
//! sshd itself is asked (`sshd -T -C user=…`), since only it knows what its files mean together.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Where the settings that shut every door are installed by an administrator.
pub const DROP_IN: &str = "/etc/ssh/sshd_config.d/60-jailwright.conf";

/// How they get there.
pub const HOW: &str =
    "install share/jailwright/ssh/60-jailwright.conf in /etc/ssh/sshd_config.d and reload sshd";

/// Variables that make a program of the host's run what their value names, if a client or a user may set them.
const LOADING: [&str; 6] = ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GCONV_PATH", "BASH_ENV", "ENV"];

/// sshd of this host, if it has one.
#[must_use]
pub fn program() -> Option<PathBuf> {
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"].iter().map(PathBuf::from).find(|p| p.exists())
}

/// Settings as sshd has them in force for one user; several values where sshd prints several lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, Vec<String>>);

impl Settings {
    /// What `sshd -T` printed.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            settings.entry(key.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
        }
        Self(settings)
    }

    /// The value of a setting, empty if sshd does not know it.
    #[must_use]
    pub fn value(&self, key: &str) -> &str {
        self.all(key).first().map_or("", String::as_str)
    }

    /// All values of a setting.
    #[must_use]
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Asks sshd for a user's settings. No shell, an empty environment, an absolute path.
///
/// `from` is where the connection comes from, as `-C` takes it: `host=…,addr=…`.
///
/// # Errors
/// If sshd cannot be run or does not accept its own configuration.
pub fn settings(sshd: &Path, config: Option<&Path>, user: &OsStr, from: &str) -> Result<Settings> {
    let mut who = OsString::from("user=");
    who.push(user);
    who.push(",");
    who.push(from);
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
        .map_err(|e| Error::io("run", sshd, e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").escape_debug().to_string();
        return Err(Error::failed(format!("sshd -T does not say what is in force: {last}"))
            .hint("run 'sshd -t' as root and mend what it names"));
    }
    Ok(Settings::parse(&String::from_utf8_lossy(&output.stdout)))
}

/// The connection that is asked about where nobody names one.
pub const FROM_HERE: &str = "host=localhost,addr=127.0.0.1";

/// A way past the login shell that sshd leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// A stable name, for scripts.
    pub id: &'static str,
    /// The setting in force, as sshd prints it.
    pub setting: String,
    /// What somebody could do with it.
    pub why: &'static str,
    /// The line of sshd_config that shuts it.
    pub close: &'static str,
    /// Whether that line may stand in a `Match` block.
    pub in_match: bool,
}

/// The settings that let a jailed user act outside of the jail; empty if all is shut.
#[must_use]
pub fn open_doors(settings: &Settings) -> Vec<Door> {
    let mut open = forwardings(settings);
    open.extend(files_of_the_user(settings));
    open.extend(sftp_without_shell(settings));
    open
}

/// A switch of sshd and what it opens unless it says `no`.
struct Switch {
    id: &'static str,
    key: &'static str,
    /// Whether `DisableForwarding yes` shuts it too, in every version that is in use.
    disabled_with_all: bool,
    why: &'static str,
    close: &'static str,
}

/// `DisableForwarding` left X11 and agents open before OpenSSH 10.0 (CVE-2025-32728), and never meant tunnels.
const FORWARDINGS: [Switch; 5] = [
    Switch {
        id: "ssh-tcp-forwarding",
        key: "allowtcpforwarding",
        disabled_with_all: true,
        why: "ssh -L, -D, -R and -W connect from the host, as the user, before any shell: \
              services on the host's loopback can be reached",
        close: "AllowTcpForwarding no",
    },
    Switch {
        id: "ssh-socket-forwarding",
        key: "allowstreamlocalforwarding",
        disabled_with_all: true,
        why: "ssh -L and -R with a path open and make sockets of the host's (docker.sock) as the user",
        close: "AllowStreamLocalForwarding no",
    },
    Switch {
        id: "ssh-agent-forwarding",
        key: "allowagentforwarding",
        disabled_with_all: false,
        why: "sshd makes the agent's socket on the host, in /tmp, as the user",
        close: "AllowAgentForwarding no",
    },
    Switch {
        id: "ssh-x11-forwarding",
        key: "x11forwarding",
        disabled_with_all: false,
        why: "sshd listens on the host's loopback and runs the host's xauth as the user, outside of the jail",
        close: "X11Forwarding no",
    },
    Switch {
        id: "ssh-tunnel",
        key: "permittunnel",
        disabled_with_all: false,
        why: "ssh -w attaches to a network device of the host's, and with it to the host's network",
        close: "PermitTunnel no",
    },
];

fn forwardings(settings: &Settings) -> Vec<Door> {
    let all_off = settings.value("disableforwarding") == "yes";
    let nowhere = settings.value("permitopen") == "none" && settings.value("permitlisten") == "none";
    FORWARDINGS
        .iter()
        .filter(|switch| !(all_off && switch.disabled_with_all))
        .filter(|switch| !(switch.key == "allowtcpforwarding" && nowhere))
        .filter(|switch| !matches!(settings.value(switch.key), "no" | ""))
        .map(|switch| Door {
            id: switch.id,
            setting: format!("{} {}", switch.key, settings.value(switch.key)),
            why: switch.why,
            close: switch.close,
            in_match: true,
        })
        .collect()
}

fn files_of_the_user(settings: &Settings) -> Vec<Door> {
    let mut open = Vec::new();
    let mut door = |id, setting: String, why, close, in_match| {
        open.push(Door { id, setting, why, close, in_match });
    };
    if !matches!(settings.value("permituserrc"), "no" | "") {
        door(
            "ssh-user-rc",
            format!("permituserrc {}", settings.value("permituserrc")),
            "sshd starts a shell of the host's, with the user's variables, for ~/.ssh/rc",
            "PermitUserRC no",
            true,
        );
    }
    if !matches!(settings.value("permituserenvironment"), "no" | "") {
        door(
            "ssh-user-environment",
            format!("permituserenvironment {}", settings.value("permituserenvironment")),
            "~/.ssh/environment and environment= in authorized_keys set LD_PRELOAD for programs that sshd starts \
             on the host",
            "PermitUserEnvironment no",
            false,
        );
    }
    let mut patterns = settings.all("acceptenv").iter().flat_map(|line| line.split_whitespace());
    let wide = patterns.find(|pattern| LOADING.iter().any(|name| matches(pattern, name)));
    if let Some(pattern) = wide {
        door(
            "ssh-accept-env",
            format!("acceptenv {pattern}"),
            "the client sets variables that make programs of the host's load its files (LD_PRELOAD, BASH_ENV)",
            "AcceptEnv LANG LC_*",
            true,
        );
    }
    open
}

/// internal-sftp is sshd itself: no shell is started, and without ChrootDirectory it serves the host's root.
fn sftp_without_shell(settings: &Settings) -> Vec<Door> {
    if settings.value("chrootdirectory") != "none" && !settings.value("chrootdirectory").is_empty() {
        return Vec::new();
    }
    let forced = settings.value("forcecommand");
    if forced.starts_with("internal-sftp") {
        return vec![Door {
            id: "ssh-internal-sftp",
            setting: format!("forcecommand {forced}"),
            why: "sshd serves files itself, from the host's root, whatever the login shell is",
            close: "ForceCommand /usr/lib/openssh/sftp-server",
            in_match: true,
        }];
    }
    let subsystems = settings.all("subsystem").iter();
    let internal = subsystems.filter(|line| line.split_whitespace().nth(1) == Some("internal-sftp"));
    internal
        .filter(|_| matches!(forced, "none" | ""))
        .map(|line| Door {
            id: "ssh-internal-sftp",
            setting: format!("subsystem {line}"),
            why: "sshd serves files itself, from the host's root, whatever the login shell is (scp of OpenSSH 9 \
                  and later is sftp too)",
            close: "Subsystem sftp /usr/lib/openssh/sftp-server",
            in_match: false,
        })
        .collect()
}

/// sshd's patterns: `*` any bytes, `?` one.
fn matches(pattern: &str, name: &str) -> bool {
    crate::glob::matches(pattern.as_bytes(), OsStr::new(name))
}

/// What to tell the administrator after jailing, if anything.
#[must_use]
pub fn warning(sshd: Option<&Path>, user: &OsStr) -> Option<String> {
    match settings(sshd?, None, user, FROM_HERE) {
        Err(error) => Some(format!("{}; {HOW}", error.message)),
        Ok(settings) => {
            let open: Vec<String> = open_doors(&settings).into_iter().map(|door| door.setting).collect();
            (!open.is_empty()).then(|| {
                format!("sshd lets jailed users act outside of the jail ({}); {HOW}", open.join(", "))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUT: &str = "disableforwarding yes\nallowtcpforwarding no\nallowstreamlocalforwarding no\n\
        allowagentforwarding no\nx11forwarding no\npermittunnel no\npermituserrc no\npermituserenvironment no\n\
        acceptenv LANG\nacceptenv LC_*\nsubsystem sftp /usr/lib/openssh/sftp-server\nchrootdirectory none\n\
        forcecommand none";

    fn doors(text: &str) -> Vec<Door> {
        open_doors(&Settings::parse(text))
    }

    #[test]
    fn all_shut() {
        assert_eq!(doors(SHUT), Vec::new());
    }

    #[test]
    fn each_door_by_itself() {
        let open_forwarding = SHUT.replace("disableforwarding yes", "disableforwarding no");
        for (from, to, id) in [
            ("allowtcpforwarding no", "allowtcpforwarding yes", "ssh-tcp-forwarding"),
            ("allowtcpforwarding no", "allowtcpforwarding local", "ssh-tcp-forwarding"),
            ("allowstreamlocalforwarding no", "allowstreamlocalforwarding yes", "ssh-socket-forwarding"),
            ("allowagentforwarding no", "allowagentforwarding yes", "ssh-agent-forwarding"),
            ("x11forwarding no", "x11forwarding yes", "ssh-x11-forwarding"),
            ("permittunnel no", "permittunnel point-to-point", "ssh-tunnel"),
            ("permituserrc no", "permituserrc yes", "ssh-user-rc"),
            ("permituserenvironment no", "permituserenvironment LANG", "ssh-user-environment"),
            ("acceptenv LANG", "acceptenv *", "ssh-accept-env"),
            ("acceptenv LANG", "acceptenv LD_PRE?OAD", "ssh-accept-env"),
            ("/usr/lib/openssh/sftp-server", "internal-sftp", "ssh-internal-sftp"),
            ("forcecommand none", "forcecommand internal-sftp -d /", "ssh-internal-sftp"),
        ] {
            let text = open_forwarding.replace(from, to);
            assert_ne!(text, open_forwarding, "{from}");
            let ids: Vec<&str> = doors(&text).iter().map(|door| door.id).collect();
            assert_eq!(ids, [id], "{to}");
        }
    }

    /// CVE-2025-32728: the one line that was said to shut all did not.
    #[test]
    fn one_line_is_not_believed_to_shut_all() {
        let text = SHUT
            .replace("allowtcpforwarding no", "allowtcpforwarding yes")
            .replace("x11forwarding no", "x11forwarding yes")
            .replace("allowagentforwarding no", "allowagentforwarding yes")
            .replace("permittunnel no", "permittunnel yes");
        let ids: Vec<&str> = doors(&text).iter().map(|door| door.id).collect();
        assert_eq!(ids, ["ssh-agent-forwarding", "ssh-x11-forwarding", "ssh-tunnel"]);
    }

    #[test]
    fn what_leads_nowhere_is_shut() {
        let text = SHUT
            .replace("disableforwarding yes", "disableforwarding no\npermitopen none\npermitlisten none")
            .replace("allowtcpforwarding no", "allowtcpforwarding yes");
        assert_eq!(doors(&text), Vec::new());
        let chrooted = SHUT
            .replace("/usr/lib/openssh/sftp-server", "internal-sftp")
            .replace("chrootdirectory none", "chrootdirectory /srv/sftp");
        assert_eq!(doors(&chrooted), Vec::new());
    }
}
