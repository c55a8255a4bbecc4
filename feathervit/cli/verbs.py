"""Lists the verbs by name: a dataclass of flags, whose method `execute` runs the verb. It imports its package when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from .benchmark import BenchmarkAugment, BenchmarkInfer, BenchmarkTrain
from .calibrate import Calibrate
from .completion import script
from .data import DataCache, DataCheck, DataShow
from .demo import Demo
from .evaluate import Evaluate, Predict
from .export import Export
from .models import Models, Recipes
from .plot import PlotAttention, PlotPatches, PlotPositions, PlotReconstructions, PlotRouting, Report
from .probe import Probe
from .results import ResultsTable
from .serve import Serve
from .study import StudyFlags
from .train import Pretrain, Train


@dataclass
class Completion:
    """Print a script that completes verbs and flags: eval "$(feathervit completion bash)"."""

    shell: Positional[Literal["bash", "zsh"]]
    """The shell: bash or zsh."""

    def execute(self) -> int:
        print(script(self.shell, VERBS))
        return 0


VERBS: dict[str, type] = {
    "demo": Demo,
    "pretrain": Pretrain,
    "train": Train,
    "evaluate": Evaluate,
    "calibrate": Calibrate,
    "predict": Predict,
    "probe": Probe,
    "export": Export,
    "serve": Serve,
    "report": Report,
    "models": Models,
    "recipes": Recipes,
    "data check": DataCheck,
    "data show": DataShow,
    "data cache": DataCache,
    "plot reconstructions": PlotReconstructions,
    "plot routing": PlotRouting,
    "plot attention": PlotAttention,
    "plot patches": PlotPatches,
    "plot positions": PlotPositions,
    "study": StudyFlags,
    "benchmark augment": BenchmarkAugment,
    "benchmark train": BenchmarkTrain,
    "benchmark infer": BenchmarkInfer,
    "results table": ResultsTable,
    "completion": Completion,
}

# Renamed verb -> its successor
SUCCESSORS = {
    "pictures": "it is now called plot: feathervit plot ...",
    "results reproduce": "a row is an arm of the study papers: feathervit study papers --arms ROW --out FOLDER",
    "results pack": "git archive packs the code, tar packs the data",
}
