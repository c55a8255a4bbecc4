"""Lists the verbs by name: a dataclass of flags, whose method `execute` runs the verb. It imports its package when it runs."""

from __future__ import annotations

from .benchmark import BenchmarkAugment, BenchmarkInfer, BenchmarkTrain
from .calibrate import Calibrate
from .completion import Completion
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
