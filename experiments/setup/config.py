"""`ray_config.yaml` as typed values: profiles that may extend each other, and errors that name the key.

Composed here, on the top floor, because every floor brings its own settings; none of them reads a file.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from actors.chat.settings import BuiltinChat, ChatSettings
from actors.cluster.settings import RaySettings
from actors.detection.settings import DetectionSettings, ScenesDetection
from actors.embedding.settings import BuiltinEmbedding, EmbeddingSettings
from actors.errors import ConfigError, UsageError
from actors.generation.settings import GenerationSettings, ScenesGeneration
from actors.settings import Settings
from actors.vision.data.class_names import read as read_class_names
from actors.vision.data.labels import ColumnSettings
from actors.vision.settings import VisionSettings
from agents.critic.settings import ConfirmationSettings
from agents.orchestration.settings import SweepSettings
from agents.study.settings import InterpreterSettings, RoleSettings
from tools.sandbox.settings import SandboxSettings

FILE_NAME = "maia.yaml"
"""Written by `maia init`; searched for in the current folder before `ray_config.yaml`."""
_BUILT_IN_NAME = "ray_config.yaml"
BUILT_IN_FILE = Path(__file__).resolve().parents[2] / _BUILT_IN_NAME
"""The profiles that are always there, to be used and to be extended."""


class ChatRoles(Settings):
    """Which model reasons, and which one describes images without knowing why."""

    interpreter: ChatSettings = BuiltinChat(model="scientist")
    observers: ChatSettings | None = None
    """Describer and summarizer; None uses the interpreter's model, in fresh conversations."""


class Profile(Settings):
    """Models and settings of one way of running; the code is the same."""

    description: str = ""
    """One sentence for people, shown by `maia doctor`."""
    ray: RaySettings = RaySettings()
    vision: VisionSettings = VisionSettings()
    dataset: str = "scenes:3000:0"
    """Images for exemplars: a folder, a list of paths (.txt, .csv), a .npy file,
    `hf:ID[/CONFIG][:SPLIT[:COLUMN]]`, or `scenes:SIZE:SEED`. Empty: `--data` must name them.
    """
    columns: ColumnSettings = ColumnSettings()
    """Where the data set says what an image shows; only audits ask for it."""
    few_images: bool = False
    """Accept a data set of fewer than 30 distinct images."""
    generation: GenerationSettings = ScenesGeneration()
    detection: DetectionSettings = ScenesDetection()
    embedding: EmbeddingSettings = BuiltinEmbedding()
    """What `maia label` compares images with words by."""
    chat: ChatRoles = ChatRoles()
    interpreter: InterpreterSettings = InterpreterSettings()
    confirmation: ConfirmationSettings | None = ConfirmationSettings()
    """The test of every answer on fresh images; null accepts answers untested."""
    role: RoleSettings | None = RoleSettings()
    """What each studied unit does to the network's outputs; null leaves it unmeasured."""
    sandbox: SandboxSettings = SandboxSettings()
    sweep: SweepSettings = SweepSettings()
    ask_above_dollars: float = Field(10.0, ge=0)
    """Dollars that a sweep may be expected to cost before it asks first, or needs `--yes`."""

    @model_validator(mode="after")
    def _check_dialect(self) -> Profile:
        if self.sandbox.dialect != "maia2" and isinstance(self.chat.interpreter, BuiltinChat):
            raise ValueError(
                "the built-in model writes programs in the dialect maia2 only: choose another model for"
                " chat.interpreter, or leave sandbox.dialect out"
            )
        return self

    @model_validator(mode="after")
    def _check_hosts(self) -> Profile:
        if self.ray.in_process and self.sweep.hosts:
            raise ValueError(
                "sweep.hosts are processes of Ray, which `ray.address: none` is without: leave them out"
            )
        return self

    def given(
        self,
        data: str | None,
        class_names: Path | None = None,
        few_images: bool = False,
        columns: ColumnSettings | None = None,
    ) -> Profile:
        """Return the profile with the options `--data`, `--class-names`, `--few-images` and those of columns
        of a command.

        Raises:
            UsageError: If the file of class names cannot be read.
        """
        named = {} if class_names is None else {"class_names": read_class_names(class_names)}
        own: dict[str, Any] = {} if data is None else {"dataset": data}
        own |= {"few_images": few_images or self.few_images}
        said = {name: value for name, value in columns or () if value}
        own |= {"columns": self.columns.model_copy(update=said)}
        return self.model_copy(update=own | {"vision": self.vision.model_copy(update=named)})


class Configuration(Settings):
    """The whole file."""

    path: Path
    default_profile: str = "embedded"
    """The profile of commands that name none."""
    cache_dir: Path = Path("~/.cache/maia")
    """Where exemplars, generated images and measured activations are kept between runs."""
    profiles: dict[str, Profile]
    """Ways of running, by name. The built-in ones are always there; one of the same name replaces it, and may
    extend it.
    """

    def profile(self, name: str | None = None) -> Profile:
        """Return a profile by name.

        Raises:
            UsageError: If there is none of that name.
        """
        wanted = name or self.default_profile
        if wanted not in self.profiles:
            raise UsageError(
                f"there is no profile {wanted!r} in {self.path}.",
                f"{_meant(wanted, self.profiles)}Profiles: {', '.join(sorted(self.profiles))}.",
            )
        return self.profiles[wanted]

    @property
    def named_file(self) -> str | None:
        """The file's whole path for `--config`, None for the program's own file, which needs no naming."""
        path = self.path.resolve()
        return None if path == BUILT_IN_FILE else str(path)

    @property
    def cache(self) -> Path:
        """The cache folder; the environment variable MAIA_CACHE wins over the file.

        Raises:
            UsageError: If it is below the home folder, and this user has none.
        """
        folder = Path(os.environ.get("MAIA_CACHE") or self.cache_dir)
        try:
            return folder.expanduser()
        except RuntimeError as error:
            raise UsageError(
                f"the cache {folder} is in the home folder, and this user has none.",
                "Set MAIA_CACHE to a folder of your own, or HOME.",
            ) from error


