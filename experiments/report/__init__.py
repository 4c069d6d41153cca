"""The report: static pages made from a run directory, and from nothing else.

`out/report/` can be deleted and written again at any time. Pages refer to the images of `out/blobs/` by
relative address, ask no other host for anything, and open from a file as well as from any web server.
"""

from __future__ import annotations

from pathlib import Path

from experiments.report import site, unit_page
from experiments.report.records import RunDirectory

__all__ = ["write_unit_page"]


def write_unit_page(run_dir: Path, slug: str, *, anew: bool = True) -> Path:
    """Write the page of the unit in the folder `units/<slug>`, and the pages that it links to; return its
    path. Without `anew` one that its records still agree with stays.

    Raises:
        UsageError: If there is no such run or unit.
    """
    run = RunDirectory(run_dir)
    run.check_unit(slug)
    if run.store.has(site.OVERVIEW):  # the atlas is the front page: it is written with the whole report
        unit_page.write_page(run, run.unit(slug))
    else:
        site.write(run_dir, anew=slug if anew else "")
    return run_dir / "report" / "units" / f"{slug}.html"
