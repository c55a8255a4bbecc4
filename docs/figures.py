"""Draws the figures of the documentation and writes its tables, from the code and the results: python docs/figures.py

Markers in a page name the tables, and `<!-- end -->` ends each of them:
- `<!-- NAME -->`: a table of this file, for one page;
- `<!-- results: NAME -->`: a table of the papers' rows and of repeated runs, in any page;
- `<!-- study: NAME -->`: results/NAME/table.md, in any page.
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

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from feathervit.config import MODELS, ConvMLPConfig, MoEConfig, SwiGLUConfig, resolve
from feathervit.models import MaskedAutoencoder, create_model
from feathervit.models.cost import cost
from feathervit.models.feedforward import expert_count, hidden_size
from feathervit.recipes import RECIPES
from feathervit.recipes.folder import INPUTS, LARGE_SET, MASKED_EPOCHS, MASKED_VIEWS, SMALL_SET, STEM_INPUTS
from feathervit.recipes.folder import _sizes as sizes_for
from feathervit.studies import STUDIES
from feathervit.studies.tables import tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
CLASSES = 100
PARTS = {  # a part of a model, and the beginning of its modules' names inside the model (inside a layer for the middle ones)
    "patches and positions": ("patch_embed", "pos_embed", "readout"),
    "attention": ("attn",),
    "gates": ("ffn.gate",),
    "feed-forward": ("ffn",),
    "norms": ("norm",),
    "head": ("head",),
}


def part_of(name: str) -> str:
    """The part of a model that a parameter or module belongs to: the first of PARTS with a prefix of its name."""
    inside = re.sub(r"^blocks\.\d+\.", "", name)
    return next(part for part, words in PARTS.items() if inside.startswith(words))


def budget(name: str) -> tuple[Counter[str], Counter[str]]:
    """Parameters and multiply-accumulates of a named model by part, counted as in `models/cost.py`."""
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
    macs["feed-forward"] -= macs["gates"]  # counted inside it
    return parameters, macs


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def models_table() -> str:
    rows = []
    for name, known in MODELS.items():
        config, found = known.config, cost(create_model(name, num_classes=CLASSES), known.img_size)
        attention, ffn = config.attention, config.feedforward
        if isinstance(ffn, MoEConfig):
            hidden = f"{'-'.join(map(str, ffn.experts))} experts, {ffn.hidden_first} to {ffn.hidden_last}"
        else:
            kind = "depth-wise MLP" if isinstance(ffn, ConvMLPConfig) else "MLP"
            hidden = f"{kind}, {int(ffn.ratio * config.dim)}"
        heads = f"{attention.heads} / {attention.kv_heads}"
        sizes = f"{known.img_size} px, {known.patch_size} px"
        costs = (f"{found.parameters:,}", f"{found.macs / 1e6:.0f}")
        rows.append((f"`{name}`", config.dim, config.depth, heads, hidden, config.readout, sizes, *costs))
    head = ("Model", "Width", "Layers", "Heads / key-value", "Feed-forward, hidden size", "Read-out", "Image, patch")
    return table((*head, "Parameters", "MMACs"), rows)


def recipes_table() -> str:
    rows = []
    for name, known in RECIPES.items():
        config = resolve(known.config)
        chosen = name in ("folder", "mae_folder")
        sizes = "by the images" if chosen else f"{config.img_size} px, {config.patch_size} px"
        model, epochs = ("by the images",) * 2 if chosen else (f"`{config.model}`", config.epochs)
        what = (config.data or "your own", model, sizes, epochs, config.batch_size)
        rows.append((f"`{name}`", config.objective, *what, known.source))
    head = ("Recipe", "Objective", "Data", "Model", "Image, patch", "Epochs", "Batch", "Source")
    return table(head, rows)


def sizes_table() -> str:
    """Image and patch size by the median short side of the images, as the folder recipes choose them."""
    sides = sorted({*STEM_INPUTS, *(size for size, _ in INPUTS)})
    ends = [f"under {sides[1]} px"]
    ends += [f"{a} to {b - 1} px" for a, b in itertools.pairwise(sides[1:])]
    ends += [f"{sides[-1]} px and more"]
    rows = []
    for side, end in zip(sides, ends, strict=True):
        found = (sizes_for(side, {}, model) for model in ("feather_xxs", "mlit_xxs"))
        rows.append((end, *(f"{size} px, {patch} px" for size, patch in found)))
    return table(("Median short side", "`feather` models: image, patch", "Other models: image, patch"), rows)


def budgets_table() -> str:
    """Model and images shown by the number of training images, as the folder recipe of pre-training chooses them."""
    ends = (f"under {SMALL_SET:,}", f"{SMALL_SET:,} to {LARGE_SET - 1:,}", f"{LARGE_SET:,} and more")
    rows = [(end, f"`{name}`", f"{MASKED_VIEWS[name]:,}") for end, name in zip(ends, MASKED_VIEWS, strict=True)]
    least, most = MASKED_EPOCHS
    return table(("Training images", "Model of `pretrain`", f"Images shown ({least} to {most:,} epochs)"), rows)


def peers_table() -> str:
    """Test accuracy of our models and of peers with the same training time: the study `peers`."""
    found = json.loads((RESULTS / "peers" / "study.json").read_text())
    rows = []
    for arm in found["arms"]:
        cells = [cell for cell in found["cells"] if cell["arm"] == arm]
        top1 = [100 * cell["test_top1"] for cell in cells]
        epochs = " + ".join(map(str, cells[0]["epochs"]))
        accuracy = f"{statistics.mean(top1):.1f} ({min(top1):.1f} to {max(top1):.1f})"
        rows.append((arm, f"{cells[0]['parameters']:,}", epochs, accuracy))
    return table(("Model and training", "Parameters", "Epochs", "Test top-1, %"), rows)


def studies_table() -> str:
    return table(("Study", "Question"), [(f"`{name}`", study.question) for name, study in STUDIES.items()])


TABLES = {  # page -> name of the table -> what writes it
    "../README.md": {"peers": peers_table},
    "models.md": {"models": models_table},
    "recipes.md": {"recipes": recipes_table},
    "images.md": {"sizes": sizes_table, "budgets": budgets_table},
    "studies.md": {"studies": studies_table},
}


PAGES = ("../README.md", *sorted(path.name for path in HERE.glob("*.md")))


def with_tables(page: str) -> str:
    """The text of a page with up-to-date tables."""
    text = (HERE / page).read_text()
    if "<!-- results:" in text:
        made = tables(RESULTS)
        pattern = r"(<!-- results: ([\w-]+) -->\n\n).*?(\n\n<!-- end -->)"
        text = re.sub(pattern, lambda m: m[1] + made[m[2]] + m[3], text, flags=re.DOTALL)
    text = re.sub(
        r"(<!-- study: ([\w-]+) -->\n\n).*?(\n\n<!-- end -->)",
        lambda m: m[1] + (RESULTS / m[2] / "table.md").read_text().strip() + m[3],
        text,
        flags=re.DOTALL,
    )
    for name, write in TABLES.get(page, {}).items():
        pattern = rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end -->)"
        text, found = re.subn(pattern, lambda m, write=write: m[1] + write() + m[2], text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{page} has {found} places for the table {name!r}")
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def draw_hidden(plt) -> None:
    """The hidden size of Eq. 15 and the experts of each layer of the models with experts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3), layout="constrained")
    for name, known in MODELS.items():
        ffn, depth = known.config.feedforward, known.config.depth
        if isinstance(ffn, (MoEConfig, SwiGLUConfig)):
            layers = range(1, depth + 1)
            sizes = [hidden_size(i, depth, ffn.hidden_first, ffn.hidden_last) for i in range(depth)]
            left.plot(layers, sizes, marker="o", markersize=3, label=name)
            right.step(layers, [expert_count(i, depth, ffn.experts) for i in range(depth)], where="mid", label=name)
    left.set(xlabel="layer", ylabel="hidden size of an expert", ylim=(0, None), title="Eq. 15")
    right.set(xlabel="layer", ylabel="experts", ylim=(0, 5.5), yticks=range(6), title="experts by thirds of the depth")
    left.legend(frameon=False)
    save(figure, "hidden")


