"""Builds the C programs of bench/floor: the bare work that a row cannot go below."""

import pathlib
import shutil
import subprocess

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "floor"


def build(dest):
    """Compiles every floor into `dest`, static, with musl where it is installed; returns a word for the libc."""
    musl = shutil.which("musl-gcc")
    compiler = [musl or shutil.which("gcc") or "gcc", "-O2", "-static", "-Wall", "-Wextra"]
    if musl:
        # musl-gcc hides the kernel's own headers; the filter macros live there.
        triplet = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True).stdout.strip()
        compiler += ["-idirafter", "/usr/include", "-idirafter", f"/usr/include/{triplet}"]
    dest.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCES.glob("*.c")):
        subprocess.run([*compiler, "-o", dest / source.stem, source], check=True)
    return "musl" if musl else "glibc"
