"""One run, and rounds of runs: the only place where time is taken.

Contestants are interleaved (A B C A B C …): this machine's speed drifts by a third within minutes, ratios within a round
by a tenth. The first round warms caches and is thrown away. A figure is the median; its spread is p10 to p90.
"""

import os
import statistics
import subprocess
from dataclasses import dataclass, field


@dataclass
class Run:
    """What one run took: wall and CPU time (children that were waited for included) in ms, peak RSS in KiB."""

    wall: float
    cpu: float
    rss: int
    status: int


@dataclass
class Contestant:
    """A way to do the row's work. `command(round)` gives argv; `before(round)` is not timed."""

    name: str
    command: object
    before: object = None
    user: int = None
    statuses: tuple = (0,)
    runs: list = field(default_factory=list)
    failed: str = ""

    def median(self, metric="wall"):
        return statistics.median(getattr(r, metric) for r in self.runs)

    def spread(self, metric="wall"):
        return spread([getattr(r, metric) for r in self.runs])


def spread(values):
    """The 10th and the 90th percentile."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(last * 0.1)], ordered[round(last * 0.9)]


class Stopwatch:
    """Runs a command through floor/stopwatch.c."""

    def __init__(self, tools):
        self.program = str(tools / "stopwatch")

    def once(self, argv, user=None, nofile=1024, show_errors=False):
        how = [self.program, "-n", str(nofile)]
        if user is not None:
            how += ["-u", str(user), "-g", str(user)]
        env = {"STOPWATCH_STDERR": "1"} if show_errors else {}
        done = subprocess.run([*how, *map(os.fspath, argv)], capture_output=True, text=True, env=env)
        if done.returncode or not done.stdout.strip():
            raise RuntimeError(f"stopwatch: {done.stderr.strip()}")
        wall, cpu, rss, status = map(int, done.stdout.split())
        return Run(wall / 1e6, cpu / 1e6, rss, status), done.stderr.strip()

    def rounds(self, contestants, count):
        """Fills each contestant's runs; one that fails is left out with its reason, never silently."""
        for number in range(-1, count):
            for who in contestants:
                if who.failed:
                    continue
                try:
                    if who.before:
                        who.before(number)
                    command = who.command(number)
                    if not os.access(command[0], os.X_OK):
                        who.failed = "not built or not installed"
                        continue
                    run, _ = self.once(command, who.user)
                except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                    who.failed = str(error)
                    continue
                if run.status not in who.statuses:
                    who.failed = self.reason(who, number, run.status)
                elif number >= 0:
                    who.runs.append(run)
        return contestants

    def reason(self, who, number, status):
        try:
            if who.before:
                who.before(number + 100_000)
            _, errors = self.once(who.command(number + 100_000), who.user, show_errors=True)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            errors = str(error)
        return f"status {status}: {(errors.splitlines() or ['no message'])[0]}"


def ratio(ours, peer, metric="wall"):
    """Median and spread of the ratios within each round."""
    pairs = [(getattr(a, metric), getattr(b, metric)) for a, b in zip(ours.runs, peer.runs)]
    values = [a / b for a, b in pairs if b > 0]
    if not values:
        return None
    return statistics.median(values), spread(values)
