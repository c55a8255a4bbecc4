"""Writes the tables of README and docs from the code and the results; `python docs/figures.py` calls it.

Markers in a page name the tables, and `<!-- end -->` ends each of them:
- `<!-- NAME -->`: a table of this file, for one page;
- `<!-- results: NAME -->`: a table of the papers' rows and of repeated runs, in any page;
- `<!-- study: NAME -->`: results/NAME/table.md, in any page;
- `<!-- arms: NAME -->`: test accuracy of the arms of results/NAME, in any page.
tests/test_readme.py fails if a table is out of date.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import compatibility
import torch
from accuracy import points_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from feathervit.checkpoint import load_weights
from feathervit.config import MODELS, ConvMLPConfig, MoEConfig, resolve
from feathervit.models import create_model
from feathervit.models.cost import cost
from feathervit.recipes import ADAPTIVE, RECIPES
from feathervit.recipes.folder import INPUTS, LARGE_SET, MASKED_EPOCHS, MASKED_VIEWS, SMALL_SET, STEM_INPUTS
from feathervit.recipes.folder import _sizes as sizes_for
from feathervit.results import markdown_table, read_result, spread
from feathervit.studies import STUDIES
from feathervit.studies.tables import tables as tables_of_papers
from feathervit.weights import shipped_file

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
CLASSES = 100
PARTS = {  # part of a model -> prefixes of its modules' names, without "blocks.N." for modules of a layer
    "patches and positions": ("patch_embed", "pos_embed", "readout"),
    "attention": ("attn",),
    "gates": ("ffn.gate",),
    "feed-forward": ("ffn",),
    "norms": ("norm",),
    "head": ("head",),
}


def part_of(name: str) -> str:
    """Returns the part of a model that a parameter or module belongs to: the first of PARTS with a prefix of its name."""
    inside = re.sub(r"^blocks\.\d+\.", "", name)
    return next(part for part, words in PARTS.items() if inside.startswith(words))


def budget(name: str) -> tuple[Counter[str], Counter[str]]:
    """Returns the parameters and multiply-accumulates of a named model by part, counted as in `models/cost.py`."""
    model, size = create_model(name, num_classes=CLASSES), MODELS[name].img_size
    parameters: Counter[str] = Counter()
    for path, values in model.named_parameters():
        parameters[part_of(path)] += values.numel()
    twin = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, 3, size, size, device="meta"))
    macs: Counter[str] = Counter()
    within = {"": "", **{path: path for path, _ in twin.named_modules()}}
    for path, by_operator in counter.get_flop_counts().items():
        inside = within.get(path.partition(".")[2], "")
        if re.fullmatch(r"patch_embed|head|blocks\.\d+\.(attn|ffn|ffn\.gate)", inside):
            macs[part_of(inside)] += sum(by_operator.values()) // 2
    macs["feed-forward"] -= macs["gates"]  # the feed-forward's count includes the gates
    return parameters, macs


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    return markdown_table(head, [tuple(map(str, row)) for row in rows], left=len(head))


def models_table() -> str:
    rows = []
    for name, known in MODELS.items():
        config, found = known.config, cost(create_model(name, num_classes=CLASSES), known.img_size)
        attention, ffn = config.attention, config.feedforward
        if not config.depth:
            hidden = "none"
        elif isinstance(ffn, MoEConfig):
            hidden = f"{'-'.join(map(str, ffn.experts))} experts, {ffn.hidden_first} to {ffn.hidden_last}"
        else:
            kind = "depth-wise MLP" if isinstance(ffn, ConvMLPConfig) else "MLP"
            hidden = f"{kind}, {int(ffn.ratio * config.dim)}"
        heads = f"{attention.heads} / {attention.kv_heads}" if config.depth else "none"
        sizes = f"{known.img_size} px, {known.patch_size} px"
        costs = (f"{found.parameters:,}", f"{found.macs / 1e6:.0f}")
        rows.append((f"`{name}`", config.dim, config.depth, heads, hidden, config.readout, sizes, *costs))
    head = ("Model", "Width", "Layers", "Heads / key-value", "Feed-forward, hidden size", "Read-out", "Image, patch")
    return table((*head, "Parameters", "MMACs"), rows)


def recipes_table() -> str:
    rows = []
    for name, known in RECIPES.items():
        config = resolve(known.config)
        chosen = name in ADAPTIVE
        patch = "" if config.patch_size is None else f", {config.patch_size} px"
        sizes = "from the images" if chosen else f"{config.img_size} px{patch}"
        model = "from the images" if name == "mae_folder" else f"`{config.model}`"
        epochs = "from the images" if chosen else config.epochs
        what = (config.data or "your own", model, sizes, epochs, config.batch_size)
        rows.append((f"`{name}`", config.objective, *what, known.source))
    head = ("Recipe", "Objective", "Data", "Model", "Image, patch", "Epochs", "Batch", "Source")
    return table(head, rows)


def sizes_table() -> str:
    """Returns image and patch size by the median short side of the images, as the folder recipes choose them."""
    sides = sorted({*STEM_INPUTS, *(size for size, _ in INPUTS)})
    ends = [f"under {sides[1]} px"]
    ends += [f"{a} to {b - 1} px" for a, b in itertools.pairwise(sides[1:])]
    ends += [f"{sides[-1]} px and more"]
    weights = load_weights(shipped_file("feather_xxs.cifar100")).config
    trained = (weights.img_size, weights.patch_size)
    rows = []
    for side, end in zip(sides, ends, strict=True):
        scratch = [sizes_for(side, {}, "feather_xxs", few=few) for few in (True, False)]
        found = (sizes_for(side, {}, "feather_xxs", trained), *scratch, sizes_for(side, {}, "mlit_xxs"))
        rows.append((end, *(f"{size} px, {patch} px" for size, patch in found)))
    few = f"`feather` from scratch, under {SMALL_SET:,} images"
    heads = ("From `feather_xxs.cifar100`: image, patch", few, "`feather` from scratch, more images", "Other models")
    return table(("Median short side", *heads), rows)


def budgets_table() -> str:
    """Returns model and images shown by number of training images, as the folder recipe of pre-training chooses them."""
    ends = (f"under {SMALL_SET:,}", f"{SMALL_SET:,} to {LARGE_SET - 1:,}", f"{LARGE_SET:,} and more")
    rows = [(end, f"`{name}`", f"{MASKED_VIEWS[name]:,}") for end, name in zip(ends, MASKED_VIEWS, strict=True)]
    least, most = MASKED_EPOCHS
    return table(("Training images", "Model of `pretrain`", f"Images shown ({least} to {most:,} epochs)"), rows)


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def accuracies(study: str) -> dict[str, list[dict[str, Any]]]:
    """Returns arm -> its finished cells in the results of a study."""
    found = result(f"{study}/study")
    finished = [cell for cell in found["cells"] if cell["status"] == "finished"]
    return {arm: [cell for cell in finished if cell["arm"] == arm] for arm in found["arms"]}


def percent(shares: list[float]) -> str:
    """Returns the mean (range) of fractions, in %."""
    return spread([100 * share for share in shares], ".1f")


def peers_table() -> str:
    """Returns the test accuracy of our model and of the ResNet with the same training time: the study `peers`."""
    rows = []
    found = [(arm, cells) for arm, cells in accuracies("peers-bfloat16").items() if cells]
    for arm, cells in sorted(found, key=lambda item: -statistics.mean(cell["test_top1"] for cell in item[1])):
        epochs = " + ".join(map(str, cells[0]["epochs"]))
        accuracy = percent([cell["test_top1"] for cell in cells])
        rows.append((arm, f"{cells[0]['parameters']:,}", epochs, len(cells), accuracy))
    return table(("Model and training", "Parameters", "Epochs", "Seeds", "Test top-1, %"), rows)


def weights_table() -> str:
    """Returns the test accuracy from scratch and from the package's weights: the studies `transfer` and `defaults`."""
    names = {
        "20 per class of sign-digits": "signed digits, 20 images per class",
        "flowers102": "Flowers-102 at 64 px, 10 images per class",
        "20 per class of cifar10": "CIFAR-10, 20 images per class",
        "2000 of cifar10": "CIFAR-10, 200 images per class",
        "sign-digits": "signed digits, all images",
    }
    found, rows = accuracies("transfer") | accuracies("defaults"), []
    ways = {
        "From the weights": ("fine-tuned", "the defaults"),
        "From scratch": ("scratch", "feather_xxs from scratch"),
        "ResNet from scratch": ("ResNet-18 a quarter as wide",),
    }
    for data, name in names.items():
        cells = [[cell for arm in arms for cell in found.get(f"{arm} on {data}", [])] for arms in ways.values()]
        rows.append((name, *(percent([cell["test_top1"] for cell in some]) if some else "" for some in cells)))
    return table(("Test top-1, %", *ways), rows)


