"""Counters that Prometheus reads."""

from __future__ import annotations

import resource
import sys
from collections import defaultdict
from pathlib import Path

COUNTERS = {
    "requests": "Requests answered, by path and status.",
    "request_seconds": "Seconds from a request's arrival to the end of its answer.",
    "tokens": "Tokens written.",
    "steps": "Steps of a batch.",
    "step_rows": "Rows of those steps: divided by the steps, how full a batch is.",
    "step_seconds": "Seconds that those steps took.",
}
GAUGES = {
    "sessions": "Requests at work now.",
    "resident_bytes": "Memory that the process has.",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Sums by name and labels.

    >>> metrics = Metrics()
    >>> metrics.add("tokens", 3, run="lstm")
    >>> print(metrics.text(sessions=2).splitlines()[-1])
    cellwright_tokens_total{run="lstm"} 3
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[Labels, float]] = {name: defaultdict(float) for name in COUNTERS}

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter."""
        self._sums[name][tuple(labels.items())] += value

    def text(self, sessions: int) -> str:
        """All in Prometheus' text format, version 0.0.4."""
        lines = []
        gauges = {"sessions": sessions, "resident_bytes": resident_bytes()}
        for name, value in gauges.items():
            lines += [*_head(name, "gauge", GAUGES[name]), f"cellwright_{name} {value}"]
        for name, sums in self._sums.items():
            if sums:
                lines += _head(f"{name}_total", "counter", COUNTERS[name])
                lines += [f"cellwright_{name}_total{_labels(labels)} {value:.10g}" for labels, value in sums.items()]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Resident memory now; where the system does not say, the most there was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP cellwright_{name} {about}", f"# TYPE cellwright_{name} {kind}"]


def _labels(labels: Labels) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels) + "}" if labels else ""
