"""A million tiny files (issue 8): an image of them becomes a jail and is exported again; time against tar, and how much memory.

Not among the rows of a plain `make bench`: it takes ten minutes and ten gigabytes of disk. With --quick a hundred thousand.
"""

import filecmp
import hashlib
import io
import json
import platform
import shutil
import tarfile

from lib.report import Row

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
#: Bytes of memory for each file that are still bounded: names, owners and digests, twice at the most.
PER_FILE = 2048


def rows(world, watch, options):
    row = Row("a million tiny files" if not options.quick else "a hundred thousand tiny files")
    if not world.has("jail-export"):
        row.notes.append("jail-export is not built")
        yield row
        return
    count = 100_000 if options.quick else 1_000_000
    place = world.fresh("million")
    place.mkdir()
    layer, image, jail, theirs = place / "layer.tar", place / "image.tar", world.fresh("jail"), place / "theirs"
    write_layer(layer, count)
    wrap(layer, image)
    theirs.mkdir()
    out, again, plain = place / "out.tar", place / "again.tar", place / "plain.tar"
    took = {}

    def step(name, *argv):
        """Answers whether it could be done, and keeps what it took."""
        run, said = watch.once(argv, show_errors=True)
        if run.status:
            row.notes.append(f"{name} failed: {said[-200:]}")
            return False
        took[name] = run
        row.figures += [(name, run.wall / 1000, "s"), (f"  memory of {name}", run.rss / 1024, "MiB")]
        return True

    def shell(name, line, *arguments):
        return step(name, "/bin/sh", "-c", line, "sh", *arguments)

    def compare():
        same = filecmp.cmp(out, again, shallow=False)
        row.notes.append("the second export has the same bytes" if same else "THE SECOND EXPORT DIFFERS")
        return same

    def drop(*paths):
        """What is not needed any more: the row is to fit on a small disk."""
        for path in paths:
            path.unlink() if path.is_file() else shutil.rmtree(path)
        return True

    export = world.tool("jail-export"), "-j", jail
    whole = (
        step("--from-oci", world.tool("jail-init"), "-j", jail, "--from-oci", image, "--max-size", "16G")
        and shell("tar -x + sync", 'tar -C "$1" -xpf "$2" && sync -f "$1"', theirs, layer)
        # Every file is there with its content, by our own record of it and by the tree that tar made.
        and step("jail-check", world.tool("jail-check"), "-j", jail)
        and shell("diff of both trees", 'diff -r "$1" "$2"', jail, theirs)
        and drop(layer, image, theirs)
        and step("--oci", *export, "--oci", out)
        and step("--oci, unchanged", *export, "--oci", again)
        and compare() and drop(again)
        and shell("tar -c + sync", 'tar -C "$1" -cf "$2" . && sync "$2"', jail, plain)
    )
    if whole:
        row.limit(8, 1.3, took["--from-oci"].wall / took["tar -x + sync"].wall, "import: 1.3 x of tar -x + sync")
        row.limit(8, 1.3, took["--oci"].wall / took["tar -c + sync"].wall, "export: 1.3 x of tar -c + sync")
        most = max(took[name].rss for name in ("--from-oci", "jail-check", "--oci", "--oci, unchanged")) / 1024
        row.limit(8, PER_FILE * count / (1 << 20), most, f"memory: {PER_FILE} bytes a file, MiB")
    yield row
    for path in (place, jail):
        shutil.rmtree(path, ignore_errors=True)


def write_layer(path, count):
    """Files of a few bytes, a hundred to a directory."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as tar:
        def directory(name):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for n in range(count):
            if n % 10_000 == 0:
                directory(f"d{n // 10_000}")
            if n % 100 == 0:
                directory(f"d{n // 10_000}/e{n // 100 % 100}")
            content = str(n).encode()
            info = tarfile.TarInfo(f"d{n // 10_000}/e{n // 100 % 100}/file-{n}")
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))


def wrap(layer, image):
    """The layer as an image in one file."""
    def sum_of(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def descriptor(kind, content):
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
                "size": len(content)}

    digest = sum_of(layer)
    config = json.dumps({"architecture": ARCH, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
                         "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "config": descriptor("config.v1+json", config),
                           "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{digest}",
                                       "size": layer.stat().st_size}]}).encode()
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest)]}).encode()
    with tarfile.open(image, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index),
                              *((f"blobs/sha256/{hashlib.sha256(c).hexdigest()}", c) for c in (manifest, config))]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.add(layer, f"blobs/sha256/{digest}")
