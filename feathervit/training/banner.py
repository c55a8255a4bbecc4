"""Formats the lines that a run prints before its start and after its end."""

from __future__ import annotations

from pathlib import Path

import torch

from ..config import RunConfig
from ..data import DataSplits
from ..evaluation.confusion import macro_accuracy
from ..recipes import RECIPES
from ..results import RunResult
from .trainer import Trainer


def banner(
    config: RunConfig, data: DataSplits, trainer: Trainer, parameters: int, device: str, dtype: str
) -> list[str]:
    """Returns the lines before training: data, model, device and schedule, with reasons."""
    sizes = ", ".join(f"{n} {len(s)}" for n in ("train", "val", "test") if (s := getattr(data, n)) is not None)
    _, chans, stored, _ = data.train.images.shape
    world, micro = trainer.group.world, config.accumulate
    shares = f" ({world} processes x {micro} micro-steps)" if world * micro > 1 else ""
    patch = f", patch {config.patch_size}" if config.patch_size else ""
    fast = "; layers in their fast form for the CPU" if trainer.device.type == "cpu" else ""
    return [
        f"data       {config.data}: {sizes}; {len(data.train.class_names)} classes; stored at {stored} px, {chans} channels",
        *(f"           {note}" for note in data.notes),
        f"model      {config.model}: {parameters:,} parameters, {config.img_size} px{patch}{_halves(trainer)}",
        f"device     {trainer.device} ({device}); {_precision(config, trainer, dtype)}",
        *([] if trainer.feed.resident else [_on_the_host(data)]),
        f"compile    {trainer.compiled.mode} ({trainer.compile_reason}){fast}",
        f"training   {config.epochs} epochs of {trainer.steps_per_epoch} steps of {config.batch_size}{shares}; "
        f"{config.optim.name}, peak learning rate {trainer.peak_lr:.2e}; recipe {config.recipe or 'none'}",
        *(
            [f"           the warm-up of {config.optim.warmup_epochs:g} epochs is longer than the run"]
            if config.optim.warmup_epochs >= config.epochs
            else []
        ),
    ]


def _precision(config: RunConfig, trainer: Trainer, reason: str) -> str:
    """Returns the precision and its reason. If it is bfloat16, adds the precision of the recipe's source."""
    known = RECIPES.get(config.recipe)
    if trainer.dtype == torch.bfloat16 and known and known.trained_in:
        reason += f"; the source of {known.name} trained in {known.trained_in}"
    return f"{str(trainer.dtype).removeprefix('torch.')} ({reason})"


def _on_the_host(data: DataSplits) -> str:
    gigabytes = data.train.images.nbytes / 1e9
    return (
        f"           images stay in the host's memory: their {gigabytes:.1f} GB exceed half of the GPU's free memory; "
        "batches are copied ahead of their use"
    )


def _halves(trainer: Trainer) -> str:
    """Returns a note on the parameters of the encoder, because the decoder is dropped after training."""
    encoder = getattr(trainer.model, "encoder", None)
    return f"; {sum(p.numel() for p in encoder.parameters()):,} of them the encoder's" if encoder is not None else ""


def summary(result: RunResult, out: Path) -> str:
    """Returns the last line of a run: results, time, and the path of the weights."""
    masked = result.config["objective"] == "reconstruction"
    figures = [
        f"{name} masked MSE {split['masked_mse']:.5f} of {split['n']}"
        if masked
        else ", ".join(
            filter(None, [f"{name} top-1 {100 * split['top1']:.2f} % of {split['n']}", macro_accuracy(split)])
        )
        for name, split in (("validation", result.val), ("test", result.test))
        if split
    ]
    if not figures and masked:
        figures = [f"training masked MSE {result.best['train_masked_mse']:.5f}"]
    text = "; ".join(figures) or f"training top-1 {100 * result.best['train_top1']:.2f} % (no images were held out)"
    ended = "done" if result.finished else "stopped"
    return (
        f"{ended} in {result.minutes:.1f} min, {result.images_per_s:.0f} images/s (epoch {result.best['epoch']} kept): {text}. "
        f"Weights: {out / 'best.safetensors'}"
    )
