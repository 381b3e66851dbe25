#!/usr/bin/python3
# Brings one host to what is asked of it: sections, policy, jails, accounts. One module and not one task for each, because
# each task costs a host a third of a second, and an unchanged host shall be left alone in under two.
#
# It makes no decision of its own: what would change is what the tools' own --dry-run --json say, in check mode too.
"""Ansible module: the jails of a host."""

DOCUMENTATION = r"""
module: jailwright
short_description: Sections, policy, jails and jailed accounts of a host
description:
  - Brings a host to the given state through Jailwright's own tools. Check mode and diff are theirs.
  - A section or policy that this host cannot meet is found before anything is written, and the host stays as it was.
options:
  profiles:
    description: The administrator's own sections, name to TOML text; they go to CONFIG_DIR/profiles.
    type: dict
    default: {}
  policy:
    description: The text of the policy file; left out, the file is not touched.
    type: str
  jails:
    description: Jails, each with path, sections, and force (overwrite what was changed in the jail).
    type: list
    elements: dict
    default: []
  users:
    description: Accounts, each with name, jail, move (the home goes along) and state (jailed or released).
    type: list
    elements: dict
    default: []
  bin_dir:
    description: Where the tools are.
    type: path
    default: /usr/local/sbin
  config_dir:
    description: Where the administrator's files are.
    type: path
    default: /etc/jailwright
  lock_timeout:
    description: How many seconds to wait for another rollout on this host.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: jails
  jailwright:
    profiles: {report: "commands = [\"awk\"]\n"}
    jails: [{path: /home/jail, sections: [basicshell, scp, report]}]
    users: [{name: dave, jail: /home/jail, move: true}]
"""

RETURN = r"""
steps:
  description: What was done, or in check mode would be done.
  type: list
"""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule


class Failed(Exception):
    """A tool refused; its own words say why."""


