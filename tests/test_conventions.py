"""What the whole code base keeps to, so that a stranger can read it: names, lengths, the shape of tests."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("actors", "agents", "tools", "experiments")
MOST_LINES, MOST_PARAMETERS, MOST_TEST_LINES, MOST_FILES = 60, 6, 40, 15
BANNED = re.compile(r"_?(told|foretell|foretold|whoever|somebody|nobody|anybody|colou?rs?_of_old|colour\w*)")
"""Identifiers that say less than a standard term would."""
TYPE_NAME = re.compile(r"_?[A-Z][A-Za-z]*[a-z][A-Za-z]*")
PATCHES = 30
"""Uses of `monkeypatch.setattr` that are left: each replaces what cannot be passed in."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees(*tops: str) -> dict[Path, ast.Module]:
    files = (path for top in tops for path in sorted((ROOT / top).rglob("*.py")))
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in files}


def functions(*tops: str) -> Iterator[tuple[str, Function]]:
    for path, tree in trees(*tops).items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno} {node.name}", node


def n_lines(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def is_command(node: Function) -> bool:
    """Return whether typer calls it: its parameters are the options that people type."""
    return any(".command" in ast.unparse(decorator) for decorator in node.decorator_list)


def type_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of classes, and of type aliases: what a module binds to a name in CamelCase."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        is_variable = isinstance(node, ast.Assign) and "TypeVar" in ast.unparse(node.value)
        yield from (
            target.id
            for target in targets
            if isinstance(target, ast.Name) and TYPE_NAME.fullmatch(target.id) and not is_variable
        )


def test_no_two_classes_or_type_aliases_of_the_product_have_one_name() -> None:
    places = defaultdict(list)
    for path, tree in trees(*FLOORS).items():
        for name in type_names(tree):
            places[name].append(str(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_identifiers_are_standard_terms() -> None:
    banned = set()
    for path, tree in trees(*FLOORS).items():
        for node in ast.walk(tree):
            name = getattr(node, "name", None) or getattr(node, "id", None) or getattr(node, "arg", None)
            if isinstance(name, str) and BANNED.fullmatch(name):
                banned.add(f"{path}: {name}")
    assert banned == set()


def test_functions_fit_on_a_screen() -> None:
    assert [
        where for where, node in functions(*FLOORS) if n_lines(node) > MOST_LINES and not is_command(node)
    ] == []


def test_functions_take_few_parameters() -> None:
    def count(node: Function) -> int:
        given = node.args
        names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        return len([name for name in names if name not in ("self", "cls")])

    assert [
        where for where, node in functions(*FLOORS) if count(node) > MOST_PARAMETERS and not is_command(node)
    ] == []


def test_folders_are_no_corridors() -> None:
    folders = {path.parent for path in trees(*FLOORS)}
    crowded = [
        str(folder)
        for folder in folders
        if len([p for p in (ROOT / folder).glob("*.py") if p.name != "__init__.py"]) > MOST_FILES
    ]
    assert crowded == []


def test_tests_are_short() -> None:
    tests = [(where, node) for where, node in functions("tests") if node.name.startswith("test_")]
    assert [where for where, node in tests if n_lines(node) > MOST_TEST_LINES] == []


def test_tests_pass_fakes_instead_of_patching() -> None:
    used = sum(path.read_text().count("monkeypatch." + "setattr") for path in (ROOT / "tests").rglob("*.py"))
    assert used <= PATCHES
