"""Ends a run: evaluates the selected weights, writes the result and the report, and prints the findings."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoint import load_weights
from ..config import to_dict
from ..data import ImageSet
from ..evaluation.findings import MOST, findings, limits
from ..evaluation.inference import accuracy_and_loss
from ..evaluation.metrics import Metrics
from ..files import write_bytes
from ..plots.report import report_at_end
from ..results import RunResult, commit, machine, write_json
from .banner import summary
from .display import say
from .loop import Loop
from .trainer import Trainer


@dataclass
class Outcome:
    """The outcome of a run. `result` is None if the run was stopped in its first epoch.

    `interrupted`: a signal requested a stop. If it arrived in the last step, the run is nevertheless finished.
    """

    folder: Path
    finished: bool
    interrupted: bool
    result: RunResult | None


def conclude(loop: Loop, finished: bool, note: Callable[[str], None]) -> Outcome:
    """Writes the last weights, the result and the report of a run. Prints the findings.

    A run that stopped in its first epoch has no metrics, and gets neither result nor report.
    """
    trainer, out = loop.trainer, loop.folder
    config, data = trainer.config, trainer.data
    done, per_epoch = trainer.progress.step, trainer.steps_per_epoch
    total = config.epochs * per_epoch
    loop.state.save_weights("last", trainer.kept.state_dict())
    if trainer.progress.skipped:
        note(f"{trainer.progress.skipped} steps were skipped because their loss was not finite")
    if finished and done < total:
        note(
            f"stopped early after epoch {done // per_epoch} of {config.epochs}: no better validation result in "
            f"{config.patience} epochs (patience)"
        )
    if not finished:
        note(
            f"stopped after step {done} of {total}; continue with: "
            f"feathervit train --resume --out {shlex.quote(str(out))}"
        )
    result = None
    if trainer.group.is_main and loop.metrics.rows():
        result = _result(loop, finished)
        write_json(out / "result.json", result)
        note(summary(result, out))
        causes: list[str] = []
        if config.objective != "reconstruction":
            some = data.train.some(MOST)
            top1, *_ = accuracy_and_loss(trainer.kept, some, config, trainer.device, trainer.dtype)
            causes, more = limits(result, data, top1)
            for line in findings(result, causes, more, out):
                say(loop.console, line, 11)
        elif finished:
            note(f"next       feathervit train --from {shlex.quote(str(out))} --data FOLDER --out RUN")
        note(report_at_end(out, result, data, trainer.kept, trainer.device, causes))
        loop.trackers.report(out / "report.html")
    loop.trackers.finished = finished
    return Outcome(out, finished, loop.interrupt.asked, result)


def _result(loop: Loop, finished: bool) -> RunResult:
    """Returns the result with the selected weights: best validation result, or last if set or without validation images."""
    trainer, out, rows = loop.trainer, loop.folder, loop.metrics.rows()
    config, data = trainer.config, trainer.data
    if data.val is None or config.split.keep == "last":
        write_bytes(out / "best.safetensors", (out / "last.safetensors").read_bytes())
        best = rows[-1]
    else:
        best = next(row for row in rows if row["epoch"] == trainer.progress.best_epoch)
    trainer.kept.load_state_dict(load_weights(out / "best.safetensors").weights)
    val, test = (_figures(trainer, images) for images in (data.val, data.test))
    prints = data.fingerprints()
    return RunResult(
        command=loop.state.identity["command"],
        resumed=loop.state.identity["resumed"],
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
            "fingerprint": prints["train"],
            "fingerprints": prints,
            "sources": data.fingerprints(pixels=False),
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
        finished=finished,
    )


def _figures(trainer: Trainer, images: ImageSet | None) -> dict[str, Any] | None:
    metrics = trainer.measure(images) if images is not None else None
    return metrics.to_dict() if isinstance(metrics, Metrics) else metrics
