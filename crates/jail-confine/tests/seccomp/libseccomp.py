"""Compiles a profile with libseccomp, the way container runtimes do, for the compiler's differential test.

    libseccomp.py PROFILE.json MACHINE OUT.bpf

MACHINE is libseccomp's name (amd64, arm64). Capabilities: none; kernel: 6.18. Prints the names libseccomp does not know.
"""
import errno
import json
import sys

import seccomp
from seccomp import Arch, Arg, Attr, SyscallFilter

KERNEL = (6, 18)
ARCHES = {
    "SCMP_ARCH_X86_64": Arch.X86_64, "SCMP_ARCH_X86": Arch.X86, "SCMP_ARCH_X32": Arch.X32,
    "SCMP_ARCH_AARCH64": Arch.AARCH64,
}
MACHINES = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}
# Only what our compiler has a table of is compared.
FOREIGN = {"amd64": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "arm64": []}
OPERATORS = {
    "SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_LT": seccomp.LT, "SCMP_CMP_LE": seccomp.LE, "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE, "SCMP_CMP_GT": seccomp.GT, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}


def action(name, ret, text):
    value = getattr(errno, text) if text else ret if ret is not None else errno.EPERM
    return {
        "SCMP_ACT_ALLOW": seccomp.ALLOW, "SCMP_ACT_LOG": seccomp.LOG, "SCMP_ACT_TRAP": seccomp.TRAP,
        "SCMP_ACT_KILL": seccomp.KILL, "SCMP_ACT_KILL_THREAD": seccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
        "SCMP_ACT_ERRNO": seccomp.ERRNO(value), "SCMP_ACT_TRACE": seccomp.TRACE(value),
    }[name]


def kernel_reached(text):
    return tuple(int(part) for part in text.split(".")) <= KERNEL


def in_force(rule, machine):
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("caps") or (includes.get("arches") and machine not in includes["arches"]):
        return False
    if includes.get("minKernel") and not kernel_reached(includes["minKernel"]):
        return False
    if machine in (excludes.get("arches") or []):
        return False
    return not (excludes.get("minKernel") and kernel_reached(excludes["minKernel"]))


def condition(arg):
    operator = OPERATORS[arg["op"]]
    if arg["op"] == "SCMP_CMP_MASKED_EQ":
        return Arg(arg["index"], operator, arg["value"], arg.get("valueTwo", 0))
    return Arg(arg["index"], operator, arg["value"])


def alternatives(rule):
    """Each list is one libseccomp rule: conditions on different arguments are joined, repeated ones stand alone."""
    args = rule.get("args") or []
    indexes = [arg["index"] for arg in args]
    if len(indexes) != len(set(indexes)):
        return [[condition(arg)] for arg in args]
    return [[condition(arg) for arg in args]]


def main():
    path, machine, out = sys.argv[1:]
    with open(path) as f:
        profile = json.load(f)
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"), profile.get("defaultErrno"))
    rules = SyscallFilter(default)
    # The kernel's own fallback is this too, and a thread's death is of no use here.
    rules.set_attr(Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    rules.set_attr(Attr.CTL_NNP, 0)
    native = MACHINES[machine]
    if native != "SCMP_ARCH_X86_64":
        rules.add_arch(ARCHES[native])
        rules.remove_arch(Arch.X86_64)
    listed = list(profile.get("architectures") or [])
    for entry in profile.get("archMap") or []:
        if entry["architecture"] == native:
            listed += entry["subArchitectures"] or []
    for token in FOREIGN[machine]:
        if token in listed:
            rules.add_arch(ARCHES[token])
    unknown = set()
    for rule in profile.get("syscalls") or []:
        answer = action(rule["action"], rule.get("errnoRet"), rule.get("errno"))
        if answer == default or not in_force(rule, machine):
            continue
        for name in rule.get("names") or [rule["name"]]:
            for conditions in alternatives(rule):
                try:
                    rules.add_rule(answer, name, *conditions)
                except RuntimeError:
                    unknown.add(name)
    with open(out, "wb") as f:
        rules.export_bpf(f)
    print("\n".join(sorted(unknown)))


main()
