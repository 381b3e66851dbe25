"""The place where the contestants run: a private mount and pid namespace in which accounts and jails can be made freely.

The outer half starts it and cleans up; a killed run leaves at most one directory below target/. The inner half lays
overlays on tmpfs over /etc and /var, a tmpfs over /run, and binds a directory of the checkout's own disk over /srv:
provisioning is measured on a real file system, below parents that only root may write (jk_init refuses any other).
"""

import os
import pathlib
import pwd
import shutil
import subprocess
import sys

SRV = pathlib.Path("/srv")
STATE = pathlib.Path("/var/lib/jailwright")
FIRST_UID = 61000
PROGRAMS = ["jail-init", "jail-cp", "jail-update", "jail-check", "jail-list", "jail-export", "jail-user", "jail-run", "jail-sh"]


class Refused(Exception):
    """The world cannot be had here; says why in one sentence."""


def find_program(root, build, name):
    """Where `make build` (or `make static`, or cargo alone) puts a program, or None."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    profile = "debug" if build == "debug" else "release"
    libc = "musl" if build == "musl" else "gnu"
    place = target / profile / name
    if name == "filter-cost":
        place = target / profile / "examples" / name
    if name in ("jail-sh", "jail-run"):
        place = target / "static" / f"{os.uname().machine}-unknown-linux-{libc}" / profile / name
    return place if place.is_file() else None


def stage(root, scratch, build):
    """Puts floors and our programs where the inner half finds them; returns what was found."""
    tools = scratch / "srv" / "tools"
    for sub in ("srv/jails", "srv/new", "srv/homes", "state"):
        (scratch / sub).mkdir(parents=True)
    tools.mkdir(parents=True)
    found = {}
    for name in [*PROGRAMS, "filter-cost"]:
        source = find_program(root, build, name)
        if source:
            shutil.copy(source, tools / name)
            found[name] = os.path.relpath(source, root)
    if "jail-sh" in found:
        (tools / "jail-sh").chmod(0o4755)
    return tools, found


def start_inside(script, scratch, arguments):
    """Runs the inner half in namespaces of its own; they, and all processes in them, end with it."""
    if os.geteuid():
        raise Refused("the rows need root: a set-uid login shell, accounts, jk_init; run it with sudo")
    command = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc",
               "--propagation", "private", "--",
               # A first process that takes the ends of orphans, as a host has it: cells outlast the logins that made them.
               "bash", "-c", '"$@" & wait "$!"', "bash", sys.executable, "-B", str(script), "--inside", str(scratch)]
    return subprocess.run([*command, *arguments]).returncode


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


class World:
    """The inner half."""

    def __init__(self, scratch):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        for name in ("etc", "var"):
            upper, work = pathlib.Path(f"/run/bench/{name}/upper"), pathlib.Path(f"/run/bench/{name}/work")
            upper.mkdir(parents=True)
            work.mkdir()
            mount("-t", "overlay", "-o", f"lowerdir=/{name},upperdir={upper},workdir={work}", "overlay", f"/{name}")
        mount("--bind", scratch / "srv", SRV)
        STATE.mkdir(exist_ok=True)
        mount("--bind", scratch / "state", STATE)
        self.tools = SRV / "tools"
        self.made = 0
        self.next_uid = FIRST_UID
        self.filesystem = subprocess.run(["stat", "-f", "-c", "%T", SRV], capture_output=True, text=True).stdout.strip()
        # jailkit's tools and sshd trust only directories of root's that no one else may write.
        for path in (SRV, *SRV.iterdir()):
            path.chmod(0o755)

    def has(self, program):
        return (self.tools / program).exists()

    def tool(self, program):
        return str(self.tools / program)

    def fresh(self, name):
        """A path that was never there: ext4 is slow to hand out inodes deleted a minute ago, so nothing is reused."""
        self.made += 1
        return SRV / "new" / f"{self.made:05}-{name}"

    def add_user(self, name, shell="/bin/bash", home=None):
        """Appends an account to the overlay's passwd, shadow and group; returns its uid."""
        uid = self.next_uid
        self.next_uid += 1
        try:
            raise Refused(f"uid {uid} belongs to {pwd.getpwuid(uid).pw_name}; the bench wants {FIRST_UID} and up unused")
        except KeyError:
            pass
        home = home or SRV / "homes" / name
        with open("/etc/passwd", "a") as f:
            f.write(f"{name}:x:{uid}:{uid}::{home}:{shell}\n")
        with open("/etc/group", "a") as f:
            f.write(f"{name}:x:{uid}:\n")
        with open("/etc/shadow", "a") as f:
            f.write(f"{name}:*:20000:0:99999:7:::\n")
        real = pathlib.Path(home)
        real.mkdir(parents=True, exist_ok=True)
        os.chown(real, uid, uid)
        real.chmod(0o755)
        return uid

    def sweep(self):
        """Clears cgroups of ours, which live outside the mount namespace; then says what is left."""
        if self.has("jail-list"):
            subprocess.run([self.tool("jail-list"), "--sweep"], capture_output=True)
