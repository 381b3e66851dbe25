"""Images: jail-export and jail-init --from-oci against tar of the same tree (issue 8).

Both sides write whole files and wait until they are on the disk: an archive that a power cut may halve is none. `tar` does not do
that by itself, so it gets a sync of its file; without it, too, for scale.
"""

import shutil
import subprocess

from lib.measure import Contestant
from lib.report import Row

SECTIONS = ["basicshell", "scp", "sftp", "rsync", "git"]


def rows(world, watch, options):
    if not world.has("jail-export"):
        row = Row("images")
        row.notes.append("jail-export is not built")
        yield row
        return
    jail = world.fresh("exported")
    sections = SECTIONS if not options.quick else SECTIONS[:1]
    subprocess.run([world.tool("jail-init"), "-j", jail, *sections], capture_output=True, check=True)
    out = world.fresh("archives")
    out.mkdir()
    yield export(world, watch, options, jail, out)
    yield bring_in(world, watch, options, jail, out)


def shell(line, *arguments):
    return ["/bin/sh", "-c", line, "sh", *arguments]


def size(path):
    return f"{path.stat().st_size / 1e6:.1f} MB"


def export(world, watch, options, jail, out):
    tool = world.tool("jail-export")
    image, plain = out / "image.tar", out / "plain.tar"

    def without(*paths):
        def before(_):
            for path in paths:
                path.unlink(missing_ok=True)
        return before

    row = Row("export a jail")
    row.contestants = watch.rounds([
        Contestant("--oci, digested", lambda _: [tool, "-j", jail, "--oci", image, "--afresh"], without(image)),
        Contestant("--oci, unchanged jail", lambda _: [tool, "-j", jail, "--oci", image], without(image)),
        Contestant("--tar", lambda _: [tool, "-j", jail, "--tar", plain], without(plain)),
        Contestant("tar + sync", lambda _: shell('tar -C "$1" -cf "$2" . && sync "$2"', jail, out / "theirs.tar"),
                   without(out / "theirs.tar")),
        Contestant("tar alone", lambda _: shell('tar -C "$1" -cf "$2" .', jail, out / "theirs.tar"), without(out / "theirs.tar")),
    ], options.rounds)
    row.notes.append(f"{size(out / 'theirs.tar')}")
    row.at_most(8, 1.3, "--oci, digested", "tar + sync")
    row.at_most(8, 1.3, "--oci, unchanged jail", "tar + sync")
    return row


def bring_in(world, watch, options, jail, out):
    image, plain = out / "image.tar", out / "theirs.tar"
    new, old = {}, []

    # What was unpacked is removed at the end only: for a minute ext4 takes no inode of a removed file again, and whoever comes
    # next would be charged with its looking for others.
    def into(key, make):
        def before(_):
            new[key] = world.fresh(key)
            old.append(new[key])
            if make:
                new[key].mkdir()
        return before

    row = Row("an image becomes a jail", notes=["digests verified, every entry checked, a manifest written"])
    row.contestants = watch.rounds([
        Contestant("--from-oci", lambda _: [world.tool("jail-init"), "-j", new["i"], "--from-oci", image], into("i", False)),
        Contestant("tar + sync", lambda _: shell('tar -C "$1" -xpf "$2" && sync -f "$1"', new["t"], plain), into("t", True)),
        Contestant("tar alone", lambda _: shell('tar -C "$1" -xpf "$2"', new["u"], plain), into("u", True)),
    ], options.rounds)
    row.at_most(8, 1.3, "--from-oci", "tar + sync")
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return row
