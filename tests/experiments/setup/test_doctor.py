"""`maia doctor` tells what is missing apart from what only some profiles need."""

from __future__ import annotations

from rich.console import Console

from actors.cluster.machine import CheckResult
from experiments.setup.doctor import DoctorReport, is_ready, packages, table


def shown(findings: list[CheckResult]) -> str:
    """Return the report's table as a terminal shows it."""
    report = DoctorReport("c", "p", {}, is_ready(findings), findings)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(report))
    return captured.get()


def test_a_missing_package_of_an_extra_is_neither_ok_nor_in_the_way() -> None:
    findings = packages({"ray": "", "no-such-package": "models"})
    assert [finding.ok for finding in findings] == [True, False]
    assert is_ready(findings)
    output = shown(findings)
    assert "nothing is missing" in output
    assert "optional  no-such-package" in output
    assert 'pip install -c constraints.txt "maia[models]"' in output


def test_a_missing_package_that_everything_needs_is_in_the_way() -> None:
    findings = packages({"no-such-package": ""})
    assert not is_ready(findings)
    assert "1 thing missing" in shown(findings)