def arms_table(study: str) -> str:
    rows = [(arm, percent([cell["test_top1"] for cell in cells])) for arm, cells in accuracies(study).items() if cells]
    return table(("Arm", "Test top-1, %"), rows)


def repeated_runs_table() -> str:
    """Returns the accuracy of commands that scripts/seeds.py repeated."""
    rows = []
    for name in ("digits", "sign-digits"):
        runs = [read_result(path) for path in sorted((RESULTS / name).glob("seed-*.json"))]
        minutes = statistics.mean(run.minutes for run in runs)
        top1 = percent([run.test["top1"] for run in runs])
        rows.append((f"`results/{name}`", runs[0].model, f"{runs[0].parameters:,}", len(runs), top1, f"{minutes:.1f}"))
    return table(("Results", "Model", "Parameters", "Seeds", "Test top-1, %", "Minutes"), rows)


def few_labels_table() -> str:
    """Returns the accuracy of the demo with ten labels per class, over its seeds."""
    found = result("demo")["rows"]
    names = {
        "scratch": "from scratch",
        "fine_tuned": "pre-trained without labels first",
        "raw_pixel_1nn": "nearest neighbour in raw pixels",
    }
    rows = [(text, percent([row["top1"][name] for row in found])) for name, text in names.items()]
    return table(("Training", f"Test top-1, %, of {len(found)} seeds"), rows)


