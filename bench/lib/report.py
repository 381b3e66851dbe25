"""What a row is, what its issue asks of it, and how both are printed in 80 columns and kept as JSON."""

from dataclasses import dataclass, field
from fractions import Fraction

from . import measure


@dataclass
class Target:
    """What an issue asks: `value` at most `limit`. `value` is None where it could not be measured."""

    issue: int
    text: str
    limit: float
    value: float = None
    low: float = None
    high: float = None

    @property
    def verdict(self):
        if self.value is None:
            return "not measured"
        return "pass" if self.value <= self.limit else "MISS"


@dataclass
class Row:
    """One piece of work, its contestants in order (ours first), its targets, and notes a reader needs."""

    title: str
    contestants: list = field(default_factory=list)
    targets: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    figures: list = field(default_factory=list)   # (name, value, unit): rows that are not times
    metric: str = "wall"

    def find(self, name):
        return next((c for c in self.contestants if c.name == name and c.runs), None)

    def at_most(self, issue, limit, ours, peer, text=None, metric=None):
        """Asks that `ours` take at most `limit` times what `peer` takes in the same round."""
        shown = f"1/{round(1 / limit)}" if limit < 0.5 and abs(1 / limit - round(1 / limit)) < 0.01 else f"{limit:g} x"
        first = self.contestants and self.contestants[0].name == ours
        target = Target(issue, text or (f"{shown} of {peer}" if first else f"{ours}: {shown} of {peer}"), limit)
        a, b = self.find(ours), self.find(peer)
        result = measure.ratio(a, b, metric or self.metric) if a and b else None
        if result:
            target.value, (target.low, target.high) = result
        self.targets.append(target)

    def limit(self, issue, limit, value, text):
        """Asks that a plain figure be at most `limit`."""
        self.targets.append(Target(issue, text, limit, value))


def number(value):
    """Three figures that matter."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def as_text(row):
    rounds = max((len(c.runs) for c in row.contestants), default=0)
    what = f"{row.metric} ms, {rounds} rounds" if rounds else ""
    lines = [f"{row.title:<54.54}{what:>26}"]
    ours = next((c for c in row.contestants if c.runs), None)
    for c in row.contestants:
        if not c.runs:
            lines.append(f"  {c.name:<30.30} not run: {c.failed}"[:80])
            continue
        low, high = c.spread(row.metric)
        times = c.median(row.metric) / ours.median(row.metric)
        lines.append(
            f"  {c.name:<30.30}{number(c.median(row.metric)):>9}"
            f"  {number(low) + ' .. ' + number(high):>18}  cpu{number(c.median('cpu')):>7}{times:>7.2f} x"
        )
    for name, value, unit in row.figures:
        lines.append(f"  {name:<38.38}{number(value) if isinstance(value, (int, float)) else value:>40} {unit}"[:80])
    lines += [f"  ({note})" for note in row.notes]
    for t in row.targets:
        low = f" ({number(t.low)}..{number(t.high)})" if t.low is not None else ""
        shown = number(t.value)
        if t.value and t.low is not None and t.value < 0.3:
            shown = f"1/{number(float(1 / Fraction(t.value)))}"
            low = f" (1/{number(1 / t.high)}..1/{number(1 / t.low)})"
        lines.append(f"  #{t.issue} {t.text:<38.38}{shown + low:>24} {t.verdict:>12}"[:80])
    return "\n".join(lines)


def as_json(row):
    return {
        "title": row.title,
        "metric": row.metric,
        "contestants": [
            {
                "name": c.name,
                "not_run": c.failed or None,
                "wall_ms": [r.wall for r in c.runs],
                "cpu_ms": [r.cpu for r in c.runs],
                "rss_kib": max((r.rss for r in c.runs), default=None),
            }
            for c in row.contestants
        ],
        "figures": [{"name": n, "value": v, "unit": u} for n, v, u in row.figures],
        "targets": [
            {"issue": t.issue, "text": t.text, "limit": t.limit, "value": t.value, "p10": t.low, "p90": t.high,
             "verdict": t.verdict}
            for t in row.targets
        ],
        "notes": row.notes,
    }
