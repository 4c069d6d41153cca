"""What the agents' texts of a run claim, as its observers read them: asked once, and kept in
`claims.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from actors.errors import MaiaError
from agents.records.journal import Journal
from agents.records.lease import worked_s
from agents.records.recorded_chat import RecordedChat
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.study.budget import Ledger, spent_so_far
from agents.study.metered import MeteredChat, Rate
from experiments.audit.claims import TextClaims, ask_claims
from experiments.setup.console import Console, counted

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

KEY = "claims.json"
_CLAIMS = TypeAdapter(dict[str, TextClaims])


def read(store: Store) -> dict[str, TextClaims]:
    """Return the claims of texts by unit. Where there is no record, or a damaged one, their words are
    read.
    """
    try:
        return _CLAIMS.validate_python(store.read_object(KEY) or {})
    except (RecordError, ValidationError):
        return {}


async def ask_all(
    console: Console,
    store: Store,
    bench: Workbench,
    texts: Mapping[str, str],
    contexts: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """Ask the observers what the text of each unit claims of its contexts, unless that is known.

    A text on which they give no answer in the form, or cannot be asked, is read by its words.
    """
    claims = read(store)
    missing = [unit for unit in texts if unit not in claims]
    if not missing:
        return
    console.say(f"asking the observers what {counted(len(missing), 'text')} of the agents claim")
    context = bench.context
    spent = spent_so_far(store, problems=[])
    ledger = Ledger(bench.profile.sweep.budget, spent, elapsed_s=lambda: worked_s(store))
    metered = MeteredChat(context.observers, ledger, context.rates.get("observer", Rate()))
    try:
        for unit in missing:
            model = RecordedChat(metered, Journal(store, unit), "observer", metered.most)
            claim = await ask_claims(model, texts[unit], contexts[unit], seed)
            if claim is not None:
                claims[unit] = claim
    except MaiaError as error:
        console.warn(f"the observers could not be asked what every text claims: {error.message}")
    record = {unit: asdict(claim) for unit, claim in claims.items()}
    store.replace_json(KEY, record)
