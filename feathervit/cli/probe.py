"""The verb `probe`."""

from __future__ import annotations

from dataclasses import dataclass

from .flags import LabelledFlags
from .printing import add_row, new_table, print_json, print_result


@dataclass
class Probe(LabelledFlags):
    """Measure frozen features of a classifier or a pre-training run with nearest neighbours and a linear classifier."""

    neighbours: int = 20
    """Number of nearest neighbours."""

    def execute(self) -> int:
        from ..evaluation.probe import probe as run

        result = run(
            self.checkpoint,
            self.data,
            neighbours=self.neighbours,
            device=self.device,
            skip_unreadable=self.skip_unreadable,
            reading=self.fields(),
        )
        if self.json:
            print_json({"checkpoint": self.checkpoint, **result})
            return 0
        table = new_table("features", f"{result['neighbours']} nearest neighbours", "linear classifier")
        for name, figures in result["tokens"].items():
            add_row(table, name, *(_accuracy(figures[kind], result["imbalanced"]) for kind in ("knn", "linear")))
        print_result(table)
        print_result(f"top-1 on {result['n']} {result['split']} images, fitted on {result['n_train']}", highlight=False)
        return 0


def _accuracy(figures: dict[str, float], imbalanced: bool) -> str:
    macro = f", macro {100 * figures['balanced_accuracy']:.2f} %" if imbalanced else ""
    return f"{100 * figures['top1']:.2f} %{macro}"
