"""Many sessions open at once: what stays resident for each (issues 2 and 4)."""

import os
import pathlib
import re
import subprocess
import time

from lib.accounts import Accounts
from lib.report import Row
from rows.entry import as_user

FIELDS = ("AnonPages", "Slab", "KernelStack", "PageTables", "Percpu")


def rows(world, watch, options):
    accounts = world.accounts = getattr(world, "accounts", None) or Accounts(world)
    for count in ([20] if options.quick else [100, 1000]):
        yield sessions(world, accounts, count)


def machine_kib():
    text = pathlib.Path("/proc/meminfo").read_text()
    return sum(int(re.search(rf"^{f}: +(\d+)", text, re.M).group(1)) for f in FIELDS)


def supervisors(programs):
    """Pids whose executable is one of these files, by inode: inside a cell the path of it means nothing."""
    wanted = {(os.stat(p).st_dev, os.stat(p).st_ino) for p in programs}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            st = os.stat(f"/proc/{pid}/exe")
        except OSError:
            continue
        if (st.st_dev, st.st_ino) in wanted:
            yield int(pid)


def pss_kib(pids):
    total = 0
    for pid in pids:
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss: +(\d+)", text, re.M).group(1))
    return total


def hold(commands, programs, expected):
    """Starts the sessions eight at a time, measures while all sleep, and ends them."""
    before, running, ready = machine_kib(), [], 0
    started = time.monotonic()
    for batch in range(0, len(commands), 8):
        group = [subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                 for c in commands[batch:batch + 8]]
        running += group
        ready += sum(p.stdout.readline() == b"ready\n" for p in group)
    took = time.monotonic() - started
    time.sleep(0.5)
    pids = list(supervisors(programs))
    figures = {"ready": ready, "supervisors": len(pids), "pss": pss_kib(pids), "machine": machine_kib() - before,
               "start_ms": took * 1000 / len(commands)}
    for process in running:
        process.terminate()
    for process in running:
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 30
    while any(supervisors(programs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    figures["left"] = sum(1 for _ in supervisors(programs))
    return figures


def sessions(world, accounts, count):
    row = Row(f"{count:,} sessions asleep")
    script = "echo ready; exec sleep 3600"
    ours = net = None
    if not accounts.our_problem:
        names = [f"bench-{count}-{i}" for i in range(count)]
        for name in names:
            accounts.add(name)
        problem = accounts.jail_user(*names)
        if problem:
            row.notes.append(problem)
        shell = world.tool("jail-sh")
        for label, network in (("own network", "none"), ("host's network", "host")):
            policy(network)
            got = hold([as_user(accounts.names[n], shell, "-c", script) for n in names], [shell], count)
            if got["ready"] < count:
                row.notes.append(f"jail-sh, {label}: only {got['ready']} of {count} sessions came up")
                continue
            if network == "none":
                ours = got
            else:
                net = got
            add(row, f"jail-sh, {label}", got, count)
        one = hold([as_user(accounts.ours, shell, "-c", script)] * count, [shell], count)
        add(row, "jail-sh, all of one user (one cell)", one, count)
    bwrap = ["/usr/bin/bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", accounts.tree, "/", "--proc", "/proc", "--dev",
             "/dev", "--tmpfs", "/tmp", "/bin/bash", "-c", script]
    add(row, "bwrap --unshare-all", hold([as_user(accounts.plain, *bwrap)] * count, ["/usr/bin/bwrap"], count), count)
    row.limit(2 if count <= 100 else 4, 250 if count <= 100 else 110, ours and ours["pss"] / count, "supervisors, KiB PSS a session")
    row.limit(2, 2, ours and ours["supervisors"] / count, "supervising processes a session")
    if count >= 1000:
        row.limit(4, 600, ours and ours["machine"] / count, "machine, KiB a session, own network")
        row.limit(4, 380, net and net["machine"] / count, "machine, KiB a session, host's network")
    if ours:
        row.limit(2, 0, ours["left"], "supervisors left after the sessions")
    return row


def add(row, label, got, count):
    row.figures.append((label, f"{got['supervisors'] / count:.2f} procs, {got['pss'] / count:.0f} KiB PSS", ""))
    row.figures.append(("", f"{got['machine'] / count:.0f} KiB of the machine, {got['start_ms']:.1f} ms to start", ""))


def policy(network):
    path = pathlib.Path("/etc/jailwright/jail-sh.toml")
    path.write_text(f'[default]\nnetwork = "{network}"\n[user.bench-ournet]\nnetwork = "host"\n')
