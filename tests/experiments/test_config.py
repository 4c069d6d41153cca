"""The configuration: profiles that extend each other, and errors that name the key and the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError, UsageError
from experiments import config
from experiments.describe import science


def write(folder: Path, text: str) -> Path:
    path = folder / "ray_config.yaml"
    path.write_text(text)
    return path


def test_the_programs_own_file_has_the_four_profiles():
    loaded = config.load(Path(config.__file__).parent.parent / config.FILE_NAME)
    assert {"embedded", "openai", "local", "cluster"} <= set(loaded.profiles)
    assert loaded.profile() is loaded.profiles["embedded"]
    assert loaded.profile("openai").generation == loaded.profile("embedded").generation
    assert loaded.profile("openai").chat.interpreter.backend == "openai"


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
    ("text", "told"),
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
        ("profiles: {}", ["profiles"]),
        ("profiles: [a]", ["must be a mapping"]),
        ("[]", ["must be a mapping"]),
        ("profiles: {a: {}}\nprofiles: {b: {}}", ["stands twice"]),
        ("profiles: {a: {}}\nprofile: b", ["unknown key profile"]),
        ("profiles: {a: {", ["not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        config.load(path)
    for part in [str(path), *told]:
        assert part in str(error.value)


def test_a_missing_file_or_profile_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "none.yaml")
    loaded = config.load(write(tmp_path, "profiles: {a: {}, b: {}}\ndefault_profile: a"))
    with pytest.raises(UsageError, match=r"no profile 'c'.*Profiles: a, b"):
        loaded.profile("c")


def test_only_a_file_that_is_not_the_programs_own_needs_naming(tmp_path, monkeypatch):
    monkeypatch.delenv("MAIA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert config.load().named_file is None
    assert config.load(write(tmp_path, "profiles: {embedded: {}}")).named_file == str(
        tmp_path / "ray_config.yaml"
    )
    assert config.load().named_file == str(tmp_path / "ray_config.yaml")


def test_the_cache_folder_of_the_environment_wins(tmp_path, monkeypatch):
    loaded = config.load(write(tmp_path, "profiles: {a: {}}\ncache_dir: /somewhere"))
    assert loaded.cache == Path("/somewhere")
    monkeypatch.setenv("MAIA_CACHE", str(tmp_path))
    assert loaded.cache == tmp_path


def test_how_much_memory_models_may_take_is_no_part_of_what_a_run_is_about():
    def names(value: object) -> list[str]:
        return (
            [name for key, each in value.items() for name in (key, *names(each))]
            if isinstance(value, dict)
            else []
        )

    kept = names(science(config.load().profile()))
    assert "reserve" in kept
    assert not [name for name in kept if name.endswith("_mb")]
