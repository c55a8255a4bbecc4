"""Pre-trains on handwritten digits without labels, then trains on ten labels per class, fine-tuned and from scratch.

Both trainings use the same labels, recipe and epochs. The demo prints their accuracy on held-out images, and the accuracy of
the nearest labelled neighbour in raw pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.neighbors import KNeighborsClassifier

from .data import ImageSet, load_run_data
from .evaluation.inference import load
from .recipes import recipe
from .training.train import pretrain, train

if TYPE_CHECKING:
    from rich.console import Console

SHADES = " .:-=+*#%@"


def run(out: Path, seed: int, console: Console) -> dict[str, Any]:
    """Trains three runs in `out`: pretrained, scratch, fine-tuned. Returns their results, with accuracies as fractions.

    `seed` also selects the labelled images.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False)

    config = recipe("few_digits")
    config = replace(config, seed=seed, split=replace(config.split, seed=seed))
    common = {"overwrite": True, "console": console, "command": "feathervit demo"}
    say("1. Pre-training without labels: three quarters of each image are hidden, and the model reconstructs them")
    outcomes = [pretrain(recipe("mae_digits"), out=out / "pretrained", seed=seed, **common)]
    if outcomes[-1].finished:
        say("\n2. Training on ten labels per class, from scratch")
        outcomes.append(train(config, out=out / "scratch", **common))
    if outcomes[-1].finished:
        say("\n3. Training on the same labels, from the pre-trained weights")
        outcomes.append(train(replace(config, start_from=str(out / "pretrained")), out=out / "fine-tuned", **common))
    if not outcomes[-1].finished:
        return {"finished": False}
    first, scratch, tuned = (outcome.result for outcome in outcomes)
    splits = load_run_data(config)
    labelled, test = splits.train, splits.test
    pixels = [part.images.flatten(1).float().numpy() for part in (labelled, test)]
    neighbour = KNeighborsClassifier(1).fit(pixels[0], labelled.labels.numpy())
    top1 = {
        "raw_pixel_1nn": float(neighbour.score(pixels[1], test.labels.numpy())),
        "scratch": scratch.test["top1"],
        "fine_tuned": tuned.test["top1"],
    }
    say(f"\ntop-1 on {len(test)} held-out digits, with {len(labelled)} labels:")
    names = ("nearest neighbour in raw pixels", "from scratch", "pre-trained, then fine-tuned")
    for name, value in zip(names, top1.values(), strict=True):
        say(f"  {name:<32} {100 * value:.2f} %")
    _show(out / "fine-tuned", test, say)
    return {
        "finished": True,
        "seed": seed,
        "split": "test",
        "n": len(test),
        "labels": len(labelled),
        "top1": top1,
        "masked_mse": first.test["masked_mse"],
        "minutes": sum(result.minutes for result in (first, scratch, tuned)),
        "threads": tuned.threads,
        "torch": tuned.torch,
        "commit": tuned.commit,
        "machine": tuned.machine,
    }


def _show(model: Path, test: ImageSet, say: Callable[[str], None]) -> None:
    """Prints four digits as characters, with the model's predictions."""
    shown = test.some(4)
    guesses = load(model).predict(shown.images, top=2)
    for i, guess in enumerate(guesses):
        say("")
        for row in shown.images[i, 0].tolist():
            say("    " + "".join(2 * SHADES[v * (len(SHADES) - 1) // 255] for v in row))
        names = ", ".join(f"{c} ({100 * p:.1f} %)" for c, p in zip(guess.classes, guess.probabilities, strict=True))
        say(f"  a {shown.class_names[shown.labels[i]]}, predicted: {names}")
