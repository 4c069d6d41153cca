"""The sections of known truth in the results: written once, replaced in place, others left alone."""

from __future__ import annotations

from benchmarks.bench_truth import keep


def test_a_section_is_replaced_in_its_place_and_the_others_stay(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## First\n\ntext\n")
    keep("planted-biases", ["maia planted-biases"], "one", path)
    keep("ablation", ["maia ablate"], "two", path)
    keep("planted-biases", ["maia planted-biases"], "three", path)
    found = path.read_text()
    assert "one" not in found.replace("None", "")
    assert found.index("## First") < found.index("three") < found.index("two")
    assert found.count("## Known truth: planted-biases") == 1
    assert "text\n" in found
