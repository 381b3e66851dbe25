"""A jail as a virtual machine against the bare machine, by bench/vm (issue 7). Needs QEMU and a kernel: JAIL_VM_KERNEL, or the host's."""

import glob
import os
import pathlib
import re
import shutil
import subprocess

from lib.report import Row

HERE = pathlib.Path(__file__).resolve().parent.parent


def kernel():
    named = os.environ.get("JAIL_VM_KERNEL")
    found = sorted(glob.glob("/boot/vmlinuz-*")) + sorted(glob.glob(str(HERE.parent / "target/vm/kernel/boot/vmlinuz-*")))
    return named or (found[-1] if found else None)


def rows(world, watch, options):
    image = kernel()
    row = Row("jail-run --vm -- true against a bare microvm of the same kernel, emulated both")
    if not image or not shutil.which("qemu-system-x86_64"):
        row.notes.append("not measured: needs qemu-system-x86_64 and a kernel (JAIL_VM_KERNEL; make test-vm brings one)")
        row.limit(7, 1.5, None, "1.5 x the bare boot")
        yield row
        return
    rounds = "3" if options.quick else "9"
    out = subprocess.run([HERE / "vm", image, rounds], check=True, text=True, stdout=subprocess.PIPE).stdout
    number = lambda pattern: float(re.search(pattern, out).group(1))
    bare, ours = number(r"first program +(\d+) ms"), number(r"-- true +(\d+) ms")
    memory = re.search(r"bare (\d+)  ours (\d+)", out)
    more = (int(memory.group(2)) - int(memory.group(1))) / 1024
    row.figures += [("bare microvm", bare, "ms"), ("jail-run --vm", ours, "ms"), ("QEMU's memory beyond the bare one's", more, "MiB")]
    row.limit(7, 1.5, ours / bare, "1.5 x the bare boot")
    row.limit(7, 64, more, "64 MiB beyond the bare one")
    row.notes.append(f"medians of {rounds} rounds, alternating")
    yield row
