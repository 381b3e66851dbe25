"""Entry latency: from a login to a process inside and out again (issues 2 and 4)."""

import json
import shutil
import subprocess
import time

from lib import calls
from lib.measure import Contestant
from lib.report import Row

PAYLOAD = ["/bin/bash", "-c", "true"]


def rows(world, watch, options):
    from lib.accounts import Accounts
    accounts = world.accounts = getattr(world, "accounts", None) or Accounts(world)
    floor = world.tools / "enter"
    floor.chmod(0o4755)
    count = options.rounds * 3
    yield new_cell(world, watch, accounts, count, network=True)
    yield new_cell(world, watch, accounts, count, network=False)
    yield join(world, watch, accounts, count)
    yield others(world, watch, accounts, options.rounds)
    yield own_calls(world, accounts)
    yield filter_itself(world)
    yield filter_cost(world, watch, accounts, options)


def as_user(uid, *argv):
    """Every contestant starts alike: through setpriv, as a login's last step."""
    return ["/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--", *map(str, argv)]


def bwrap(world, accounts, *network):
    """bubblewrap with the mounts that our cell has."""
    home = world.accounts.tree / "home" / "bench-plain"
    home.mkdir(parents=True, exist_ok=True)
    shutil.chown(home, accounts.plain, accounts.plain)
    return ["/usr/bin/bwrap", "--unshare-all", *network, "--ro-bind", accounts.tree, "/", "--proc", "/proc", "--dev", "/dev",
            "--tmpfs", "/tmp", "--bind", home, "/home/bench-plain", "--chdir", "/home/bench-plain", *PAYLOAD]


def baseline(accounts):
    out = [Contestant("no jail", lambda _: as_user(accounts.plain, *PAYLOAD))]
    jk = Contestant("jk_chrootsh (chroot only)", lambda _: as_user(accounts.jk, "/usr/sbin/jk_chrootsh", "-c", "true"))
    jk.failed = accounts.jk_problem
    return out + [jk]


def ours(world, accounts, name, *argv, uid=None):
    who = Contestant(name, lambda _: as_user(uid, *argv))
    who.failed = accounts.our_problem
    return who


def new_cell(world, watch, accounts, count, network):
    tree, floor = accounts.tree, world.tools / "enter"
    if network:
        row = Row("a new cell with its own network")
        who = [
            ours(world, accounts, "jail-sh -c true", world.tool("jail-sh"), "-c", "true", uid=getattr(accounts, "ours", None)),
            ours(world, accounts, "jail-run -- bash -c true", world.tool("jail-run"), "-j", tree, "--", *PAYLOAD,
                 uid=accounts.plain),
            *baseline(accounts),
            Contestant("floor: bare calls, + NET", lambda _: as_user(accounts.plain, floor, "-n", tree, *PAYLOAD)),
            Contestant("bwrap --unshare-all", lambda _: as_user(accounts.plain, *bwrap(world, accounts))),
        ]
    else:
        row = Row("a new cell with the host's network")
        who = [
            ours(world, accounts, "jail-sh -c true", world.tool("jail-sh"), "-c", "true", uid=getattr(accounts, "ournet", None)),
            *baseline(accounts),
            Contestant("floor: bare calls", lambda _: as_user(accounts.plain, floor, tree, *PAYLOAD)),
            Contestant("bwrap --share-net", lambda _: as_user(accounts.plain, *bwrap(world, accounts, "--share-net"))),
        ]
    row.contestants = watch.rounds(who, count)
    if network:
        row.at_most(2, 0.8, "jail-sh -c true", "bwrap --unshare-all")
        row.at_most(2, 0.8, "jail-run -- bash -c true", "bwrap --unshare-all")
        row.at_most(4, 1.4, "jail-sh -c true", "no jail")
        row.at_most(4, 0.6, "jail-sh -c true", "bwrap --unshare-all")
    else:
        row.at_most(4, 1.0, "jail-sh -c true", "jk_chrootsh (chroot only)", "jail-sh: 1 x of jk_chrootsh")
        row.at_most(4, 1.25, "jail-sh -c true", "no jail")
    return row


