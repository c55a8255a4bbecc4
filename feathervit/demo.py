"""The whole way on handwritten digits: train, evaluate on images held out from the start, predict a few of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import load_data
from .evaluation.inference import load
from .evaluation.metrics import raw_pixel_knn
from .recipes import recipe
from .training.run import train

if TYPE_CHECKING:
    from rich.console import Console

SHADES = " .:-=+*#%@"


def run(out: Path, seed: int, console: Console) -> dict[str, Any]:
    """Trains the `digits` recipe into `out` and returns its test figures beside the raw-pixel neighbours'."""
    config = recipe("digits")
    outcome = train(config, out=out, overwrite=True, console=console, seed=seed, command="feathervit demo")
    if outcome.result is None:
        return {"finished": False}
    splits = load_data(config.data, img_size=config.img_size, images=config.images, split=config.split)
    test = splits.test
    neighbours = raw_pixel_knn(splits.train.images, splits.train.labels, test.images, test.labels, k=3)
    found = outcome.result.test
    console.print(
        f"\nheld-out top-1 {100 * found['top1']:.2f} % of {found['n']} digits; "
        f"raw pixels, 3 nearest neighbours: {100 * neighbours:.2f} %",
        highlight=False,
    )
    predictor = load(out)
    shown = range(0, len(test), len(test) // 4)[:4]
    guesses = predictor.predict(test.images[list(shown)], top=2)
    for i, guess in zip(shown, guesses, strict=True):
        for row in test.images[i, 0].tolist():
            console.print("    " + "".join(2 * SHADES[v * (len(SHADES) - 1) // 255] for v in row), highlight=False)
        names = ", ".join(f"{c} ({100 * p:.1f} %)" for c, p in zip(guess.classes, guess.probabilities, strict=True))
        console.print(f"  a {test.class_names[test.labels[i]]}, taken for {names}\n", highlight=False)
    return {
        "finished": True,
        "test": {"split": "test", "n": found["n"], "top1": found["top1"], "top5": found["top5"]},
        "raw_pixel_3nn": {"split": "test", "n": found["n"], "top1": neighbours},
        "minutes": outcome.result.minutes,
        "out": str(out),
    }
