"""The API page shows what programs find, and only the later dialect."""

from __future__ import annotations

import re

import pytest

from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import api_page
from tools.sandbox.kernel import KernelSandbox


def test_the_page_names_every_method_of_the_later_dialect_and_none_of_the_papers() -> None:
    page = api_page()
    shown = set(re.findall(r"^(?:system|tools)\.(\w+)\(", page, re.MULTILINE))
    assert shown == {
        "call_neuron",
        "exemplars",
        "dataset_exemplars",
        "text2image",
        "edit_images",
        "describe_images",
        "summarize_images",
        "display",
    }
    assert "run_experiment" not in page
    assert "ImageHandle" not in page


@pytest.mark.anyio
async def test_the_examples_of_the_page_run(sandbox: KernelSandbox, host: FakeHost) -> None:
    examples = re.findall(r"Example:\n((?: {8}.*\n?|\n)+)", api_page())
    assert len(examples) == 8
    ready = "prompts = ['a', 'b']\nimages = tools.text2image(prompts)\nactivations, masked = system.call_neuron(images)\n"
    for example in examples:
        outcome = await sandbox.run(ready + "\n".join(line[8:] for line in example.splitlines()), host)
        assert outcome.status == "ok", (example, outcome)