def find(explicit: Path | None = None) -> Path:
    """Return the configuration file: the one named, MAIA_CONFIG, ./maia.yaml, ./ray_config.yaml, or the
    built-in one.
    """
    if explicit is None and os.environ.get("MAIA_CONFIG"):
        explicit = Path(os.environ["MAIA_CONFIG"])
    if explicit is not None:
        if not explicit.is_file():
            raise ConfigError(
                f"the configuration file {explicit} does not exist.", "Check --config or MAIA_CONFIG."
            )
        return explicit
    for name in (FILE_NAME, _BUILT_IN_NAME):
        if (here := Path.cwd() / name).is_file():
            _check_not_of_a_run(here)
            return here
    return BUILT_IN_FILE


def _check_not_of_a_run(path: Path) -> None:
    """Refuse a configuration that was not named and lies in a run directory: the sender of the run wrote it.

    Raises:
        ConfigError: If there is a manifest beside it.
    """
    if (path.parent / "manifest.json").exists():
        raise ConfigError(
            f"{path} lies in a run directory, and a run chooses no models, addresses or keys.",
            "Work from another folder, or name the file with --config if it is your own.",
        )


def load(explicit: Path | None = None) -> Configuration:
    """Return the validated configuration; the built-in profiles are part of it, whatever file is read.

    A profile of the file replaces the built-in one of its name, and may extend it by that name.

    Raises:
        ConfigError: Naming the file and the key of the first thing that is wrong.
    """
    path = find(explicit)
    content = _read(path)
    built_in = {} if path.resolve() == BUILT_IN_FILE else _read(BUILT_IN_FILE)["profiles"]
    own = content["profiles"]
    profiles = {name: _extended(own, built_in, name, path) for name in {**built_in, **own}}
    try:
        return Configuration(**{**content, "profiles": profiles, "path": path})
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from error
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        raise ConfigError(
            f"{path} is not valid YAML at {where}: {error.problem or error.context}.",
            "Keys of one mapping must start in the same column, and be indented by spaces.",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.setdefault("profiles", {}), dict):
        raise ConfigError(f"{path} must be a mapping; its key 'profiles' is itself a mapping of names.")
    return content


def _extended(
    own: dict[str, Any], built_in: dict[str, Any], name: str, path: Path, seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return profile `name` with what it extends merged under it."""
    if name not in own:
        own = {}  # what is built in never depends on the file
    content = own[name] if name in own else built_in[name]
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: profiles.{name} must be a mapping, got {content!r}.")
    content = dict(content)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if parent == name and name in own and name in built_in:
        return _merged(_extended({}, built_in, name, path), content)
    if parent not in own and parent not in built_in:
        raise ConfigError(
            f"{path}: profiles.{name}.extends names {parent!r}, which is not a profile.",
            f"{_meant(str(parent), map(str, {**built_in, **own}))}"
            f"Profiles: {', '.join(sorted(map(str, {**built_in, **own})))}.",
        )
    if parent in (name, *seen):
        raise ConfigError(f"{path}: profiles.{name} extends itself, by way of {parent!r}.")
    return _merged(_extended(own, built_in, parent, path, (*seen, name)), content)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; a mapping that names another `backend` replaces the whole mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if (
            isinstance(value, dict)
            and isinstance(below, dict)
            and value.get("backend") in (None, below.get("backend"))
        ):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _explain(error: ValidationError, path: Path) -> str:
    """Return one line a problem: the key's path, the rule, the value."""
    lines: list[str] = []
    inherited = set()
    for problem in error.errors():
        # A profile that extends another has its faults too: each is reported once, where it was written or
        # first met.
        below = problem["loc"][2:] if problem["loc"][:1] == ("profiles",) else problem["loc"]
        if len(lines) == 5 or (below, problem["type"]) in inherited:
            continue
        inherited.add((below, problem["type"]))
        # Pydantic puts the chosen variant of a union into the location; the file has no such key.
        keys = [str(key) for key in problem["loc"]]
        variants = {
            *("scenes", "diffusers", "openai-images", "grounding-dino-sam", "sam3"),
            *("openai", "transformers", "builtin"),
        }
        shown = ".".join(
            key for i, key in enumerate(keys) if not (i and key in variants and i < len(keys) - 1)
        )
        if problem["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key {shown}{_nearest(keys[-1], keys[:-1])}")
        else:
            value = problem.get("input")
            # Values of free text are not repeated: an address may hold a password.
            short = isinstance(value, int | float | bool | type(None)) or "url" not in keys[-1]
            got = f", got {value!r}" if short and not isinstance(value, dict | list) else ""
            lines.append(f"{path}: {shown}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "\n".join(lines)


def _meant(word: str, known: Iterable[str]) -> str:
    """Return "Did you mean ...? " if something known is like `word`, else ""."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"Did you mean {near[0]}? " if near else ""


def _nearest(key: str, parents: list[str]) -> str:
    """Return ' (did you mean ...?)' from the fields of the settings class at that place, if it is known."""
    model: Any = Configuration
    for parent in parents:
        field = getattr(model, "model_fields", {}).get(parent)
        if field is None:
            if model is Configuration or not hasattr(model, "model_fields"):
                model = Profile
            continue
        model = field.annotation
    known = list(getattr(model, "model_fields", Profile.model_fields))
    near = difflib.get_close_matches(key, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a configuration should not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
