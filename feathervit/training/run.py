"""One run from a configuration to a run folder: data, model, banner, training, figures.

A run folder holds config.json, splits.json, metrics.csv, state.safetensors, last.safetensors, best.safetensors, of a
pre-training reconstructions/, and at the end result.json, report.html and report/. `train` is also the Python entrance,
`feathervit.train`.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..chance import Chance
from ..config import RunConfig
from ..data import DataSplits, ImageSet, load_data
from ..data.picture import as_input
from ..errors import ConfigError, FeatherVitError, RunFolderError
from ..evaluation.metrics import Metrics
from ..fields import to_dict
from ..files import clear_drafts, try_writing, write_bytes
from ..models import Encoder, MaskedAutoencoder, build_model
from ..pictures.report import report_at_end
from ..recipes import recipe, recipe_for
from ..results import RunResult, commit, machine, read_config, write_json
from .banner import banner, summary
from .checkpoint import STATES, drop_state, load_state, load_weights, states
from .distributed import Group, join
from .logging import decoding
from .loop import Trainer
from .planning import planned, resumed, whole
from .precision import faster_on_cpu
from .setup import check_channels, choose_device, choose_precision
from .transfer import start_from

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Outcome:
    """What became of a run. `result` is None when it was stopped before its end. `interrupted`: a signal asked to stop, which
    in the last step is too late for this run."""

    folder: Path
    finished: bool
    interrupted: bool
    result: RunResult | None


def train(
    config: RunConfig | str | None = None,
    *,
    out: str | Path,
    data: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    skip_unreadable: bool = False,
    console: Console | None = None,
    command: str = "feathervit.train(...)",
    **fields: Any,
) -> Outcome:
    """Trains a model and returns what became of it.

    `config`: a RunConfig, a recipe's name, or None for the recipe that fits the data. `data`: a name, a folder, or
    (images, labels) arrays. `fields` sets fields of the configuration by (dotted) name: `epochs=3`,
    `**{"optim.weight_decay": 0.1}`. `resume` goes on where the run in `out` stopped; `overwrite` empties `out` first.
    Raises FeatherVitError for whatever a user can mend.
    """
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: go on with a run, or start it anew")
    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"max_minutes must be above 0, got {max_minutes}")
    out = Path(out)
    source = data if data is not None and not isinstance(data, (str, Path)) else None
    name = "arrays" if source is not None else whole(str(data or ""))
    with join(_device(config, out, resume, fields)) as group:
        if not group.is_main:
            console = type(console)(quiet=True)
        elif out.is_dir():
            for folder in (out, out / "reconstructions", out / "report"):
                clear_drafts(folder)
        if resume:
            config = resumed(out, config, name, fields)
        else:
            config, reasons = planned(config, source, name, fields)
            new = group.is_main and _claim(out, overwrite)
            for reason in reasons:
                console.print(f"  {reason}", markup=False, highlight=False, soft_wrap=True)
        try:
            with torch.random.fork_rng():  # the caller's own randomness goes on as if nothing had been drawn
                return _run(config, source, out, resume, max_minutes, skip_unreadable, console, command, group)
        except FeatherVitError:
            if not resume and new:
                with suppress(OSError):  # there is something in it
                    out.rmdir()
            raise


def _device(config: RunConfig | str | None, out: Path, resume: bool, fields: dict[str, Any]) -> str:
    """The device that is asked for, which the processes of a run must know before they meet."""
    if resume and (out / "config.json").exists():
        config = read_config(out)
    return fields.get("device", config.device if isinstance(config, RunConfig) else "auto")


def pretrain(config: RunConfig | str | None = None, *, out: str | Path, data: Any = None, **rest: Any) -> Outcome:
    """Pre-trains a masked auto-encoder, for which no labels are needed, and returns what became of it.

    `config` None: the pre-training recipe that fits the data. `data` may be a folder of pictures in any folders inside, or
    images alone as an array. The rest as in `train`, which takes the weights up with `start_from=OUT`.
    """
    if config is None and not rest.get("resume"):
        config = recipe_for(str(data) if isinstance(data, (str, Path)) else "", pretraining=True)
    begun = config
    if isinstance(config, str):
        begun = recipe(config)
    elif rest.get("resume") and (Path(out) / "config.json").exists():
        begun = read_config(Path(out))
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
    max_minutes: float | None,
    skip_unreadable: bool,
    console: Console,
    command: str,
    group: Group,
) -> Outcome:
    device, device_reason = choose_device(config.device)
    dtype, dtype_reason = choose_precision(config.precision, device)
    torch.manual_seed(Chance(config.seed).number("initialisation"))
    if not group.is_main:
        group.wait()  # the first process downloads and decodes, the others find the cache
    with decoding(console) as progress:
        data = load_data(
            source if source is not None else config.data,
            img_size=config.img_size,
            images=config.images,
            split=config.split,
            skip_unreadable=skip_unreadable,
            progress=progress,
            labelled=config.objective != "reconstruction",
        )
    if group.is_main:
        group.wait()
    check_channels(config, data.train.images.shape[1])
    if config.patience and data.val is None:
        raise ConfigError("patience has no effect here: there are no validation pictures to look at; leave it out")
    _check_memory(config, data.train.images.shape[1], len(data.train.class_names))
    try:
        model = build_model(config, data.train.images.shape[1], len(data.train.class_names), train=True)
        if config.arch is None:  # timm's models say only when they run what sizes they cannot take
            model.eval()(torch.zeros(1, data.train.images.shape[1], config.img_size, config.img_size))
    except (RuntimeError, MemoryError, AssertionError, ValueError, OverflowError) as error:
        # The first is also torch's word for no memory.
        raise ConfigError(f"{config.model} cannot be built with these settings: {error}") from error
    fresh = not (resume and states(out))  # a run stopped before its first state begins again
    encoder = model.encoder if isinstance(model, MaskedAutoencoder) else model
    if fresh and isinstance(encoder, Encoder) and encoder.data_dependent:
        most = min(5_000, 1 + (1 << 23) // config.img_size**2)  # evenly spaced; fewer of large pictures
        some = data.train.images[:: -(-len(data.train) // most)]
        encoder.initialise_from(as_input(some, config))
    started = start_from(model, config.start_from) if config.start_from and fresh else []
    identity = {
        "config": to_dict(config),
        "data": "/".join(s.fingerprint() for s in (data.train, data.val, data.test) if s is not None),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shares": group.world * config.accumulate,
    }
    if config.precision == "auto" and device.type == "cpu":
        faster, dtype_reason = faster_on_cpu(model, config, data.train.images.shape[1])
        dtype = torch.float32 if group.any(not faster) else torch.bfloat16
        # A timing may fall out differently when the run resumes; its precision may not.
        config = replace(config, precision=str(dtype).removeprefix("torch."))
    trainer = Trainer(
        config,
        data,
        model,
        out,
        device=device,
        dtype=dtype,
        console=console,
        identity=identity,
        max_minutes=max_minutes,
        group=group,
    )
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if resume:
        _restore(trainer, out, identity, say)
    elif group.is_main:
        _empty(out)
    if group.is_main:
        write_json(out / "config.json", to_dict(config))  # first: from here on the run can be resumed
        write_json(out / "splits.json", data.record)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    for line in [*banner(config, data, trainer, parameters, device_reason, dtype_reason), *started]:
        say(line)

    finished = trainer.run()
    done, total = trainer.progress.step, config.epochs * trainer.steps_per_epoch
    trainer.save_weights("last", trainer.kept.state_dict(), done // trainer.steps_per_epoch, {})
    if trainer.progress.skipped:
        say(f"{trainer.progress.skipped} steps were skipped, their loss being no finite number")
    if not finished:
        say(
            f"stopped after step {done} of {total}; go on with: feathervit train --resume --out {shlex.quote(str(out))}"
        )
        return Outcome(out, False, trainer.interrupt.asked, None)
    if not group.is_main:
        return Outcome(out, True, trainer.interrupt.asked, None)
    result = _conclude(trainer, data, command)
    write_json(out / "result.json", result)
    say(summary(result, out))
    say(report_at_end(out, result, data, trainer.kept, trainer.device))
    return Outcome(out, True, trainer.interrupt.asked, result)


def _check_memory(config: RunConfig, channels: int, classes: int) -> None:
    """Raises ConfigError for a model of ours that does not fit into this machine: the kernel would end the process."""
    memory = machine()["memory_gib"]
    if config.arch is None or memory is None:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # nothing is allocated
        parameters = sum(p.numel() for p in build_model(config, channels, classes, train=True).parameters())
    needed = 4 * 4 * parameters / 2**30  # weights, gradients and two moments, 4 bytes each
    if needed > memory:
        raise ConfigError(
            f"{config.model} with these settings has {parameters:.3g} parameters; training needs {needed:,.0f} GiB of memory "
            f"for them and this machine has {memory:g}"
        )


def _conclude(trainer: Trainer, data: DataSplits, command: str) -> RunResult:
    """Figures of the chosen weights: the best on validation, or the last where that is asked for or nothing was held out."""
    config, out = trainer.config, trainer.folder
    rows = trainer.metrics.rows()
    if data.val is None or config.split.keep == "last":
        write_bytes(out / "best.safetensors", (out / "last.safetensors").read_bytes())
        best = rows[-1]
    else:
        best = next(row for row in rows if row["epoch"] == trainer.progress.best_epoch)
    trainer.kept.load_state_dict(load_weights(out / "best.safetensors").weights)
    val, test = (_figures(trainer, images) for images in (data.val, data.test))
    return RunResult(
        command=command,
        version=__version__,
        commit=commit(),
        machine=machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        device=str(trainer.device),
        precision=str(trainer.dtype).removeprefix("torch."),
        seed=config.seed,
        model=config.model,
        parameters=sum(p.numel() for p in trainer.kept.parameters()),
        recipe=config.recipe,
        data={
            "name": config.data,
            "fingerprint": data.train.fingerprint(),
            "n_train": len(data.train),
            "n_val": len(data.val) if data.val is not None else 0,
            "n_test": len(data.test) if data.test is not None else 0,
            "classes": len(data.train.class_names),
        },
        config=to_dict(config),
        epochs=rows,
        best=best,
        val=val,
        test=test,
        minutes=trainer.progress.seconds / 60,
        images_per_s=trainer.progress.images / max(trainer.progress.seconds, 1e-9),
        skipped=data.skipped,
        skipped_steps=trainer.progress.skipped,
    )


def _figures(trainer: Trainer, images: ImageSet | None) -> dict[str, Any] | None:
    found = trainer.measure(images) if images is not None else None
    return found.to_dict() if isinstance(found, Metrics) else found


# ---------------------------------------------------------------------------------------------------------------------
# The run folder


def _claim(out: Path, overwrite: bool) -> bool:
    """Makes the run folder and sees that it takes a file; leaves nothing in it, so that a mistake found later costs nothing.
    Whether the folder is new."""
    try:
        new = not out.exists()
        if out.exists() and any(out.iterdir()) and not overwrite:
            raise RunFolderError(
                f"{out} is not empty; go on with --resume, start anew with --overwrite, or name another"
            )
        out.mkdir(parents=True, exist_ok=True)
        try_writing(out)
        return new
    except OSError as error:
        raise RunFolderError(
            f"cannot use {out} as a run folder: {error.strerror or error}; it must be writable"
        ) from error


def _empty(out: Path) -> None:
    """Removes an earlier run. Only what a run writes is ever removed."""
    try:
        for pattern in (
            "config.json",  # first: a run without its state is not to be taken for one that was just begun
            *STATES,
            "best.safetensors",
            "last.safetensors",
            "reconstructions/*.png",
            "splits.json",
            "result.json",
            "report.html",
            "report/*.png",
            "metrics.csv",
            "tensorboard/events.*",
        ):
            for path in out.glob(pattern):
                path.unlink()
    except OSError as error:
        raise RunFolderError(f"cannot empty {out}: {error.strerror or error}; it must be writable") from error


def _restore(trainer: Trainer, out: Path, identity: dict[str, Any], say: Callable[[str], None]) -> None:
    if not states(out):
        say("the run was stopped before its first state: starting from the first step")
        if trainer.group.is_main:
            trainer.metrics.truncate(0)
        return
    tensors, meta, words = load_state(out)
    for word in words:
        say(word)
    if words:  # or the next state would push the whole one out for the damaged one
        trainer.group.wait()
        if trainer.group.is_main:
            drop_state(out)
    if meta.get("data") != identity["data"]:
        raise RunFolderError(
            f"the data has changed since the run in {out} was stopped ({trainer.config.data}: other files, labels or "
            "pixels); bring it back, or start a new run"
        )
    for key in ("torch", "threads", "shares"):
        if meta.get(key) != identity[key]:
            say(f"note: the run began with {key} {meta.get(key)}, now {identity[key]}: equal only up to rounding")
    trainer.restore(tensors, meta)
