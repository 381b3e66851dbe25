//! An OpenSSH server for the scratch host, and clients that know its key.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::command::{Background, Run, wait_until};

/// A running sshd; dropped, it ends.
pub struct Sshd {
    dir: PathBuf,
    port: u16,
    _server: Background,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Sshd {
    /// Starts one. `extra` lines come first and so win over the usual ones (sshd takes a key's first value).
    ///
    /// Usual is what Debian ships: PAM, `AcceptEnv LANG LC_*`, the external sftp-server.
    #[track_caller]
    #[must_use]
    pub fn start(extra: &str) -> Sshd {
        Sshd::start_between(extra, "")
    }

    /// Starts one with lines at the end, where `Match` blocks have to stand.
    #[track_caller]
    #[must_use]
    pub fn start_with(at_the_end: &str) -> Sshd {
        Sshd::start_between("", at_the_end)
    }

    /// Starts one with lines at the top and lines at the end.
    #[track_caller]
    #[must_use]
    pub fn start_between(extra: &str, at_the_end: &str) -> Sshd {
        let dir = PathBuf::from(format!("/run/sshd-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&dir).expect("mkdir");
        for key in ["host_key", "client_key"] {
            Run::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(key))
                .run()
                .ok();
        }
        let port = free_port();
        let at = dir.display();
        // A second line for the same subsystem is an error.
        let sftp =
            if extra.contains("Subsystem") { "" } else { "Subsystem sftp /usr/lib/openssh/sftp-server\n" };
        let config = format!(
            "{extra}\nPort {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nPidFile {at}/pid\n\
             UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nX11Forwarding yes\nPrintMotd no\n\
             AcceptEnv LANG LC_*\n{sftp}MaxStartups 300\nMaxSessions 300\nLogLevel VERBOSE\n{at_the_end}"
        );
        std::fs::write(dir.join("sshd_config"), config).expect("write");
        let host_key = std::fs::read_to_string(dir.join("host_key.pub")).expect("host key");
        std::fs::write(dir.join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).expect("write");
        let client = format!(
            "Host jail\n HostName 127.0.0.1\n Port {port}\n IdentityFile {at}/client_key\n IdentitiesOnly yes\n\
             \x20IdentityAgent none\n UserKnownHostsFile {at}/known_hosts\n GlobalKnownHostsFile none\n\
             \x20StrictHostKeyChecking yes\n BatchMode yes\n LogLevel ERROR\n ConnectTimeout 20\n"
        );
        std::fs::write(dir.join("ssh_config"), client).expect("write");
        Run::new("/usr/sbin/sshd").args(["-t", "-f"]).arg(dir.join("sshd_config")).run().ok();
        let server = Run::new("/usr/sbin/sshd")
            .args(["-D", "-f"])
            .arg(dir.join("sshd_config"))
            .arg("-E")
            .arg(dir.join("log"))
            .background();
        wait_until("sshd listens", Duration::from_secs(30), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Sshd { dir, port, _server: server }
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's configuration, for `sshd -T`.
    #[must_use]
    pub fn server_config(&self) -> PathBuf {
        self.dir.join("sshd_config")
    }

    /// A client configuration that knows the host `jail`.
    #[must_use]
    pub fn client_config(&self) -> PathBuf {
        self.dir.join("ssh_config")
    }

    /// The public key that users accept.
    #[must_use]
    pub fn public_key(&self) -> String {
        std::fs::read_to_string(self.dir.join("client_key.pub")).expect("client key")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// `ssh -F CONFIG`, `scp -F CONFIG` and `sftp -F CONFIG`.
    #[must_use]
    pub fn client(&self, program: &str) -> Run {
        Run::new(program).arg("-F").arg(self.client_config()).without_env("LANG").without_env("LC_ALL")
    }

    /// The remote shell for `rsync -e` and `GIT_SSH_COMMAND`.
    #[must_use]
    pub fn remote_shell(&self) -> String {
        format!("ssh -F {}", self.client_config().display())
    }

    /// A place for a client's own files (control sockets).
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A port of the loopback's that nobody listens on now.
#[track_caller]
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// An ssh-agent of a client's, listening.
#[track_caller]
#[must_use]
pub fn ssh_agent(socket: &Path) -> Background {
    let agent = Run::new("ssh-agent").args(["-D", "-a"]).arg(socket).background();
    wait_until("the agent listens", Duration::from_secs(10), || socket.exists());
    agent
}
