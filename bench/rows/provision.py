"""Provisioning: jail-init, jail-update and jail-check against jailkit, cp, ldd and the floors (issues 2 and 3)."""

import os
import pathlib
import shutil
import stat
import subprocess

from lib import calls
from lib.measure import Contestant
from lib.report import Row
from lib.world import STATE, mount

SMALL = ["basicshell"]
BIG = ["uidbasics", "netbasics", "logbasics", "basicshell", "extendedshell", "terminfo", "editors", "midnightcommander",
       "netutils", "scp", "sftp", "ssh", "rsync", "git", "perl", "interactiveshell", "extshellplusnet"]


def rows(world, watch, options):
    yield from fresh_and_again(world, watch, options, "basicshell", SMALL, options.rounds)
    if not options.quick:
        yield from fresh_and_again(world, watch, options, f"big set ({len(BIG)} sections)", BIG, max(3, options.rounds // 4))
    yield many_jails(world, watch, options)
    yield resolve(world, watch, options)
    yield update_many(world, watch, options)
    yield check(world, watch, options)


def jail_init(world, jail, sections, *more):
    return [world.tool("jail-init"), "-j", jail, *more, *sections]


def jk_init(jail, sections, *more):
    return ["/usr/sbin/jk_init", *more, "-j", jail, *sections]


def file_list(jail, to):
    """Writes the list that makes `jail` again: what floor/copy_list.c reads. A file's source is the host's own where the
    host has it at that path, else the jail's (passwd, group and what else was generated)."""
    records, files, size = [], 0, 0
    for path, dirs, names in os.walk(jail):
        below = pathlib.Path(path).relative_to(jail)
        for name in sorted(dirs + names):
            entry, inner = pathlib.Path(path) / name, below / name
            st = entry.lstat()
            if stat.S_ISLNK(st.st_mode):
                records.append((b"l", inner, os.fsencode(os.readlink(entry))))
            elif stat.S_ISDIR(st.st_mode):
                records.append((b"d", inner, b""))
            elif stat.S_ISREG(st.st_mode):
                host = pathlib.Path("/") / inner
                same = host.is_file() and not host.is_symlink() and host.stat().st_size == st.st_size
                records.append((b"f", inner, os.fsencode(host if same else entry)))
                files, size = files + 1, size + st.st_size
    with open(to, "wb") as out:
        for kind, inner, other in records:
            out.write(kind + os.fsencode(inner) + b"\0" + other + b"\0")
    return files, size


def fresh_and_again(world, watch, options, name, sections, rounds):
    model = world.fresh("model")
    made = subprocess.run(jail_init(world, model, sections), capture_output=True, text=True) if world.has("jail-init") else None
    if made is None or made.returncode:
        reason = (made.stderr.strip().splitlines() or ["failed"])[0] if made else "is not built"
        model = world.fresh("model-jk")
        subprocess.run(jk_init(model, sections), capture_output=True, check=True)
        note = f"the list is jk_init's: jail-init {reason}"
    else:
        note = "the list is jail-init's own"
    listing = world.tools / "list"
    files, size = file_list(model, listing)

    new = {}

    def into(key, make=True):
        def before(_):
            new[key] = world.fresh(key)
            if make:
                new[key].mkdir()
            # What the one before left to be written must not be paid for by the next one's syncfs.
            os.sync()
        return before

    floor = [world.tools / "copy_list"]
    fresh = Row(f"fresh {name}", notes=[f"{files} files, {size / 1e6:.1f} MB, on {world.filesystem}; {note}",
                                           "jail-init ends with one syncfs; of the others only the floor with one does"])
    fresh.contestants = watch.rounds([
        Contestant("jail-init", lambda _: jail_init(world, new["a"], sections), into("a", False)),
        Contestant("floor: copy_file_range", lambda _: [*floor, "copy", listing, new["b"]], into("b")),
        Contestant("floor: copy_file_range, one syncfs", lambda _: [*floor, "durable", listing, new["g"]], into("g")),
        Contestant("jk_init", lambda _: jk_init(new["c"], sections), into("c", False)),
        Contestant("jk_init -k", lambda _: jk_init(new["d"], sections, "-k"), into("d", False)),
        Contestant("cp -a of a finished jail", lambda _: ["/bin/cp", "-a", model, new["e"]], into("e", False)),
        Contestant("cp -al of a finished jail", lambda _: ["/bin/cp", "-al", model, new["h"]], into("h", False)),
        Contestant("floor: hard links", lambda _: [*floor, "link", listing, new["f"]], into("f")),
    ], rounds)
    if sections is SMALL:
        fresh.at_most(2, 1 / 15, "jail-init", "jk_init")
        fresh.at_most(2, 2.5, "jail-init", "floor: copy_file_range")
        fresh.at_most(2, 2.5, "jail-init", "floor: copy_file_range, one syncfs")
        fresh.at_most(3, 2, "jail-init", "floor: copy_file_range")
        fresh.at_most(3, 2, "jail-init", "floor: copy_file_range, one syncfs")
    else:
        fresh.at_most(3, 1.5, "jail-init", "floor: copy_file_range")
        fresh.at_most(3, 1.5, "jail-init", "floor: copy_file_range, one syncfs")
    fresh.at_most(3, 1 / 20, "jail-init", "jk_init")
    if fresh.find("jail-init"):
        processes, execs, syscalls = calls.count(jail_init(world, world.fresh("traced"), sections))
        fresh.figures += [("processes / programs started", f"{processes} / {execs}", ""), ("system calls", syscalls, "")]
        fresh.limit(2, 2, execs, "programs started (itself, ldconfig)")
        if sections is SMALL:
            fresh.limit(3, 1500, syscalls, "system calls")
    yield fresh

    again = Row(f"nothing to do, {name}", notes=["the jail of the last round above"])
    again.contestants = watch.rounds([
        Contestant("jail-init", lambda _: jail_init(world, new["a"], sections)),
        Contestant("jk_init", lambda _: jk_init(new["c"], sections)),
        Contestant("jk_update", lambda _: ["/usr/sbin/jk_update", "-j", new["c"]]),
    ], rounds) if fresh.find("jail-init") else watch.rounds([
        Contestant("jk_init", lambda _: jk_init(new["c"], sections))], rounds)
    again.at_most(2, 1 / 8, "jail-init", "jk_init")
    mine = again.find("jail-init")
    again.limit(3, 3 if sections is SMALL else 60, mine.median() if mine else None, "jail-init, ms (jk_init: 32 / 1,280)")
    yield again


def disk_use(path):
    """KiB and inodes below a path, its own included."""
    kib = inodes = 0
    for top, dirs, names in os.walk(path):
        for entry in [top, *(os.path.join(top, n) for n in names), *(os.path.join(top, d) for d in dirs if os.path.islink(os.path.join(top, d)))]:
            st = os.lstat(entry)
            if st.st_nlink == 1 or stat.S_ISDIR(st.st_mode):
                kib, inodes = kib + st.st_blocks / 2, inodes + 1
    return kib, inodes


def many_jails(world, watch, options):
    row = Row("a jail that costs no copy: --base, or hard links")
    sections = ["basicshell", "scp", "sftp", "rsync"]
    base = world.fresh("base")
    new = {}

    def into(key):
        def before(_):
            new[key] = world.fresh(key)
            # As above: jail-init's syncfs must not pay for what the one before left to be written.
            os.sync()
        return before

    contestants = []
    if world.has("jail-init"):
        subprocess.run(jail_init(world, base, sections, "--as-base"), capture_output=True)
        contestants += [
            Contestant("jail-init --base", lambda _: [world.tool("jail-init"), "-j", new["a"], "--base", base], into("a")),
            Contestant("jail-init -k", lambda _: jail_init(world, new["k"], sections, "-k"), into("k")),
        ]
    contestants.append(Contestant("jk_init -k", lambda _: jk_init(new["c"], sections, "-k"), into("c")))
    row.contestants = watch.rounds(contestants, max(3, options.rounds // 2))
    row.at_most(3, 1 / 50, "jail-init --base", "jk_init -k")
    row.at_most(3, 1 / 50, "jail-init -k", "jk_init -k")
    kib = inodes = None
    if row.find("jail-init --base"):
        kib, inodes = disk_use(new["a"])
    row.limit(3, 200, kib, "KiB on disk, a jail of --base")
    row.limit(3, 40, inodes, "inodes, a jail of --base")
    return row


def elf_programs(limit):
    """The first `limit` dynamic ELF programs of /usr/bin, by name: stable from run to run."""
    found = []
    for entry in sorted(pathlib.Path("/usr/bin").iterdir()):
        if entry.is_symlink() or not entry.is_file():
            continue
        with open(entry, "rb") as f:
            if f.read(4) == b"\x7fELF":
                found.append(entry)
        if len(found) == limit:
            break
    return found


def resolve(world, watch, options):
    # 500 in a quick run too: with 50, half of the time is the start of the one process, which the row is not about.
    programs = elf_programs(500)
    row = Row(f"resolve {len(programs)} programs", metric="cpu",
              notes=["jail-init --dry-run also looks at each file it would copy"])
    listing = world.tools / "programs"
    listing.write_text("".join(f"{p}\n" for p in programs))
    section = world.tools / "many.toml"
    section.write_text('description = "programs to resolve"\npaths = [' + ", ".join(f'"{p}"' for p in programs) + "]\n")
    profiles = pathlib.Path("/etc/jailwright/profiles")
    profiles.mkdir(parents=True, exist_ok=True)
    shutil.copy(section, profiles / "benchmany.toml")
    script = world.tools / "ldd-each"
    script.write_text(f"#!/bin/sh\nwhile read -r p; do ldd \"$p\"; done < {listing}\n")
    script.chmod(0o755)
    jail = world.fresh("resolve")
    contestants = []
    if world.has("jail-init"):
        contestants.append(Contestant("jail-init --dry-run", lambda _: jail_init(world, jail, ["benchmany"], "--dry-run")))
    contestants += [
        Contestant("floor: elf_closure", lambda _: [world.tools / "elf_closure", listing]),
        Contestant("ldd a file", lambda _: [script], statuses=(0, 1)),
    ]
    lddtree = shutil.which("lddtree")
    if options.quick:
        row.notes.append("lddtree (seconds a call) is left out of a quick run")
    elif lddtree:
        contestants.append(Contestant("lddtree -l, one call", lambda _: [lddtree, "-l", *programs]))
    else:
        row.notes.append("lddtree is not installed (Debian package pax-utils): left out")
    row.contestants = watch.rounds(contestants, max(3, options.rounds // (6 if options.quick else 3)))
    row.at_most(3, 1 / 150, "jail-init --dry-run", "ldd a file")
    row.at_most(3, 2, "jail-init --dry-run", "floor: elf_closure")
    if row.find("jail-init --dry-run"):
        processes, _, _ = calls.count(jail_init(world, jail, ["benchmany"], "--dry-run"))
        row.limit(3, 1, processes, "processes")
    return row


def update_many(world, watch, options):
    # A jail on a base is made in milliseconds, so the whole number is no matter even of a quick run.
    count = 100
    row = Row(f"jail-update with nothing to do: {count} jails")
    if not world.has("jail-update"):
        row.notes.append("jail-update is not built")
        return row
    # A state of the row's own, so that --all means just these.
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", STATE)
    try:
        base, jails = world.fresh("base"), [world.fresh("many") for _ in range(count)]
        subprocess.run(jail_init(world, base, SMALL, "--as-base"), capture_output=True)
        for jail in jails:
            subprocess.run([world.tool("jail-init"), "-j", jail, "--base", base], capture_output=True)
        row.contestants = watch.rounds([
            Contestant(f"jail-update --all, {count} jails", lambda _: [world.tool("jail-update"), "--all"]),
            Contestant("jail-update, one jail", lambda _: [world.tool("jail-update"), "-j", jails[0]]),
        ], max(3, options.rounds // 2))
    finally:
        subprocess.run(["umount", STATE])
    row.at_most(3, 3, f"jail-update --all, {count} jails", "jail-update, one jail", f"{count} jails on one base: 3 x of one")
    return row


def check(world, watch, options):
    row = Row("jail-check, whole content")
    sections = SMALL if options.quick else ["basicshell", "git", "editors"]
    jail = world.fresh("checked")
    if world.has("jail-check"):
        subprocess.run(jail_init(world, jail, sections), capture_output=True)
    if not jail.exists():
        row.notes.append("jail-check or the jail for it is not there")
        row.limit(3, 1.2, None, "jail-check: 1.2 x of reading the files")
        return row
    listing = world.tools / "checked"
    files, size = file_list(jail, listing)
    row.notes.append(f"{files} files, {size / 1e6:.1f} MB")
    script = world.tools / "sha256-all"
    script.write_text(f"#!/bin/sh\ncd {jail} && find . -type f -print0 | xargs -0 sha256sum\n")
    script.chmod(0o755)
    row.contestants = watch.rounds([
        Contestant("jail-check", lambda _: [world.tool("jail-check"), "-j", jail], statuses=(0, 1)),
        Contestant("floor: read the files", lambda _: [world.tools / "copy_list", "read", listing, jail]),
        Contestant("sha256sum of the files", lambda _: [script]),
        Contestant("jk_check (one block a file)", lambda _: ["/usr/sbin/jk_check"], statuses=(0, 1)),
    ], max(3, options.rounds // 2))
    row.at_most(3, 1.2, "jail-check", "floor: read the files")
    return row
