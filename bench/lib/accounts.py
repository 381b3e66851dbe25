"""The accounts and jails that the entry, ssh and memory rows share: one user a way of being confined."""

import pathlib
import subprocess

from .world import SRV

SECTIONS = ["basicshell", "scp", "sftp"]
HOME = "home/{}"


def run(*argv):
    """Runs a set-up step; returns "" or why it failed."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
    return f"{pathlib.Path(str(argv[0])).name}: {lines[0]}"


class Accounts:
    """Users `plain`, `jk`, `ours` (own network, the default) and `ournet` (network of the host)."""

    def __init__(self, world):
        self.world = world
        self.names = {}
        self.jk_jail, self.our_jail = SRV / "jails" / "jk", SRV / "jails" / "ours"
        self.plain = self.add("bench-plain")
        self.jk_problem = self.make_jk()
        self.our_problem = (self.make_ours() if world.has("jail-init") and world.has("jail-user") else
                            self.hand_made() if world.has("jail-sh") else "not built")
        # The tree that bwrap, the floors and the container runtimes enter: ours where there is one.
        self.tree = self.jk_jail if self.our_problem else self.our_jail

    def add(self, name, **more):
        self.names[name] = self.world.add_user(name, **more)
        return self.names[name]

    def make_jk(self):
        problem = run("/usr/sbin/jk_init", "-j", self.jk_jail, *SECTIONS)
        self.jk = self.add("bench-jk", home=f"{self.jk_jail}/./home/bench-jk", shell="/usr/sbin/jk_chrootsh")
        with open(self.jk_jail / "etc/passwd", "a") as f:
            f.write(f"bench-jk:x:{self.jk}:{self.jk}::/home/bench-jk:/bin/bash\n")
        with open(self.jk_jail / "etc/group", "a") as f:
            f.write(f"bench-jk:x:{self.jk}:\n")
        # Where the others mount; jk_init makes none of them.
        for name in ("proc", "dev", "tmp"):
            (self.jk_jail / name).mkdir(exist_ok=True)
        return problem

    def make_ours(self):
        tool = self.world.tool
        problem = run(tool("jail-init"), "-j", self.our_jail, *SECTIONS)
        self.ours, self.ournet = self.add("bench-ours"), self.add("bench-ournet")
        for name in ("bench-ours", "bench-ournet"):
            problem = problem or self.jail_user(name)
        policy = pathlib.Path("/etc/jailwright/jail-sh.toml")
        policy.parent.mkdir(exist_ok=True)
        policy.write_text('[user.bench-ournet]\nnetwork = "host"\n')
        policy.chmod(0o644)
        return problem

    def hand_made(self):
        """jail-sh alone, in the tree that jk_init made: for when the other tools are not built."""
        self.our_jail = self.jk_jail
        for d in ("var/tmp", "run", "home", "tmp", "proc", "dev"):
            (self.jk_jail / d).mkdir(parents=True, exist_ok=True)
        for name in ("bench-ours", "bench-ournet"):
            uid = self.add(name, home=f"{self.jk_jail}/./home/{name}", shell=self.world.tool("jail-sh"))
            with open(self.jk_jail / "etc/passwd", "a") as f:
                f.write(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n")
        self.ours, self.ournet = self.names["bench-ours"], self.names["bench-ournet"]
        policy = pathlib.Path("/etc/jailwright/jail-sh.toml")
        policy.parent.mkdir(exist_ok=True)
        policy.write_text('[user.bench-ournet]\nnetwork = "host"\n')
        policy.chmod(0o644)
        return ""

    def jail_user(self, *names):
        return run(self.world.tool("jail-user"), "-n", "-m", "-s", "/bin/bash", "-j", self.our_jail, *names)