class Host:
    """One host, and what was found to do on it."""

    def __init__(self, module):
        self.module = module
        self.options = module.params
        self.check = module.check_mode
        self.steps = []
        self.diffs = []

    def tool(self, name, *arguments):
        """Runs a tool; gives back its status, JSON answer (None if it gave none) and words."""
        path = os.path.join(self.options["bin_dir"], name)
        try:
            run = subprocess.run([path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Failed(f"cannot run {path}: {error.strerror}; is Jailwright installed on this host?") from error
        try:
            answer = json.loads(run.stdout)
        except ValueError:
            answer = None
        return run.returncode, answer, run.stderr.strip()

    def must(self, name, *arguments):
        status, answer, words = self.tool(name, *arguments)
        if status != 0 or answer is None:
            raise Failed(words or f"{name} ended with status {status}")
        return answer

    # What is asked, held against what is there.

    def files(self):
        """The files that differ: path to new text."""
        config = self.options["config_dir"]
        wanted = {os.path.join(config, "profiles", name + ".toml"): text for name, text in self.options["profiles"].items()}
        if self.options["policy"] is not None:
            wanted[os.path.join(config, "jail-sh.toml")] = self.options["policy"]
        return {path: text for path, text in wanted.items() if read(path) != text}

    def look(self, profiles):
        """Asks each jail what it would become under the sections in this directory; raises if it cannot be done here."""
        changed = []
        for jail in self.options["jails"]:
            answer = self.must("jail-init", "--dry-run", "--json", "-c", profiles, *jail_arguments(jail))
            if answer["steps"]:
                changed.append(jail)
                self.steps += [f"{jail['path']}: {step['action']} {step['path']} ({step['cause']})" for step in answer["steps"]]
                self.diffs.append({
                    "header": jail["path"], "before": "",
                    "after": "".join(f"{step['action']} {step['path']} ({step['cause']})\n" for step in answer["steps"]),
                })
        return changed

    def users(self, dry_run):
        """Puts accounts where they belong, or says what that would be; gives back the steps."""
        steps = []
        for user in self.options["users"]:
            arguments = ["--json"] + (["--dry-run"] if dry_run else [])
            if user.get("state", "jailed") == "released":
                arguments += ["--release"]
            else:
                arguments += ["-j", user["jail"]] + (["-m"] if user.get("move") else [])
            status, answer, words = self.tool("jail-user", *arguments, user["name"])
            outcomes = (answer or {}).get("users", [])
            for outcome in outcomes:
                if outcome.get("changed"):
                    steps += [f"{outcome['user']}: {action}" for action in outcome["actions"]]
            if status != 0 and not (dry_run and self.jail_to_come(user)):
                raise Failed(words or "; ".join(o.get("error") or "" for o in outcomes) or f"jail-user: status {status}")
            if status != 0:
                steps.append(f"{user['name']}: goes into {user['jail']}, once that is made")
        return steps

    def jail_to_come(self, user):
        return not os.path.isdir(user.get("jail", "/nonexistent")) and any(
            jail["path"] == user.get("jail") for jail in self.options["jails"])

    # The whole of it.

    def run(self):
        files = self.files()
        with self.candidates(files) as candidates:
            changed = self.look(candidates)
        self.describe(files)
        if self.check:
            self.steps += self.users(dry_run=True)
            return
        before = {path: read(path) for path in files}
        try:
            for path, text in files.items():
                write(path, text)
            self.policy_is_read(files)
            for jail in changed:
                self.must("jail-init", "--json", *self.own_sections(), *jail_arguments(jail))
        except Failed:
            # A rollout that fails here must not leave a section behind that the next jail-update would stumble over.
            for path, text in before.items():
                write(path, text)
            raise
        self.steps += self.users(dry_run=False)

    def own_sections(self):
        return ["-c", os.path.join(self.options["config_dir"], "profiles")] if self.options["profiles"] else []

    def describe(self, files):
        for path, text in sorted(files.items()):
            self.steps.append(f"write {path}")
            self.diffs.append({"before_header": path, "after_header": path, "before": read(path) or "", "after": text})

    def candidates(self, files):
        """A directory with the sections as they would be."""
        there = os.path.join(self.options["config_dir"], "profiles")
        new = tempfile.TemporaryDirectory(prefix="jailwright-")
        if os.path.isdir(there):
            shutil.copytree(there, new.name, dirs_exist_ok=True)
        for path, text in files.items():
            if os.path.dirname(path) == there:
                write(os.path.join(new.name, os.path.basename(path)), text)
        return new

    def policy_is_read(self, files):
        """The policy is read by the code that reads it at a login; jail-export is the tool that does so and enters nothing."""
        if os.path.join(self.options["config_dir"], "jail-sh.toml") not in files:
            return
        for jail in self.options["jails"]:
            if os.path.isdir(jail["path"]):
                status, _, words = self.tool("jail-export", "--dry-run", "--json", "--kubernetes", "none", "-j", jail["path"])
                if status == 3:
                    raise Failed(words)


def jail_arguments(jail):
    return ["-j", jail["path"], *(["-f"] if jail.get("force") else []), *jail.get("sections", [])]


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path, text):
    """Replaces a file whole; None removes it."""
    if text is None:
        if os.path.exists(path):
            os.remove(path)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=os.path.dirname(path), delete=False) as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(file.name, path)


def lock(directory, seconds):
    """One rollout at a time on a host; a killed one lets go of it."""
    os.makedirs(directory, mode=0o755, exist_ok=True)
    file = open(os.path.join(directory, ".rollout.lock"), "w", encoding="utf-8")
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > end:
                raise Failed(f"another rollout has been at work on this host for {seconds} seconds") from None
            time.sleep(0.1)


def main():
    module = AnsibleModule(
        argument_spec={
            "profiles": {"type": "dict", "default": {}},
            "policy": {"type": "str"},
            "jails": {"type": "list", "elements": "dict", "default": [], "options": {
                "path": {"type": "path", "required": True},
                "sections": {"type": "list", "elements": "str", "default": []},
                "force": {"type": "bool", "default": False},
            }},
            "users": {"type": "list", "elements": "dict", "default": [], "options": {
                "name": {"type": "str", "required": True},
                "jail": {"type": "path"},
                "move": {"type": "bool", "default": False},
                "state": {"type": "str", "choices": ["jailed", "released"], "default": "jailed"},
            }},
            "bin_dir": {"type": "path", "default": "/usr/local/sbin"},
            "config_dir": {"type": "path", "default": "/etc/jailwright"},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    host = Host(module)
    began = time.monotonic()
    try:
        held = None if module.check_mode else lock(module.params["config_dir"], module.params["lock_timeout"])
        host.run()
        del held
    except Failed as error:
        module.fail_json(msg=str(error), steps=host.steps)
    module.exit_json(changed=bool(host.steps), steps=host.steps, diff=host.diffs,
                     seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
