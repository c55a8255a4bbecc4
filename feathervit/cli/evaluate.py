"""The verbs `evaluate` and `predict`."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Literal

from tyro.conf import Positional

from ..errors import ConfigError, DataWarning
from ..evaluation.confusion import confused_pairs, interval, macro_accuracy, worst_first
from ..streams import quiet_libraries
from .flags import CheckpointFlag, JsonFlag, LabelledFlags, MachineFlags
from .printing import add_row, new_table, other_line, print_json, print_result

PAIRS = 10  # number of printed pairs of confused classes


@dataclass
class Evaluate(LabelledFlags):
    """Evaluate a checkpoint on labelled images: accuracy, calibration, accuracy per class, most confused classes."""

    split: Literal["train", "val", "test"] | None = None
    """The split to use; if not given: test, else val, else all images."""
    flip: bool = False
    """Average the logits of each image and its mirror image."""

    def execute(self) -> int:
        from ..evaluation.evaluate import evaluate as run

        split, result = run(
            self.checkpoint, self.data, self.split, self.device, self.skip_unreadable, self.fields(), self.flip
        )
        if self.json:
            print_json({"checkpoint": self.checkpoint, "split": split, **result.to_dict()})
            return 0
        low, high = interval(result.top1, result.n)
        macro = macro_accuracy(result.to_dict()) or f"macro accuracy {100 * result.balanced_accuracy:.2f} %"
        print_result(
            f"{split}: top-1 {100 * result.top1:.2f} % of {result.n} images (95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f} %), top-{result.top5_k} {100 * result.top5:.2f} %, {macro}; "
            f"calibration error {100 * result.ece:.2f} %",
            highlight=False,
        )
        table = new_table("class", "recognised", "images", "most often predicted as")
        for name, share, n, other, times in worst_first(result):
            recognised = "" if share is None else f"{100 * share:.1f} %"
            add_row(table, name, recognised, str(n), f"{other} ({times})" if times else "")
        print_result(table)
        if pairs := confused_pairs(result)[:PAIRS]:
            table = new_table("most confused", "predicted as", "images")
            for true, predicted, times, n in pairs:
                add_row(table, true, predicted, f"{times} of {n}")
            print_result(table)
        return 0


@dataclass
class Predict(CheckpointFlag, MachineFlags, JsonFlag):
    """Predict the classes of image files. The checkpoint can also be named with --from."""

    images: Positional[tuple[str, ...]]
    """Image files, folders of them, or patterns such as 'photos/*.jpg'."""
    top: int = 3
    """Number of classes to name per image."""
    min_confidence: float | None = None
    """Answer "other" if the highest probability is below this, from 0 to 1 (the value of `calibrate` if not given)."""
    max_image_gib: float | None = None
    """Memory limit of one decoded image, in GiB (as in training if not given)."""
    draw: str | None = None
    """A folder for copies of the images with their labels drawn in."""
    csv: bool = False
    """Print comma-separated values on standard output."""

    def execute(self) -> int:
        import csv

        from ..evaluation.evaluate import predict as run

        if self.json and self.csv:
            raise ConfigError("--json and --csv exclude each other")
        if not self.images:
            raise ConfigError("no images named: give files or folders after the checkpoint")
        if self.top < 1:
            raise ConfigError(f"--top must be at least 1, got {self.top}")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"--min-confidence must be a share from 0 to 1, got {self.min_confidence}")
        with contextlib.ExitStack() as quiet:
            messages = []
            if self.json:  # put all messages into the JSON object, because both streams may go to one file
                messages = quiet.enter_context(warnings.catch_warnings(record=True))
                quiet.enter_context(quiet_libraries())
            predictions, failures, other = run(
                self.checkpoint, self.images, self.top, self.device, self.min_confidence, self.max_image_gib
            )
            if self.draw:
                from ..checkpoint import load_weights
                from ..plots.labelled import draw_predictions

                draw_predictions(predictions, self.draw, load_weights(self.checkpoint).config)
        if self.json:
            print_json(
                {
                    "predictions": [prediction.to_dict() for prediction in predictions],
                    "other": other and asdict(other),
                    "unreadable": failures,
                    "warnings": [str(w.message) for w in messages if issubclass(w.category, DataWarning)],
                }
            )
            return 1 if failures else 0
        for failure in failures:
            print(f"feathervit: {failure}", file=sys.stderr)
        if self.csv:
            out = csv.writer(sys.stdout, lineterminator="\n")
            out.writerow(["file", "rank", "class", "probability", "label"])
            for p in predictions:
                for rank, (name, share) in enumerate(zip(p.classes, p.probabilities, strict=True), 1):
                    out.writerow([p.source, rank, name, f"{share:.6f}", p.label])
            if other:
                print(f"feathervit: {other_line(asdict(other))}", file=sys.stderr)
        elif predictions:
            labelled = bool(other or self.min_confidence)
            table = new_table(
                "file", *["label"] * labelled, *(f"{n}." for n in range(1, len(predictions[0].classes) + 1))
            )
            for p in predictions:
                guesses = (f"{c} {100 * s:.1f} %" for c, s in zip(p.classes, p.probabilities, strict=True))
                add_row(table, p.source, *[p.label] * labelled, *guesses)
            print_result(table)
            if other:
                print_result(other_line(asdict(other)), highlight=False, soft_wrap=True)
        return 1 if failures else 0
