"""One table at the end: every benchmark, how long it took, and what it measured."""

import os
from typing import Any

import pytest

NAME_WIDTH = 64


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What benchmarks print, in their order."""
    stats = terminalreporter.stats
    reports = [r for kind in ("passed", "failed") for r in stats.get(kind, []) if "bench" in r.keywords]
    reports = [r for r in reports if isinstance(r, pytest.TestReport) and r.when == "call"]
    if not reports:
        return
    terminalreporter.section("measured")
    for report in sorted(reports, key=lambda r: r.start):
        name = report.nodeid.removeprefix("tests/benchmarks/").removeprefix("test_").replace(".py::test_", ": ")
        terminalreporter.write_line(f"{name[:NAME_WIDTH]:<{NAME_WIDTH}} {report.outcome:<6} {report.duration:6.1f} s")
        for line in filter(str.strip, report.capstdout.splitlines()):
            terminalreporter.write_line(f"    {line}")
    terminalreporter.write_line(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
