"""Promises about the repository itself."""

from __future__ import annotations

from importlib.metadata import distributions, packages_distributions

OURS = {"actors", "agents", "tools", "experiments"}


def test_no_dependency_ships_a_package_of_our_names():
    """The four floors are top-level packages: a dependency of the same name would shadow one."""
    owners = packages_distributions()
    clashes = {name: owners[name] for name in OURS if set(owners.get(name, [])) - {"maia"}}
    assert not clashes


def test_this_program_is_installed():
    assert any(distribution.metadata["Name"] == "maia" for distribution in distributions())
