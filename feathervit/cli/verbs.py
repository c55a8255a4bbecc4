"""Lists the verbs by name: the dataclass of flags and the function of each. A verb imports its package when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .benchmark import (
    BenchmarkAugment,
    BenchmarkInfer,
    BenchmarkTrain,
    benchmark_augment,
    benchmark_infer,
    benchmark_train,
)
from .calibrate import Calibrate, calibrate
from .completion import Completion, completion
from .data import DataCache, DataCheck, DataShow, data_cache, data_check, data_show
from .demo import Demo, demo
from .evaluate import Evaluate, Predict, evaluate, predict
from .export import Export, export
from .models import Models, Recipes, models, recipes
from .plot import (
    PlotAttention,
    PlotPatches,
    PlotPositions,
    PlotReconstructions,
    PlotRouting,
    Report,
    plot_attention,
    plot_patches,
    plot_positions,
    plot_reconstructions,
    plot_routing,
    report,
)
from .probe import Probe, probe
from .results import ResultsTable, results_table
from .serve import Serve, serve
from .study import StudyFlags, study
from .train import Pretrain, Train, train


def _completion(args: Completion, _: dict[str, Any]) -> int:
    print(completion(args.shell, VERBS))
    return 0


Verb = tuple[type, Callable[[Any, dict[str, Any]], int]]
VERBS: dict[str, Verb] = {
    "demo": (Demo, demo),
    "pretrain": (Pretrain, train),
    "train": (Train, train),
    "evaluate": (Evaluate, evaluate),
    "calibrate": (Calibrate, calibrate),
    "predict": (Predict, predict),
    "probe": (Probe, probe),
    "export": (Export, export),
    "serve": (Serve, serve),
    "report": (Report, report),
    "models": (Models, models),
    "recipes": (Recipes, recipes),
    "data check": (DataCheck, data_check),
    "data show": (DataShow, data_show),
    "data cache": (DataCache, data_cache),
    "plot reconstructions": (PlotReconstructions, plot_reconstructions),
    "plot routing": (PlotRouting, plot_routing),
    "plot attention": (PlotAttention, plot_attention),
    "plot patches": (PlotPatches, plot_patches),
    "plot positions": (PlotPositions, plot_positions),
    "study": (StudyFlags, study),
    "benchmark augment": (BenchmarkAugment, benchmark_augment),
    "benchmark train": (BenchmarkTrain, benchmark_train),
    "benchmark infer": (BenchmarkInfer, benchmark_infer),
    "results table": (ResultsTable, results_table),
    "completion": (Completion, _completion),
}

# Removed verb -> its replacement
SUCCESSORS = {
    "pictures": "it is now called plot: feathervit plot ...",
    "results reproduce": "a row is an arm of the study papers: feathervit study papers --arms ROW --out FOLDER",
    "results pack": "git archive packs the code, tar packs the data",
}
