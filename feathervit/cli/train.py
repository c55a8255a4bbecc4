"""The verbs `train` and `pretrain`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..config import RunConfig
from ..errors import ConfigError
from ..weights import list_weights
from .flags import JsonFlag, ThreadsFlag
from .printing import new_console, print_json


@dataclass
class Train(ThreadsFlag, JsonFlag):
    """Train a model on labelled images and write a run folder.

    Every field of the recipe can be set by its dotted name. --from, --folds and --fold are short for --start-from,
    --split.folds and --split.fold. --classes A,B and --ignore PATTERN are short for --reading.classes and --reading.ignore.
    Without --recipe, the data decides the recipe. For your own images it is `folder`, which chooses sizes, epochs
    and batch size from the images and prints its reasons. --arch.attention, --arch.feedforward and --arch.patches
    select another kind of part by name; --help-all then shows the fields of that part.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    out: str = ""
    """Run folder; it must be new or empty unless you add --resume or --overwrite."""
    config_file: Annotated[str, tyro.conf.arg(name="config")] = ""
    """Repeat a run from its folder or config.json; flags override its settings."""
    pretrained: bool = False
    """Start from weights for --model: those that timm publishes (timm:NAME), or those in the package."""
    resume: bool = False
    """Resume the stopped run in --out, to the same final weights. --epochs may change."""
    overwrite: bool = False
    """Remove the run in the folder and start a new one."""
    minutes: float | None = None
    """Train for about this many minutes; timed steps decide the number of epochs."""
    max_minutes: float | None = None
    """Save a checkpoint and stop after this many minutes; --resume continues the run."""
    skip_unreadable: bool = False
    """Skip images that cannot be read, and count them."""
    command: tyro.conf.Suppress[str] = ""
    given: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)  # fields of `config` that the user set

    def execute(self) -> int:
        from ..training.train import pretrain
        from ..training.train import train as plain

        run = pretrain if isinstance(self, Pretrain) else plain
        if not self.out:
            raise ConfigError("no run folder is given; add --out FOLDER")
        fields = {k: v for k, v in self.given.items() if k not in ("recipe", "data")}
        if self.pretrained:
            fields["start_from"] = _published(self.config.model, fields)
        outcome = run(
            Path(self.config_file) if self.config_file else self.given.get("recipe"),
            data=self.given.get("data"),
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            minutes=self.minutes,
            max_minutes=self.max_minutes,
            skip_unreadable=self.skip_unreadable,
            console=new_console(self.json),
            command=self.command,
            **fields,
        )
        if self.json and int(os.environ.get("RANK", "0")) == 0:  # one object, also from several processes
            result = outcome.result
            splits = {n: getattr(result, n) for n in ("val", "test")} if result else {}
            keep = ("n", "top1", "top5", "balanced_accuracy", "nll", "ece", "masked_mse", "visible_mse")
            print_json(
                {
                    "out": self.out,
                    "finished": outcome.finished,
                    **{n: {"split": n, **{k: s[k] for k in keep if k in s}} for n, s in splits.items() if s},
                    **({"minutes": result.minutes, "images_per_s": result.images_per_s} if result else {}),
                }
            )
        return 130 if outcome.interrupted and not outcome.finished else 0


@dataclass
class Pretrain(Train):
    """Pre-train a masked auto-encoder without labels. `train --from` starts from its weights.

    Images may be in any folders inside --data. Every field of the recipe can be set by its dotted name. Without --recipe,
    the pre-training recipe is chosen from the data. For your own images it is `mae_folder`, which adapts to the images and
    prints its reasons.
    """


def _published(model: str, fields: dict[str, Any]) -> str:
    """Returns the name of the weights for --pretrained. Raises ConfigError if there are none."""
    if "start_from" in fields:
        raise ConfigError("--pretrained and --from exclude each other: both name weights to start from")
    known = [model] if model.startswith("timm:") else list_weights(model)
    if not known:
        raise ConfigError(
            f"no weights of {model} are in the package (it has {', '.join(list_weights())}); leave --pretrained out"
        )
    return known[0]
