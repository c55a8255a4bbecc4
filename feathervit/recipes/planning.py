"""Plans a run before data is loaded: resolves the configuration of a new or resumed run."""

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

# Moving the data or the run does not change the result. The fingerprint of the data is checked.
FREE_TO_CHANGE = {"data", "reading.root", "reading.max_image_gib", "device", "on_nonfinite", "log"}
PLACES = ("start_from", "teacher", "reading.root")  # fields that name files


def whole(name: str) -> str:
    """Returns the name of a dataset, or the absolute path of a folder or file, so that a run resumes from any folder."""
    path = expanded(name)
    return str(path.absolute()) if name and name not in NAMED and path.exists() else name


def edited(config: RunConfig | str | None) -> dict[str, Any]:
    """Returns the fields of a RunConfig that differ from its adaptive recipe, by dotted name: choices of the user."""
    if not isinstance(config, RunConfig) or config.recipe not in ADAPTIVE:
        return {}
    return {name: after for name, (_, after) in changed(recipe(config.recipe), config).items() if name != "data"}


def planned(
    config: RunConfig | str | None, source: Any, name: str, fields: dict[str, Any], settled: bool = False
) -> tuple[RunConfig, list[str]]:
    """Returns the resolved configuration of a new run, and the reason for each choice.

    `config` None: the default recipe of the data `name`, or its recipe for fine-tuning if starting weights are given.
    `source`: arrays that replace named data. `settled`: `config` is the configuration of a run, and no field is adapted.
    """
    asked = tuple(fields)
    fields = _places(fields if settled else {**edited(config), **fields})
    if config is None:
        config = recipe_for(name, fine_tuning=fields.get("start_from", "none") not in ("", "none"))
    config = recipe(config) if isinstance(config, str) else config
    config = replace(config, data=name or config.data)
    if not config.data:
        raise ConfigError("no data named: give a folder, or one of digits, cifar10, cifar100, svhn, flowers102")
    requested = set_fields(config, fields)  # check names and types before other fields are adapted to them
    if requested.model.startswith("timm:") and not config.model.startswith("timm:"):
        config = replace(config, patch_size=None)  # the recipe's patches are those of its own model
    config = replace(config, reading=requested.reading)
    stored_fields, trained, given = {}, None, fields
    fields = _started(given)
    reasons = _inherited({n: v for n, v in fields.items() if n not in given})
    if not settled and (default := _own_weights(config, fields)):
        fields["start_from"] = default
        reasons.append(
            f"start_from {default}: weights in the package, trained on CIFAR-100; --from none starts from scratch"
        )
    if (start := fields.get("start_from", config.start_from)) and not settled:
        if weights := named_weights(fields.get("model", config.model)):
            raise ConfigError(
                f"--from {start} and the model's own weights {weights} cannot be combined; leave out --from, or name the model "
                f"timm:{architecture(weights)}"
            )
        stored = load_weights(start).config
        stored_fields = of_the_weights(stored, config, fields)
        if config.recipe in ADAPTIVE and _any_size(stored):
            trained = (stored.img_size, stored.patch_size)
        reasons += _inherited({n: v for n, v in stored_fields.items() if n != "arch"})
    if config.recipe in ADAPTIVE and not settled:
        config, chosen = adapt(
            config, source if source is not None else config.data, {**stored_fields, **fields}, trained
        )
        reasons += chosen
    config = resolve(set_fields(config, {**stored_fields, **fields}))
    check_effect(config, asked)
    return config, reasons


def _own_weights(config: RunConfig, fields: dict[str, Any]) -> str:
    """Returns the weights in the package to start from, for a user's images, or "" if a field set by the user does not fit."""
    conflicts = ("start_from", "images.mean", "images.std", "objective")
    if config.recipe != "folder" or any(n in conflicts or n.partition(".")[0] == "arch" for n in fields):
        return ""
    name = fields.get("model", config.model)
    weights = f"{name}.cifar100"
    fits = weights in list_weights() and load_weights(shipped_file(weights)).config.arch == spec(name).config
    return weights if fits else ""