def draw_budget(plt) -> None:
    """The shares of the parts in the parameters and multiply-accumulates of the named models."""
    names = list(MODELS)[::-1]
    found = {name: budget(name) for name in names}
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True, layout="constrained")
    for kind, axis in enumerate(axes):
        totals = [sum(found[name][kind].values()) for name in names]
        start = [0.0] * len(names)
        for part in PARTS:
            shares = [100 * found[name][kind][part] / total for name, total in zip(names, totals, strict=True)]
            axis.barh(names, shares, left=start, label=part, height=0.7)
            start = [a + b for a, b in zip(start, shares, strict=True)]
        for name, total in zip(names, totals, strict=True):
            axis.text(101, name, f"{total / 1e6:.3g} M", va="center", fontsize=8)
        axis.set(
            xlim=(0, 116), xlabel=f"% of the {('parameters', 'multiply-accumulates')[kind]}", xticks=range(0, 101, 25)
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS), frameon=False)
    save(figure, "budget")


def draw_masks(plt) -> None:
    """A digit under four masks."""
    from feathervit.data import load_data
    from feathervit.recipes import recipe

    config = resolve(recipe("mae_digits"))
    encoder = create_model("mlit_nano", config=config.arch, img_size=16, patch_size=2, in_chans=1, num_classes=0)
    model = MaskedAutoencoder(encoder, config.mae)
    image = load_data("digits", img_size=16).test.images[:1].float()
    image = nn.functional.interpolate(image, 16, mode="bilinear", antialias=True) / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    kept = 64 - model.masked_patches
    figure, axes = plt.subplots(1, 5, figsize=(8.6, 2), layout="constrained")
    axes[0].imshow(image[0, 0], cmap="gray")
    axes[0].set_title("image")
    for axis in axes[1:]:
        patches = model.patchify(image)
        hidden = model.draw(1, image.device, generator)[:, kept:]
        patches[0, hidden[0]] = float("nan")
        axis.imshow(model.unpatchify(patches)[0, 0], cmap="gray", vmin=-1, vmax=1)
        axis.set_facecolor("#c8d6e5")
        axis.set_title(f"{kept} of 64 patches")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    save(figure, "masks")


def save(figure, name: str) -> None:
    figure.savefig(HERE / "figures" / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "feathervit", "font.size": 9})  # the same file each time
    import matplotlib.pyplot as plt

    (HERE / "figures").mkdir(exist_ok=True)
    for draw in (draw_hidden, draw_budget, draw_masks):
        draw(plt)
    for page in PAGES:
        text = with_tables(page)
        (HERE / page).write_text(text)


if __name__ == "__main__":
    main()
