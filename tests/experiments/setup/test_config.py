"""The configuration: profiles that extend each other, and errors that name the key and the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError, UsageError
from experiments.setup import config
from experiments.setup.science import science


def write(folder: Path, text: str) -> Path:
    path = folder / "ray_config.yaml"
    path.write_text(text)
    return path


def test_the_built_in_file_has_four_profiles():
    loaded = config.load(config.BUILT_IN_FILE)
    assert set(loaded.profiles) == {"embedded", "hosted", "local", "cluster"}
    assert loaded.profile() is loaded.profiles["embedded"]
    hosted = loaded.profile("hosted")
    assert hosted.chat.interpreter.backend == "openai"
    assert hosted.generation.backend == "openai-images"
    assert hosted.dataset == ""


def test_a_file_of_ones_own_adds_to_the_built_in_profiles_and_may_extend_them(tmp_path):
    """The built-in profiles stay usable, and one may be changed under its own name."""
    path = write(
        tmp_path,
        "profiles:\n"
        "  mine: {extends: embedded, vision: {batch: 7}}\n"
        "  local: {extends: local, vision: {batch: 9}}\n",
    )
    loaded = config.load(path)
    built_in = config.load(config.BUILT_IN_FILE)
    assert loaded.profile("hosted") == built_in.profile("hosted")
    assert loaded.profile("mine").dataset == built_in.profile("embedded").dataset
    assert loaded.profile("local").vision.batch == 9
    assert loaded.profile("local").generation == built_in.profile("local").generation
    assert loaded.profile("cluster") == built_in.profile("cluster")


def test_an_inherited_fault_is_reported_once(tmp_path):
    path = write(tmp_path, "profiles:\n  a: {visoin: {}}\n  b: {extends: a}\n  c: {extends: b}\n")
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(error.value).count("visoin") == 1


def test_a_file_may_hold_no_profile_of_its_own(tmp_path):
    assert "embedded" in config.load(write(tmp_path, "cache_dir: /somewhere")).profiles


def test_a_profile_changes_only_what_it_names(tmp_path):
    path = write(
        tmp_path,
        "profiles:\n"
        "  a: {vision: {batch: 7, dtype: bfloat16}}\n"
        "  b: {extends: a, vision: {batch: 9}}\n"
        "  c: {extends: b, generation: {backend: diffusers, model: x}}\n"
        "default_profile: a\n",
    )
    loaded = config.load(path)
    assert (loaded.profile("c").vision.batch, loaded.profile("c").vision.dtype) == (9, "bfloat16")
    assert loaded.profile("c").generation.model == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: {a: {vison: {}}}", ["unknown key profiles.a.vison", "did you mean vision?"]),
        ("profiles: {a: {vision: {bach: 3}}}", ["unknown key profiles.a.vision.bach", "did you mean batch?"]),
        (
            "profiles: {a: {vision: {batch: 0}}}",
            ["profiles.a.vision.batch", "greater than or equal to 1", "got 0"],
        ),
        ("profiles: {a: {generation: {backend: dalle}}}", ["profiles.a.generation", "dalle"]),
        ("profiles: {a: {chat: {interpreter: {backend: openai}}}}", ["profiles.a.chat.interpreter", "model"]),
        ("profiles: {a: {extends: z}}", ["profiles.a.extends", "'z'"]),
        ("profiles: {a: {extends: b}, b: {extends: a}}", ["extends itself"]),
        ("profiles: {a: 3}", ["profiles.a must be a mapping"]),
        ("profiles: [a]", ["must be a mapping"]),
        ("[]", ["must be a mapping"]),
        ("profiles: {a: {}}\nprofiles: {b: {}}", ["stands twice"]),
        ("profiles: {a: {}}\nprofile: b", ["unknown key profile"]),
        ("profiles: {a: {", ["not valid YAML at line 1"]),
        ("profiles:\n  a:\n    vision: {}\n   ray: {}\n", ["not valid YAML at line 4, column 4", "indented"]),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        config.load(path)
    for part in [str(path), *message]:
        assert part in str(error.value)


def test_a_missing_file_or_profile_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "none.yaml")
    loaded = config.load(write(tmp_path, "profiles: {a: {}, b: {}}\ndefault_profile: a"))
    with pytest.raises(UsageError, match=r"no profile 'c'.*Profiles: a, b, cluster, embedded, hosted, local"):
        loaded.profile("c")


def test_only_a_file_that_is_not_the_programs_own_needs_naming(tmp_path, monkeypatch):
    monkeypatch.delenv("MAIA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert config.load().named_file is None
    assert config.load(write(tmp_path, "profiles: {embedded: {}}")).named_file == str(
        tmp_path / "ray_config.yaml"
    )
    assert config.load().named_file == str(tmp_path / "ray_config.yaml")
    (tmp_path / "maia.yaml").write_text("default_profile: embedded")
    assert config.load().named_file == str(tmp_path / "maia.yaml")


def test_the_cache_folder_of_the_environment_wins(tmp_path, monkeypatch):
    loaded = config.load(write(tmp_path, "profiles: {a: {}}\ncache_dir: /somewhere"))
    assert loaded.cache == Path("/somewhere")
    monkeypatch.setenv("MAIA_CACHE", str(tmp_path))
    assert loaded.cache == tmp_path


def test_memory_limits_are_no_part_of_a_manifest():
    def names(value: object) -> list[str]:
        return (
            [name for key, item in value.items() for name in (key, *names(item))]
            if isinstance(value, dict)
            else []
        )

    kept = names(science(config.load().profile()))
    assert "reserve" in kept
    assert not [name for name in kept if name.endswith("_mb")]


def test_a_configuration_that_came_with_a_run_is_used_only_if_it_is_named(tmp_path, monkeypatch):
    """It could send the person's key to an address of the sender's choice."""
    monkeypatch.delenv("MAIA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "profiles: {a: {}}")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="lies in a run directory"):
        config.load()
    assert "a" in config.load(path).profiles