def mixture_table() -> str:
    """Returns the speed of the mixture layer against literal dispatch."""
    found = result("moe")
    names = {"train": "layer, forward and backward", "infer": "layer, inference"}
    rows = [(text, f"{found['summary'][kind]['geometric_mean']:.2f} x") for kind, text in names.items()]
    rows += [(f"training step of `{row['model']}`", f"{row['step_ratio']:.2f} x") for row in found["steps"]]
    return table(("What", "Time of literal dispatch divided by ours"), rows)


def steps_table() -> str:
    """Returns the time of a training step of this version against an earlier one."""
    rows = [
        (name, f"{row['before_ms']:.0f}", f"{row['after_ms']:.0f}", f"{row['ratio']:.2f} x")
        for name, row in result("step")["rows"].items()
    ]
    return table(("Step", "Before, ms", "After, ms", "Speed-up"), rows)


def training_speed_table() -> str:
    found = [result(f"train_{name}")["rows"][-1] for name in ("1_process", "2_processes")]
    rows = [(f"`{r['model']}`", r["batch_size"], r["processes"], f"{r['images_per_s']:.0f}") for r in found]
    return table(("Model", "Batch", "Processes of one thread", "Images per second"), rows)


def augmentation_table() -> str:
    """Returns images per second of the augmentation, and the ratio to the fastest loop over images."""
    found = result("augment")
    ours = {(r["threads"], r["size"]): r["images_per_second"] for r in found["rows"] if r["name"] == "feathervit"}
    ratios = {(s["threads"], s["size"]): s["ratio"] for s in found["summary"]}
    sizes = sorted({size for _, size in ratios})
    rows = [
        (threads, *(f"{ours[threads, size]:,.0f} ({ratios[threads, size]:.1f} x)" for size in sizes))
        for threads in sorted({threads for threads, _ in ratios})
    ]
    return table(("Threads", *(f"{size} px" for size in sizes)), rows)


