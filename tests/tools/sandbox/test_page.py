"""The API page shows what programs find in the dialect that is set."""

from __future__ import annotations

import inspect
import re

from tests.tools.sandbox.conftest import LIMITS
from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import METHODS, Sandbox, api_page
from tools.sandbox.child.api import System, Tools
from tools.sandbox.kernel import KernelSandbox, KernelServer
from tools.sandbox.settings import Dialect
from tools.toolbox import Toolbox


def test_the_page_of_the_later_dialect_names_none_of_the_papers_methods() -> None:
    page = api_page()
    shown = set(re.findall(r"^(?:system|tools)\.(\w+)\(", page, re.MULTILINE))
    assert shown == {
        "call_neuron",
        "exemplars",
        "intervene",
        "dataset_exemplars",
        "text2image",
        "edit_images",
        "describe_images",
        "summarize_images",
        "display",
    }
    assert "run_experiment" not in page
    assert "ImageHandle" not in page
    assert "intervene" not in api_page(interventions=False)


def test_the_page_of_the_papers_dialect_shows_images_as_text() -> None:
    page = api_page("paper")
    assert "system.neuron(image_list: list[str]) -> tuple[list[float], list[str]]" in page
    assert "run_experiment(system, tools)" in page
    assert "call_neuron" not in page
    assert "Image]" not in page
    assert "intervene" not in page, "the paper's protocol has none"


def test_every_call_has_its_form_its_work_and_its_place_on_the_page() -> None:
    for name, method in METHODS.items():
        asked = inspect.signature(getattr(Toolbox, f"_do_{name}")).parameters
        assert set(asked) - {"self"} == set(method.arguments), name
    assert {f"_do_{name}" for name in METHODS} == {name for name in vars(Toolbox) if name.startswith("_do_")}
    offered = {
        name
        for kind in (System, Tools)
        for name, member in vars(kind).items()
        if callable(member) and not name.startswith("_")
    }
    shown = set(re.findall(r"^(?:system|tools)\.(\w+)\(", api_page(), re.MULTILINE))
    assert offered - shown == {"load_model", "log_experiment", "save_experiment_log"}, (
        "kept for programs of the paper"
    )


async def test_the_examples_of_the_page_run(sandbox: KernelSandbox, host: FakeHost) -> None:
    ready = """
prompts = ["a", "b"]
images = tools.text2image(prompts)
activations, masked = system.call_neuron(images)
"""
    await check_examples(sandbox, host, "maia2", ready)


async def test_the_examples_of_the_papers_page_run(host: FakeHost) -> None:
    ready = """
prompt_list = ["a", "b"]
images = tools.text2image(prompt_list)
activation_list, activation_map_list = masked = system.neuron(images)
"""
    async with KernelServer(LIMITS.model_copy(update={"dialect": "paper"})) as server:
        await server.start()
        await check_examples(await server.open(seed=7), host, "paper", ready)


async def check_examples(sandbox: Sandbox, host: FakeHost, dialect: Dialect, ready: str) -> None:
    examples = re.findall(r"Example:\n((?: {8}.*\n?|\n)+)", api_page(dialect))
    assert len(examples) == {"maia2": 9, "paper": 9}[dialect]
    for example in examples:
        outcome = await sandbox.run(ready + "\n".join(line[8:] for line in example.splitlines()), host)
        assert outcome.status == "ok", (example, outcome)
