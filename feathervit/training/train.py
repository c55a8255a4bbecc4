"""Runs one training, from a configuration to a run folder: data, model, banner, training, evaluation.

A run folder contains config.json, splits.json, metrics.csv, state.safetensors, last.safetensors and best.safetensors.
Pre-training adds reconstructions/. A finished run adds result.json, report.html and report/. `train` is also available as
`feathervit.train`.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..chance import Chance
from ..checkpoint import load_weights, states
from ..config import RunConfig, check_channels, named_weights, to_dict
from ..data import load_run_data
from ..data.given import kept
from ..data.image import as_input
from ..device import choose_device, choose_precision, own_randomness, seed
from ..errors import CheckpointError, ConfigError
from ..evaluation.inference import known_validation
from ..files import expanded
from ..models import Encoder, MaskedAutoencoder, build_model
from ..models.starting import start_from
from ..recipes import ADAPTIVE, recipe, recipe_for
from ..recipes.planning import edited, planned, resumed, whole
from ..results import read_config, write_json
from ..streams import console as words_console
from .banner import banner
from .checks import check_batch_norm, check_memory
from .conclusion import Outcome, conclude
from .display import decoding, say
from .distributed import Group, join
from .folder import empty, held
from .loop import Loop
from .precision import faster_on_cpu
from .timing import AT_MOST_MINUTES, Budget, measure
from .trainer import Trainer

if TYPE_CHECKING:
    from rich.console import Console


def train(
    config: RunConfig | str | Path | None = None,
    *,
    out: str | Path,
    data: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    minutes: float | None = None,
    max_minutes: float | None = None,
    skip_unreadable: bool = False,
    console: Console | None = None,
    command: str = "feathervit.train(...)",
    **fields: Any,
) -> Outcome:
    """Trains a model and returns the outcome.

    - `config`: a RunConfig; the name of a recipe; the Path of a run folder or config.json, whose settings are used
      unchanged; or None for the default recipe of the data.
    - `data`: a name, a folder, or (images, labels) arrays.
    - `fields`: fields of the configuration by (dotted) name, such as `epochs=3` or `**{"optim.weight_decay": 0.1}`.
    - `minutes`: chooses the number of epochs that this machine trains in that time, from steps timed before training. For
      an adaptive recipe without `epochs` and `minutes`, the limit is `AT_MOST_MINUTES`.
    - `max_minutes`: stops the run after that time, which includes loading; `resume` continues it.
    - `resume`: continues the run in `out`. `epochs` may change.
    - `overwrite`: empties `out` first.

    Raises FeatherVitError for every error that a user can fix.
    """
    console = console or words_console()
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: continue the run, or start it again")
    for option, value in (("minutes", minutes), ("max_minutes", max_minutes)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{option} must be above 0, got {value}")
    if minutes is not None and (resume or "epochs" in fields):
        why = "the epochs of a run are chosen when it starts" if resume else "they exclude each other"
        raise ConfigError(f"minutes cannot be given with {'resume' if resume else 'epochs'}: {why}; leave one out")
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    out = expanded(out)
    settled = isinstance(config, Path)
    config = _of_a_run(config) if settled else config
    source = kept(data) if data is not None and not isinstance(data, (str, os.PathLike)) else None
    name = "arrays" if source is not None else whole(os.fsdecode(data or ""))
    with join(_device(config, out, resume, fields)) as group:
        if not group.is_main:
            console = type(console)(quiet=True)
        budget, reasons = None, []
        if resume:
            config = resumed(out, config, name, fields)
        else:
            keep_warmup, free = "optim.warmup_epochs" in fields, "epochs" not in {**edited(config), **fields}
            config, reasons = planned(config, source, name, fields, settled)
            if minutes is not None:
                budget = Budget(minutes, keep_warmup=keep_warmup)
            elif config.recipe in ADAPTIVE and free and not settled:
                budget = Budget(AT_MOST_MINUTES, exactly=False, keep_warmup=keep_warmup)
        with held(out, resume=resume, overwrite=overwrite) if group.is_main else nullcontext():
            for reason in reasons:
                say(console, f"  {reason}", 4)
            with own_randomness(choose_device(config.device)[0]):  # keeps the random state of the caller
                return _run(config, source, out, resume, budget, deadline, skip_unreadable, console, command, group)


def _of_a_run(path: Path) -> RunConfig:
    """Reads the configuration of a run. Raises ConfigError for a file that leaves fields to a recipe."""
    config = read_config(path)
    if config.img_size is None:
        raise ConfigError(
            f"{path} is not the configuration of a run: it lacks img_size; use --recipe with flags instead"
        )
    return config


def _device(config: RunConfig | str | None, out: Path, resume: bool, fields: dict[str, Any]) -> str:
    """Returns the device setting of the run. The processes of a run need it before they connect."""
    if resume and (out / "config.json").exists():
        config = read_config(out)
    return fields.get("device", config.device if isinstance(config, RunConfig) else "auto")


def pretrain(
    config: RunConfig | str | Path | None = None, *, out: str | Path, data: Any = None, **rest: Any
) -> Outcome:
    """Pre-trains a masked auto-encoder without labels and returns the outcome.

    If `config` is None, the default pre-training recipe of the data is used. `data` may be a folder with images at any
    depth, or an array of images without labels. The other arguments are as in `train`. To fine-tune the weights, call
    `train` with `start_from=OUT`.
    """
    if config is None and not rest.get("resume"):
        config = recipe_for(os.fsdecode(data) if isinstance(data, (str, os.PathLike)) else "", pretraining=True)
    begun = read_config(config) if isinstance(config, Path) else config
    if isinstance(config, str):
        begun = recipe(config)
    elif rest.get("resume") and (expanded(out) / "config.json").exists():
        begun = read_config(expanded(out))
    objective = rest.get("objective", begun.objective if begun else "reconstruction")
    if objective != "reconstruction":
        raise ConfigError(
            f"pretrain has the objective reconstruction, not {objective}; use train, or choose a mae recipe"
        )
    return train(config, out=out, data=data, **rest)


def _run(
    config: RunConfig,
    source: Any,
    out: Path,
    resume: bool,
    budget: Budget | None,
    deadline: float,
    skip_unreadable: bool,
    console: Console,
    command: str,
    group: Group,
) -> Outcome:
    note = partial(say, console)
    device, device_reason = choose_device(config.device)
    dtype, dtype_reason = choose_precision(config.precision, device)
    if resume:
        dtype_reason = "as before"
    seed(device, Chance(config.seed).number("initialisation"))
    if not group.is_main:
        group.wait()  # the first process downloads and decodes, then the others read the cache
    with decoding(console) as progress:
        # A resumed run skips what it skipped before: its state fits no other images.
        data = load_run_data(config, source, skip_unreadable=skip_unreadable or resume, progress=progress)
    if group.is_main:
        group.wait()
    config = replace(config, images=replace(config.images, scale=data.scale))  # stored with the weights
    check_channels(config, data.train.images.shape[1])
    if config.patience and data.val is None:
        raise ConfigError("patience has no effect here: there are no validation images; leave it out")
    check_memory(config, data.train.images.shape[1], len(data.train.class_names))
    fresh = not (resume and states(out))  # a run that stopped before its first state starts from the beginning
    named = named_weights(config.model) if fresh else ""
    if named:
        say(console, f"loading the weights {named} of timm, from the Hugging Face hub if they are not in its cache")
    try:
        channels, classes = data.train.images.shape[1], len(data.train.class_names)
        model = build_model(config, channels, classes, train=True, pretrained=bool(named))
        if config.arch is None:  # timm's models reject an image size only when they run
            model.eval()(torch.zeros(1, data.train.images.shape[1], config.img_size, config.img_size))
    except (RuntimeError, MemoryError, AssertionError, ValueError, OverflowError) as error:
        # torch also raises RuntimeError if memory is exhausted.
        raise ConfigError(f"{config.model} cannot be built with these settings: {error}") from error
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    if fresh and isinstance(encoder, Encoder) and encoder.data_dependent:
        most = min(5_000, 1 + (1 << 23) // config.img_size**2)  # evenly spaced images; fewer for large images
        some = data.train.images[:: -(-len(data.train) // most)]
        encoder.initialise_from(as_input(some, config))
    started = []
    if config.start_from and fresh:
        started = start_from(model, config.start_from, data.train.class_names)
        for line in known_validation(load_weights(config.start_from), config.start_from, config.data, data.val):
            say(console, f"warning: {line}")
    if fresh and not started:
        started = [
            f"start      the weights {named} of timm, except the classifier" if named else "start      from scratch"
        ]
    check_batch_norm(config, model, len(data.train), group.world)
    if config.precision == "auto" and device.type == "cpu":
        faster, dtype_reason = faster_on_cpu(model, config, data.train.images.shape[1])
        dtype = torch.float32 if group.any(not faster) else torch.bfloat16
        # Store the precision, because a resumed run may measure other times.
        config = replace(config, precision=str(dtype).removeprefix("torch."))
    lines = []
    if budget:
        timing = measure(config, data, model, device=device, dtype=dtype, note=note, group=group)
        config = budget.fit(config, timing)
        lines = [timing.line(config.epochs)]
    identity = {
        "command": command,
        "resumed": [],
        "config": to_dict(config),
        "data": "/".join(data.fingerprints().values()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shares": group.world * config.accumulate,
    }
    trainer = Trainer(config, data, model, device=device, dtype=dtype, note=note, group=group)
    loop = Loop(trainer, out, console=console, identity=identity, deadline=deadline)
    if resume:
        calibrated = _calibrated(out)
        loop.state.resume(note)  # writes the best weights of the state
        if trainer.progress.step >= config.epochs * trainer.steps_per_epoch:
            note(f"all {config.epochs} epochs of this run are done; --epochs makes it longer")
        elif calibrated:
            note("warning: the new weights have no calibration; run feathervit calibrate again after training")
    elif group.is_main:
        empty(out)
    loop.trackers.start(to_dict(config))
    if group.is_main:
        write_json(out / "config.json", to_dict(config))  # first, so that the run can be resumed from now on
        write_json(out / "splits.json", data.record)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    for line in [*banner(config, data, trainer, parameters, device_reason, dtype_reason), *lines, *started]:
        say(console, line, 11)

    with closing(loop.trackers):
        finished = loop.run()
        return conclude(loop, finished, note)


def _calibrated(out: Path) -> bool:
    """Returns whether the best weights of a run hold a calibration."""
    with suppress(CheckpointError):
        best = load_weights(out / "best.safetensors")
        return best.temperature != 1 or best.other is not None
    return False