def decoding_table() -> str:
    found = result("decode")
    rows = [
        ("images per second", f"{found['pictures_per_s']:.1f}"),
        ("minutes for 3,000 images", f"{found['seconds_for_3000'] / 60:.1f}"),
        ("peak memory, MB", f"{found['peak_mb']:.0f}"),
        ("of this, before the first image, MB", f"{found['peak_mb_before_the_first']:.0f}"),
    ]
    return table(("What", "Measured"), rows)


def inference_table(name: str) -> str:
    """Returns size, and latency of one image on one thread, for each model and form of a result file."""
    names = {"eager": "eager", "plain": "plain export", "onnx": "`--to onnx`", "int8": "`--to int8`"}
    found = result(name)["rows"]
    forms = [form for form in names if form in found[0]["latency_ms"]]
    rows = []
    for row in found:
        sizes = [f"{row['bytes'][form] / 1e6:.2f}" for form in ("onnx", "int8")]
        times = [f"{row['latency_ms'][form]['1']:.2f}" for form in forms]
        rows.append((row["model"], f"{row['parameters']:,}", f"{row['macs'] / 1e6:.0f}", *sizes, *times))
    head = ("model", "parameters", "MMACs", "MB", "MB, int8", *(f"{names[form]}, ms" for form in forms))
    return table(head, rows)


def studies_table() -> str:
    return table(("Study", "Question"), [(f"`{name}`", study.question) for name, study in STUDIES.items()])


TABLES = {  # page -> name of the table -> the function that writes it
    "../README.md": {"from-weights": weights_table, "peers": peers_table},
    "compatibility.md": {
        "timm": lambda: table(*compatibility.timm_tests()),
        "exports": lambda: table(*compatibility.exports()),
    },
    "models.md": {"models": models_table, "forms": lambda: table(*compatibility.forms())},
    "recipes.md": {"recipes": recipes_table},
    "images.md": {"sizes": sizes_table},
    "pretraining.md": {"budgets": budgets_table},
    "studies.md": {"studies": studies_table},
    "results.md": {"points": lambda: points_table(RESULTS)},
    "measured.md": {
        "repeated-runs": repeated_runs_table,
        "few-labels": few_labels_table,
        "mixture": mixture_table,
        "steps": steps_table,
        "training-speed": training_speed_table,
        "augmentation": augmentation_table,
        "decoding": decoding_table,
    },
    "deploying.md": {
        "infer-36": lambda: inference_table("infer_36"),
        "infer-96": lambda: inference_table("infer_96"),
        "infer-feather-36": lambda: inference_table("infer_feather_36"),
    },
}
PAGES = ("../README.md", *sorted(path.name for path in HERE.glob("*.md")))


def with_tables(page: str) -> str:
    """Returns the text of a page with up-to-date tables."""
    text = (HERE / page).read_text()
    makers = {
        "results": lambda name: tables_of_papers(RESULTS)[name],
        "study": lambda name: (RESULTS / name / "table.md").read_text().strip(),
        "arms": arms_table,
    }
    for kind, make in makers.items():
        pattern = rf"(<!-- {kind}: ([\w-]+) -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, make=make: f"{m[1]}\n{make(m[2])}\n\n{m[3]}", text, flags=re.DOTALL)
    for name, write in TABLES.get(page, {}).items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, write=write: f"{m[1]}\n{write()}\n\n{m[2]}", text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{page} has {found} places for the table {name!r}")
    return text
