"""System calls and processes of one run, counted by strace."""

import collections
import pathlib
import re
import subprocess
import tempfile

CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)[( ]")


def trace(argv, user=None):
    """strace's own lines, one a call, with paths of descriptors; as root, so that set-uid programs keep their rights."""
    with tempfile.NamedTemporaryFile() as log:
        who = ["-u", user] if user else []
        subprocess.run(["strace", "-f", "-y", "-qq", *who, "-o", log.name, "--", *map(str, argv)],
                       capture_output=True, stdin=subprocess.DEVNULL)
        return pathlib.Path(log.name).read_text(errors="replace").splitlines()


def count(argv):
    """(processes, execs, calls) of a whole run."""
    processes, execs, calls = set(), 0, 0
    for line in trace(argv):
        found = CALL.match(line)
        if not found or "resumed>" in line:
            continue
        processes.add(found.group(1))
        calls += 1
        execs += found.group(2) == "execve" and line.rstrip().endswith("= 0")
    return len(processes), execs, calls


def of_an_entry(argv, user, program, payload):
    """Calls that the entry itself makes, as the issue counts them: from the start of `program` until the payload's exec,
    and in every other process until the end; bounding-set drops and cgroup files left out. Also the most frequent ones.
    """
    started, inside, kinds = set(), set(), collections.Counter()
    lines = trace(argv, user)
    if not any("pivot_root(" in line for line in lines):
        raise RuntimeError("the entry joined a running cell: no new one was counted")
    for line in lines:
        found = CALL.match(line)
        if not found or "resumed>" in line:
            continue
        pid, name = found.groups()
        if name == "execve" and f'"{program}"' in line and not started:
            started.add(pid)
        if not started or pid in inside:
            continue
        if name == "execve" and payload in line:
            inside.add(pid)
        if "PR_CAPBSET_DROP" in line or "/sys/fs/cgroup" in line:
            continue
        kinds[name] += 1
    return sum(kinds.values()), kinds.most_common(6)
