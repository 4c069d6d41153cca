"""The notebook of the documentation runs from top to bottom, on a tiny network in place of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.embedded.concept_net.concept_net import class_names
from agents.evidence.verdict import holds

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).resolve().parent.parent.parent / "docs" / "study-a-unit.ipynb"
CONFIG = """
profiles:
  embedded:
    dataset: scenes:200:1
    vision: {batch: 16, placement: {threads: 1}}
    confirmation: {min_images: 10, max_images: 10, block: 10, probe: 0}
    chat:
      interpreter: {backend: builtin, model: scientist}
      observers: {backend: builtin, model: observer}
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_leaves_a_study(tmp_path, monkeypatch):
    monkeypatch.setenv("MAIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.yaml").write_text(CONFIG)
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    banana = class_names().index("banana")
    parameters.source = (
        f'MODEL, LAYER, UNIT = "concept-net", "concepts", {banana}\nCONFIG, OUT = "config.yaml", "run"\n'
        'SUBJECTS = ["a banana", "a car"]\nLABEL = "banana"'
    )
    client = nbclient.NotebookClient(notebook, timeout=150, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = "".join(
        output.get("data", {}).get("text/html", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )
    assert "data:image/jpeg;base64," in shown
    assert "<b>banana</b>" in shown
    (done,) = (tmp_path / "run" / "units").glob("*/done.json")
    record = json.loads(done.read_text())
    assert record["label"] == "banana"
    assert holds(record)
    assert record["facts"]["interpreter"] == "person:a reader"
    assert record["rounds"] >= 4
    programs = [json.loads(path.read_text())["program"] for path in sorted(done.parent.glob("rounds/*.json"))]
    assert "tools.summarize_images(" in programs[1]


def test_the_notebook_is_stored_with_its_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    empty = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.outputs]
    assert all(source.startswith("MODEL, LAYER, UNIT") for source in empty)
