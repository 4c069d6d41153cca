"""Pictures of a unit, kept in a run that studied it: its page there shows them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.errors import UsageError
from actors.images import decode
from agents.records.journal import Blobs, slug
from agents.records.run_files import replace_file
from agents.records.store import Store
from experiments.effects.pictures import AttributedUnit, VisualizedUnit
from experiments.records.lookup import RecordedUnit, find_unit, find_units
from experiments.report import write_unit_page


@dataclass(frozen=True, slots=True)
class KeptPictures:
    """Where pictures are kept: the record beside the unit's others, and the page that shows them."""

    record: Path
    page: Path


def studied_unit(run: Path, model: str, layer: str, unit: str) -> RecordedUnit:
    """Return the unit of a run that a command line names by network, layer and number or class.

    `run` may name the unit, as DIR/UNIT.

    Raises:
        UsageError: If the run has no such unit, or studied another network.
    """
    units = find_units(run)
    found = units[0] if len(units) == 1 else find_unit(run / f"{layer}:{unit}")
    item = found.item
    if (found.manifest.model or model, item.layer) != (model, layer) or unit not in (
        item.name,
        item.unit.rpartition(":")[2],
    ):
        raise UsageError(
            f"{run} is of {item.unit}, and the pictures are of {model} {layer} {unit}.",
            "Name the run that studied this unit, as DIR/UNIT.",
        )
    return found


def keep(studied: RecordedUnit, folder: Path, made: VisualizedUnit | AttributedUnit) -> KeptPictures:
    """Put the pictures in `folder` into the run, with what is known of them, and write the unit's page.

    What was kept of the same settings is replaced.

    Raises:
        UsageError: If a picture is not there.
    """
    root, name = studied.store.root, slug(studied.item.unit)
    images = {}
    for each in made.images:
        try:
            images[each.file] = decode((folder / each.file).read_bytes())
        except OSError as error:
            raise UsageError(
                f"{folder / each.file} cannot be read: {error.strerror}.", "Make it again."
            ) from error
    Blobs(Store(root)).put(list(images.values()))
    if isinstance(made, VisualizedUnit):
        kind = f"visualization-{made.objective}-{made.steps}"
    else:
        kind = slug(f"attribution {made.method} {made.output or 'unit'}")
    key = f"units/{name}/pictures/{kind}.json"
    record = asdict(made) | {"stored": {file: image.id for file, image in images.items()}}
    replace_file(root, key, json.dumps(record, indent=1, ensure_ascii=False).encode())
    return KeptPictures(root / key, write_unit_page(root, name))
