"""`python -m benchmarks [--device cpu] [--only B5 B6]`: run the suite; write RESULTS.md, results.json,
plots/.

Results of benchmarks that are not run this time, or could not be, are kept, and so are the sections of
RESULTS.md that other commands wrote below its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import Context, dumps, record
from benchmarks.report import page, plot
from benchmarks.suite import SUITE

TIMEOUT_S = 420
END = "<!-- The suite's part ends here; what follows was written by other commands and is kept. -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="run only these, such as B5 B6")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where results are written")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        entry = record(import_module(arguments.one), Context(arguments.device, quick=arguments.quick))
        (arguments.out / "one.json").write_text(dumps([entry]))
        return 0
    modules = {import_module(name).ID: name for name in SUITE}
    unknown = set(arguments.only) - modules.keys()
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(modules)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.json"
    kept = {entry["id"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}
    failed = False
    for id, name in modules.items():
        if arguments.only and id not in arguments.only:
            continue
        print(f"{id} {name.rpartition('.')[2]} ...", end=" ", flush=True, file=sys.stderr)
        entry = _in_its_own_process(id, name, arguments)
        if "failure" not in entry or entry["failure"].startswith("gate:") or id not in kept:
            kept[id] = entry  # a run that could not be made takes no earlier figures away
        missed = [metric["name"] for metric in entry.get("metrics", ()) if metric["met"] is False]
        failed |= "failure" in entry
        said = entry.get("failure") or (f"missed: {', '.join(missed)}" if missed else "all targets met")
        print(f"{entry.get('seconds', '?')} s, {said}", file=sys.stderr)
        # After each, so that an interrupted suite keeps what it has.
        records = [kept[each] for each in modules if each in kept]
        path.write_text(dumps(records))
        plots = arguments.out / "plots"
        for each in records:
            for i, curve in enumerate(each.get("curves", ())):
                plots.mkdir(exist_ok=True)
                (plots / f"{each['id']}-{i}.svg").write_text(plot(curve))
        results = arguments.out / "RESULTS.md"
        _, _, beyond = (results.read_text() if results.exists() else "").partition(END)
        results.write_text(f"{page(records)}\n{END}{beyond}")
    return int(failed)


def _in_its_own_process(id: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks", "--one", name, "--device", arguments.device]
        command += ["--out", folder] + ["--quick"] * arguments.quick
        failure = ""
        try:
            done = subprocess.run(
                command, timeout=TIMEOUT_S, check=False, stderr=subprocess.PIPE, text=True, stdout=sys.stderr
            )
            if done.returncode:
                failure = f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        except subprocess.TimeoutExpired:
            failure = f"not done after {TIMEOUT_S} s"
        written = Path(folder) / "one.json"
        if written.exists():
            entry: dict[str, Any] = json.loads(written.read_text())[0]
            if "failure" in entry:
                print(done.stderr, file=sys.stderr)
            return entry
        return {"id": id, "title": import_module(name).TITLE, "failure": failure or "it wrote nothing"}


if __name__ == "__main__":
    sys.exit(main())
