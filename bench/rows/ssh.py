"""A command over a kept SSH connection: the gate for logins, since key exchange hides the entry in a full one (issue 4)."""

import subprocess
import time

from lib.accounts import Accounts
from lib.measure import Contestant
from lib.report import Row
from lib.world import SRV

PORT = 22860
CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey {dir}/host
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
AuthorizedKeysFile {dir}/user.pub
Subsystem sftp /usr/lib/openssh/sftp-server
Match User bench-bwrap
    ForceCommand exec {bwrap}
"""


def rows(world, watch, options):
    accounts = world.accounts = getattr(world, "accounts", None) or Accounts(world)
    where = SRV / "ssh"
    where.mkdir()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", where / key], check=True)
    (where / "user.pub").chmod(0o644)
    subprocess.run(["mkdir", "-p", "/run/sshd"], check=True)
    confined = accounts.add("bench-bwrap")
    home = accounts.tree / "home" / "bench-bwrap"
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run(["chown", f"{confined}:{confined}", home], check=True)
    bwrap = (f"/usr/bin/bwrap --unshare-all --ro-bind {accounts.tree} / --proc /proc --dev /dev --tmpfs /tmp "
             f"--bind {home} /home/bench-bwrap --chdir /home/bench-bwrap /bin/bash -c true")
    (where / "sshd_config").write_text(CONFIG.format(port=PORT, dir=where, bwrap=bwrap))
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", where / "sshd_config"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield kept(world, watch, accounts, where, options.rounds * 3)
    finally:
        server.terminate()
        server.wait()


def ssh(where, user, *arguments):
    return ["/usr/bin/ssh", "-q", "-p", str(PORT), "-i", where / "user", "-o", "StrictHostKeyChecking=no", "-o",
            "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", f"ControlPath={where}/{user}.ctl", f"{user}@127.0.0.1",
            *arguments]


def kept(world, watch, accounts, where, count):
    row = Row("a command over a kept ssh connection")
    who = [("jail-sh, a new cell each time", "bench-ours", accounts.our_problem), ("/bin/bash", "bench-plain", ""),
           ("jk_chrootsh", "bench-jk", accounts.jk_problem), ("ForceCommand bwrap", "bench-bwrap", "")]
    contestants, masters = [], []
    for name, user, problem in who:
        contestant = Contestant(name, lambda _, user=user: ssh(where, user, "true"))
        contestant.failed = problem
        if not problem:
            opened = subprocess.run([*ssh(where, user), "-M", "-f", "-N"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
            contestant.failed = f"ssh: status {opened.returncode}" if opened.returncode else ""
            masters.append(user)
        contestants.append(contestant)
    row.contestants = watch.rounds(contestants, count)
    for user in masters:
        subprocess.run([*ssh(where, user)[:-1], "-O", "exit", f"{user}@127.0.0.1"], capture_output=True)
    row.at_most(4, 1.2, "jail-sh, a new cell each time", "/bin/bash", "jail-sh: 1.2 x of /bin/bash")
    return row