def join(world, watch, accounts, count):
    row = Row("joining the user's running cell")
    keeper = None
    if not accounts.our_problem:
        keeper = subprocess.Popen(as_user(accounts.ours, world.tool("jail-sh"), "-c", "echo ready; exec cat >/dev/null"),
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        keeper.stdout.readline()
    row.contestants = watch.rounds([
        ours(world, accounts, "jail-sh -c true", world.tool("jail-sh"), "-c", "true", uid=getattr(accounts, "ours", None)),
        *baseline(accounts),
    ], count)
    row.at_most(4, 1.1, "jail-sh -c true", "no jail")
    if keeper:
        # Its end of input ends the session, and with it the cell: the rows below want a new one.
        keeper.communicate()
        time.sleep(0.2)
    return row


def bundle(world, accounts):
    """An OCI bundle over the same tree: what crun and runc start."""
    where = world.fresh("bundle")
    where.mkdir()
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": PAYLOAD, "cwd": "/", "user": {"uid": accounts.plain, "gid": accounts.plain},
                    "env": ["PATH=/usr/bin:/bin"], "noNewPrivileges": True},
        "root": {"path": str(accounts.tree), "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                   {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}],
        "linux": {"namespaces": [{"type": t} for t in ("mount", "pid", "ipc", "uts", "network")]},
    }
    (where / "config.json").write_text(json.dumps(spec))
    return where


def others(world, watch, accounts, count):
    row = Row("other ways in, for scale", notes=["crun, runc and chroot as root: they are not login shells"])
    where = bundle(world, accounts)
    who = [ours(world, accounts, "jail-sh -c true", world.tool("jail-sh"), "-c", "true", uid=getattr(accounts, "ours", None)),
           Contestant("chroot(8)", lambda _: ["/usr/sbin/chroot", f"--userspec={accounts.plain}:{accounts.plain}", accounts.tree,
                                              *PAYLOAD])]
    peers = {
        "crun": lambda n: ["/usr/bin/crun", "--cgroup-manager=disabled", "run", "-b", where, f"bench-{n}"],
        "runc": lambda n: ["/usr/sbin/runc", "run", "-b", where, f"bench-{n}"],
    }
    for name, command in peers.items():
        if shutil.which(name):
            who.append(Contestant(name, command))
        else:
            row.notes.append(f"{name} is not installed: left out")
    row.notes.append("firejail takes the bench's own pid namespace for a sandbox and adds none: left out")
    row.contestants = watch.rounds(who, count)
    return row


def own_calls(world, accounts):
    row = Row("system calls of an entry (drops and cgroups apart)")
    total = None
    if not accounts.our_problem:
        total, kinds = calls.of_an_entry([world.tool("jail-sh"), "-c", "true"], "bench-ours", world.tool("jail-sh"), "bash")
        row.figures.append(("most frequent", ", ".join(f"{n} {c}" for n, c in kinds[:4]), ""))
    row.limit(4, 180, total, "own system calls, a new cell")
    return row


def filter_itself(world):
    """Compiling and loading the filter, and its length: bench/filter_cost.rs."""
    row = Row("the seccomp filter itself")
    default = {}
    if world.has("filter-cost"):
        out = subprocess.run([world.tool("filter-cost")], capture_output=True, text=True, check=True).stdout
        for profile in map(json.loads, out.splitlines()):
            shown = f"{profile['instructions']} insns, {profile['compile_us']:.0f} us compile, {profile['load_us']:.0f} us load"
            row.figures.append((profile["profile"], shown, ""))
            default = default or profile
    row.limit(4, 100, default.get("compile_us"), "compile, us (default profile)")
    row.limit(4, 100, default.get("load_us"), "load, us")
    row.limit(4, 400, default.get("instructions"), "instructions")
    return row


def filter_cost(world, watch, accounts, options):
    """What the seccomp filter costs a payload: the same cell with its profile and with the floor alone."""
    row = Row("seccomp's cost to a payload: ls -lR /usr, ten times")

    def cell(profile):
        return ours(world, accounts, f"seccomp = {profile}", world.tool("jail-run"), "-j", accounts.tree, "--seccomp", profile,
                    "--", "/bin/bash", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do ls -lR /usr >/dev/null; done", uid=accounts.plain)

    row.contestants = watch.rounds([cell("default"), cell("off")], max(5, options.rounds // 2))
    row.at_most(4, 1.03, "seccomp = default", "seccomp = off", "default: 1.03 x of the floor alone")
    return row
