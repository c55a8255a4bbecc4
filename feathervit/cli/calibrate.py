"""The verb `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from .flags import LabelledFlags
from .printing import add_row, new_table, other_line, print_json, print_result


@dataclass
class Calibrate(LabelledFlags):
    """Fit a temperature on the validation split and store it with the weights, so that probabilities match accuracies.

    The verbs evaluate, predict and export apply it from then on. Accuracy does not change.
    """

    checkpoint: Positional[str]
    """A run folder (its best weights), or a weights file."""
    others: tuple[str, ...] = ()
    """Image files or folders outside all classes, to measure how many of them are still assigned a class."""

    def execute(self) -> int:
        from ..evaluation.calibration import calibrate as run

        result = run(self.checkpoint, self.data, self.device, self.skip_unreadable, self.fields(), self.others)
        if self.json:
            print_json(result)
            return 0
        text = f"temperature {result['temperature']:.3f}, fitted on val, stored in {result['checkpoint']}"
        print_result(text, markup=False, highlight=False, soft_wrap=True)
        table = new_table("split", "images", "NLL before", "after", "calibration error before", "after")
        for split in ("val", "test"):
            if split in result:
                before, after = result[split]["before"], result[split]["after"]
                nll = [f"{figures['nll']:.4f}" for figures in (before, after)]
                ece = [f"{100 * figures['ece']:.2f} %" for figures in (before, after)]
                add_row(table, split, str(result[split]["n"]), *nll, *ece)
        print_result(table)
        before, crossed = (result["val"][when]["ece"] for when in ("before", "cross_validated"))
        text = f"cross-validated on val: calibration error {100 * before:.2f} % before, {100 * crossed:.2f} % after"
        if crossed >= before:
            text += "; warning: the error does not fall, so these images are too few to show an improvement"
        print_result(text, highlight=False, soft_wrap=True)
        print_result(other_line(result["other"]), highlight=False, soft_wrap=True)
        return 0