def _started(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields without a `start_from` that names no file: "none", or weights of timm, which are part of a model."""
    start = fields.get("start_from", "")
    if start == "none":
        return {**fields, "start_from": ""}
    if not start.startswith("timm:"):
        return dict(fields)
    pretrained = published(start)
    model = fields.get("model", pretrained["model"])
    if architecture(model) != architecture(pretrained["model"]):
        raise ConfigError(f"cannot start {model} from {start}: choose the same model")
    return {**pretrained, **fields, "model": pretrained["model"], "start_from": ""}


def _inherited(fields: dict[str, Any]) -> list[str]:
    """Returns a reason for fields that are taken from starting weights, if there are any."""
    return [f"{', '.join(f'{n} {v}' for n, v in fields.items())}: as in the weights of --from"] if fields else []


def _places(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: whole(str(value)) if name in PLACES else value for name, value in fields.items()}


def of_the_weights(stored: RunConfig, config: RunConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields that a run of `config` inherits from the run `stored` of its starting weights, unless they are set.

    These are the value of white, the normalisation and, if no model is set, the model with its patch size. The image size is
    included if the recipe does not set it. For a model that accepts any size, an adaptive recipe chooses both sizes.
    """
    inherited = {}
    if stored.images.scale is not None and "images.scale" not in fields:
        inherited["images.scale"] = stored.images.scale
    mean, std = stored.images.mean, stored.images.std
    given = {"images.mean", "images.std"} & set(fields)
    if (mean, std) != (config.images.mean, config.images.std) and not given:
        inherited |= {"images.mean": mean, "images.std": std}
        if len(mean) > 1 and "images.channels" not in fields:
            inherited["images.channels"] = len(mean)
    if "model" in fields:
        return inherited
    adaptive = config.recipe in ADAPTIVE
    names = ["model", "arch"]
    if not (adaptive and _any_size(stored)):
        names += ["patch_size", "img_size"] if adaptive or config.img_size is None else ["patch_size"]
    inherited |= {n: v for n in names if n not in fields and (v := getattr(stored, n)) is not None}
    if named_weights(stored.model):  # the name includes the weights that the run started from
        inherited["model"] = f"timm:{architecture(stored.model)}"
    return inherited


def _any_size(stored: RunConfig) -> bool:
    """Returns whether the weights of a run fit images and patches of any size."""
    return stored.arch is not None and isinstance(stored.arch.patches, ResidualStemConfig)


def resumed(out: Path, config: RunConfig | str | None, name: str, fields: dict[str, Any]) -> RunConfig:
    """Returns the configuration of a run to resume. Raises RunFolderError if a setting differs from the start of the run."""
    if not (out / "config.json").exists():
        raise RunFolderError(f"{out} holds no run to resume; train without --resume")
    stored = read_config(out)
    fields = _started(_places({**edited(config), **fields}))
    requested = config if isinstance(config, RunConfig) and config.recipe not in ADAPTIVE else stored
    if isinstance(config, str):
        requested = replace(requested, recipe=config)
    requested = resolve(replace(set_fields(requested, fields), data=name or stored.data))
    if requested.precision == "auto":  # the run stored what it measured
        requested = replace(requested, precision=stored.precision)
    if requested.images.scale is None:
        requested = replace(requested, images=replace(requested.images, scale=stored.images.scale))
    differ = {k: v for k, v in changed(stored, requested).items() if k not in FREE_TO_CHANGE}
    differ.pop("epochs", None)  # epochs may change: the schedule then ends at the new number
    if differ:
        texts = [f"{key} was {before!r}, now {now!r}" for key, (before, now) in differ.items()]
        raise RunFolderError(
            f"the run cannot be resumed with other settings ({'; '.join(texts[:5])}); leave them out, or start a new run"
        )
    return requested
