# shellcheck shell=bash
# Debian trees made by debootstrap below target/distros/, and running something in one as if it were the machine.
# Sourced by the slow tests (distros, fresh, systemd, cgroup2).

# Where trees lie. They are kept: a second run starts at once.
distros=$(realpath -m "${CARGO_TARGET_DIR:-target}")/distros

# Ends the test if it lacks root or a program: need WHO PROGRAM…
need() {
    local who=$1 program
    shift
    [ "$(id -u)" = 0 ] || { echo "$who: needs root, for debootstrap and mounts" >&2; exit 1; }
    for program; do
        command -v "$program" >/dev/null || { echo "$who: install $program first" >&2; exit 1; }
    done
}

# A tree with these packages, made once: make_root SUITE NAME LOG PACKAGE…
make_root() {
    local suite=$1 root=$distros/$2 log=$3
    shift 3
    [ "$(cat "$root/.made" 2>/dev/null)" != "$suite $*" ] || return 0
    echo "making a tree of $suite in '$root' (some minutes, once) …" >&2
    mkdir -p "$distros"
    if [ ! -e "$root/.base" ]; then
        rm -rf "$root" && mkdir "$root"
        debootstrap --variant=minbase "$suite" "$root" >"$log" 2>&1 ||
            { tail -n 3 "$log" >&2; echo "debootstrap failed, see $log" >&2; exit 1; }
        # No daemon may start while packages are configured.
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
        chmod 755 "$root/usr/sbin/policy-rc.d"
        touch "$root/.base"
    fi
    [ $# = 0 ] || in_root "$root" -- env DEBIAN_FRONTEND=noninteractive \
        sh -c 'apt-get update -q && apt-get install -y -q --no-install-recommends "$@" && apt-get clean' sh "$@" >>"$log" 2>&1 ||
        { tail -n 5 "$log" >&2; echo "installing packages in '$root' failed, see $log" >&2; exit 1; }
    echo "$suite $*" >"$root/.made"
}

# Runs a command with the tree as its root, in mount and process namespaces of its own that end with it. The host's
# directories in between are there at the same path (=ro: read-only, =cover: an overlay whose changes end with it):
#     in_root ROOT [DIR | DIR=ro | DIR=cover]… -- COMMAND…
# By pivot_root, not chroot: the kernel lets nobody in a chroot make a user namespace.
in_root() {
    local root=$1
    shift
    # shellcheck disable=SC2016  # expanded by the inner shell
    ROOT=$root setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child=KILL bash -c '
        set -eu
        mount --bind "$ROOT" "$ROOT"
        mount -t tmpfs -o mode=755 tmpfs "$ROOT/run"
        while [ "$1" != -- ]; do
            dir=${1%=*}; how=${1##*=}; mkdir -p "$ROOT$dir"
            case $how in
                cover)
                    above=$ROOT/run/above$dir; mkdir -p "$above/upper" "$above/work"
                    mount -t overlay -o "lowerdir=$dir,upperdir=$above/upper,workdir=$above/work" overlay "$ROOT$dir";;
                ro) mount --bind "$dir" "$ROOT$dir"; mount -o remount,bind,ro "$ROOT$dir";;
                *) mount --bind "$dir" "$ROOT$dir";;
            esac
            shift
        done
        shift
        mount --rbind /dev "$ROOT/dev"; mount --rbind /sys "$ROOT/sys"; mount -t proc proc "$ROOT/proc"
        # A machine of its own name resolution, as far as the host has one.
        if [ -e /etc/resolv.conf ]; then rm -f "$ROOT/etc/resolv.conf"; cp -L /etc/resolv.conf "$ROOT/etc/resolv.conf"; fi
        cd "$ROOT"
        pivot_root . .
        umount -l .
        cd /
        exec env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
    ' in_root "$@"
}
