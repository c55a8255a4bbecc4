"""Plans a run before anything is loaded: the resolved configuration of a new run, or of one that is resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint import load_weights
from ..config import (
    ResidualStemConfig,
    RunConfig,
    architecture,
    changed,
    check_effect,
    named_weights,
    resolve,
    set_fields,
    spec,
)
from ..data.named import NAMED
from ..errors import ConfigError, RunFolderError
from ..files import expanded
from ..results import read_config
from ..weights import list_weights, shipped_file
from . import ADAPTIVE, recipe, recipe_for
from .folder import adapt
from .published import published

# A move of the data or the run changes no result, because the data's fingerprint is compared.
FREE_TO_CHANGE = {"data", "reading.root", "reading.max_image_gib", "device", "on_nonfinite", "log"}
PLACES = ("start_from", "teacher", "reading.root")  # fields that name files


def whole(name: str) -> str:
    """Returns the name of a dataset, or the absolute path of a folder or file, so that the run resumes from anywhere."""
    path = expanded(name)
    return str(path.absolute()) if name and name not in NAMED and path.exists() else name


def planned(
    config: RunConfig | str | None, source: Any, name: str, fields: dict[str, Any], settled: bool = False
) -> tuple[RunConfig, list[str]]:
    """Returns the resolved configuration of a new run, and the reason of each choice.

    `config` None: the recipe that fits the data `name`, or the one for fine-tuning if weights to start from are given.
    `source`: arrays in place of named data. `settled`: `config` is that of a run, and nothing is chosen for it.
    """
    fields = _places(fields)
    if config is None:
        config = recipe_for(name, fine_tuning=bool(fields.get("start_from")))
    config = recipe(config) if isinstance(config, str) else config
    config = replace(config, data=name or config.data)
    if not config.data:
        raise ConfigError("no data named: give a folder, or one of digits, cifar10, cifar100, svhn, flowers102")
    asked = set_fields(config, fields)  # checks names and types before anything is chosen to match them
    config = replace(config, reading=asked.reading)
    taken, reasons, grid = {}, [], None
    if fields.get("start_from") == "none":
        fields["start_from"] = ""
    elif fields.get("start_from", "").startswith("timm:"):
        theirs = published(fields["start_from"])
        model = fields.get("model", theirs["model"])
        if architecture(model) != architecture(theirs["model"]):
            raise ConfigError(f"cannot start {model} from {fields['start_from']}: choose the same model")
        reasons = [
            f"{', '.join(f'{n} {v}' for n, v in theirs.items() if n not in fields)}: as in the weights of --from"
        ]
        fields = {**theirs, **fields, "model": theirs["model"], "start_from": ""}
    elif not settled and (own := _own_weights(config, fields)):
        fields["start_from"] = own
        reasons = [f"start_from {own}: weights in the package, trained on CIFAR-100; --from none starts from scratch"]
    if (start := fields.get("start_from", config.start_from)) and not settled:
        if weights := named_weights(fields.get("model", config.model)):
            raise ConfigError(
                f"--from {start} and the model's own weights {weights} cannot be combined; leave out --from, or name the model "
                f"timm:{architecture(weights)}"
            )
        stored = load_weights(start).config
        taken = of_the_weights(stored, config, fields)
        if config.recipe in ADAPTIVE and _any_size(stored):
            grid = stored.img_size / stored.patch_size
        said = ", ".join(f"{n} {v}" for n, v in taken.items() if n != "arch")
        reasons += [f"{said}: as in the weights of --from"] if said else []
    if config.recipe in ADAPTIVE and not settled:
        config, chosen = adapt(config, source if source is not None else config.data, {**taken, **fields}, grid)
        reasons += chosen
    config = resolve(set_fields(config, {**taken, **fields}))
    check_effect(config, fields)
    return config, reasons


def _own_weights(config: RunConfig, fields: dict[str, Any]) -> str:
    """Returns the weights in the package from which a user's images start, or "" if a field that was set does not fit."""
    name = fields.get("model", config.model)
    other = [n for n in fields if n in ("start_from", "images.mean", "images.std", "objective")]
    if config.recipe != "folder" or other or any(n == "arch" or n.startswith("arch.") for n in fields):
        return ""
    found = f"{name}.cifar100"
    return (
        found if found in list_weights() and load_weights(shipped_file(found)).config.arch == spec(name).config else ""
    )


def _places(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: whole(str(value)) if name in PLACES else value for name, value in fields.items()}


def of_the_weights(stored: RunConfig, config: RunConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of the run `stored` that a run of `config` takes over with its weights, unless they are set.

    These are the value that is white and, if no model is set, the model with its patch size. The image size follows if the
    recipe leaves it open. An adaptive recipe chooses both sizes for a model that takes any.
    """
    white = stored.images.scale
    taken = {"images.scale": white} if white is not None and "images.scale" not in fields else {}
    if "model" in fields:
        return taken
    adaptive = config.recipe in ADAPTIVE
    names = ["model", "arch"]
    if not (adaptive and _any_size(stored)):
        names += ["patch_size", "img_size"] if adaptive or config.img_size is None else ["patch_size"]
    taken |= {n: v for n in names if n not in fields and (v := getattr(stored, n)) is not None}
    if named_weights(stored.model):  # the weights that it started from
        taken["model"] = f"timm:{architecture(stored.model)}"
    return taken


def _any_size(stored: RunConfig) -> bool:
    """Returns whether the filters of a run's weights fit images and patches of any size."""
    return stored.arch is not None and isinstance(stored.arch.patches, ResidualStemConfig)


def resumed(out: Path, config: RunConfig | str | None, name: str, fields: dict[str, Any]) -> RunConfig:
    """Returns the configuration of a run to resume. Raises RunFolderError if the settings differ from those at its start."""
    if not (out / "config.json").exists():
        raise RunFolderError(f"{out} holds no run to resume; train without --resume")
    stored = read_config(out)
    asked = config if isinstance(config, RunConfig) else stored
    if isinstance(config, str):
        asked = replace(asked, recipe=config)
    asked = resolve(replace(set_fields(asked, _places(fields)), data=name or stored.data))
    differ = {k: v for k, v in changed(stored, asked).items() if k not in FREE_TO_CHANGE}
    differ.pop("epochs", None)  # epochs may change: the schedule then ends there
    if differ:
        texts = [f"{key} was {before!r}, now {now!r}" for key, (before, now) in differ.items()]
        raise RunFolderError(
            f"the run cannot be resumed with other settings ({'; '.join(texts[:5])}); leave them out, or start a new run"
        )
    return asked
