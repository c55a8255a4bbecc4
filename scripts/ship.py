"""Adds the weights of a finished run to the package: float16, with a card, and results in results/weights/NAME.json.

    feathervit train --recipe digits --threads 1 --seed 0 --out runs/digits-0      (and seeds 1, 2)
    python scripts/ship.py mlit_nano.digits runs/digits-0 runs/digits-1 runs/digits-2

With `--record FOLDER`, only the record FOLDER/NAME.json is written, for runs whose weights do not go into the package.

For runs of one command with several seeds, the script selects the run with the median validation accuracy. For an even number
of runs, it selects the lower of the two middle runs; among equal runs, the first. Test images are not used for the selection.
For a single run, the card says "one seed". Of a pre-training run, only the encoder is stored. If a run started from another
run, epochs, minutes and commands include those of that run. Minutes and commands also include those of a teacher.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from feathervit.checkpoint import load_weights, save_weights
from feathervit.evaluation.evaluate import evaluate
from feathervit.export.huggingface import public
from feathervit.files import write_bytes
from feathervit.results import RunResult, commit, name_of, public_command, read_result, spread, write_json
from feathervit.weights import FOLDER

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 1_400_000
STATISTICS = (
    "running_mean",
    "running_var",
    "num_batches_tracked",
)  # statistics of batch norm, stored but not parameters
DATA_LICENCES = {
    "digits": "CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
    "Repository; as it comes with scikit-learn)",
    "cifar100": "none stated by its authors, who ask for the citation (A. Krizhevsky, Learning Multiple Layers of Features "
    "from Tiny Images, 2009)",
    "cifar10": "none stated by its authors, who ask for the citation (A. Krizhevsky, Learning Multiple Layers of Features "
    "from Tiny Images, 2009)",
}


def main(name: str, runs: list[Path], records: Path = ROOT / "results" / "weights", weights: Path = FOLDER) -> None:
    found = [read_result(run / "result.json") for run in runs]
    pretrained = found[0].config["objective"] == "reconstruction"
    chosen = 0 if pretrained or len(found) == 1 else _median([result.val["top1"] for result in found])
    stored = load_weights(runs[chosen])
    taken = {k: v for k, v in stored.weights.items() if not pretrained or k.startswith("encoder.")}
    taken = {k: v.half() if v.is_floating_point() else v for k, v in taken.items()}
    weights.mkdir(exist_ok=True)
    file = weights / f"{name}.safetensors"
    save_weights(file, replace(stored, config=public(stored.config), weights=taken))
    if (size := file.stat().st_size) > MOST_BYTES and weights == FOLDER:
        file.unlink()
        raise SystemExit(f"{name}: {size:,} bytes exceed the package's limit of {MOST_BYTES:,}")
    record: dict[str, Any] = {
        "command": f"python scripts/ship.py {name} " + " ".join(run.name for run in runs),
        "commit": commit(),
        "torch": torch.__version__,
        "bytes": size,
        "parameters": sum(t.numel() for name, t in taken.items() if not name.endswith(STATISTICS)),
        "seed": found[chosen].seed,
        "runs": [_figures(run) for run in runs],
    }
    if not pretrained:
        _, half = evaluate(file, found[chosen].config["data"])
        _, flipped = evaluate(file, found[chosen].config["data"], flip=True)
        record["float16"] = {"test_top1": half.top1, "flip_test_top1": flipped.top1, "n": half.n}
    write_bytes(weights / f"{name}.md", card(name, record, found[chosen]).encode())
    records.mkdir(exist_ok=True)
    write_json(records / f"{name}.json", record)
    print(f"{file.name}: {size:,} bytes, seed {record['seed']}")


def _median(values: list[float]) -> int:
    """Returns the index of the median."""
    return values.index(statistics.median_low(values))


def _stages(run: Path, sources: tuple[str, ...] = ("start_from", "teacher")) -> dict[Path, RunResult]:
    """Returns the results of the runs that this run used, earliest first, and of the run. `sources` name fields of a run."""
    result = read_result(run / "result.json")
    before = [Path(result.config[name]) for name in sources if result.config[name]]
    used = [_stages(path, sources) for path in before if (path / "result.json").exists()]
    return {path: found for stages in used for path, found in stages.items()} | {run.resolve(): result}


def _figures(run: Path) -> dict[str, Any]:
    stages = _stages(run)
    result = stages[run.resolve()]
    splits = {"val": result.val, "test": result.test}
    figures = {f"{name}_top1": found["top1"] for name, found in splits.items() if found and "top1" in found}
    figures = figures or {k: v for k, v in result.best.items() if k.startswith("train_")}
    names = ("seed", "commit", "torch", "threads", "device", "machine")
    facts = {name: getattr(result, name) for name in names}
    facts["minutes"] = sum(stage.minutes for stage in stages.values())
    facts["epochs"] = sum(len(stage.epochs) for stage in _stages(run, ("start_from",)).values())
    facts["commands"] = [public_command(c) for stage in stages.values() for c in (stage.command, *stage.resumed)]
    facts["curves"] = [_curve(path, stage, run) for path, stage in stages.items()]
    return {**facts, **figures}


def _curve(path: Path, stage: RunResult, run: Path) -> dict[str, Any]:
    """Returns the accuracy on the augmented training images per epoch of one stage, and what it cost."""
    curve: dict[str, Any] = {
        "run": path.name,
        "teacher": path not in _stages(run, ("start_from",)),
        "img_size": stage.config["img_size"],
        "core_hours": stage.minutes * stage.threads / 60,
        "train_top1": [round(row["train_top1"], 4) for row in stage.epochs if "train_top1" in row],
    }
    return curve | ({"test_top1": stage.test["top1"]} if stage.test and "top1" in stage.test else {})


def card(name: str, record: dict[str, Any], result: RunResult) -> str:
    """Returns the text of the card NAME.md: use, data, recipe, seeds, results, limits, licence."""
    config, data = result.config, name_of(result.config["data"])
    trained = next(run for run in record["runs"] if run["seed"] == record["seed"])
    pretrained = "float16" not in record
    kind = (
        "An encoder pre-trained without labels" if pretrained else f"A classifier of {result.data['classes']} classes"
    )
    use = (
        f'feathervit.create_model("{name}", pretrained=True, num_classes=10)  # a new head'
        if pretrained
        else (f'feathervit.load("{name}").predict("image.png")')
    )
    rows = []
    for run in record["runs"]:
        accuracies = [f"{100 * run[k]:.2f} %" if k in run else "" for k in ("val_top1", "test_top1")]
        suffix = " (these weights)" if run["seed"] == record["seed"] else ""
        rows.append(f"| {run['seed']}{suffix} | " + " | ".join(accuracies) + " |")
    tops = [100 * run["test_top1"] for run in record["runs"] if "test_top1" in run]
    if pretrained:
        losses = [f"{k.removeprefix('train_')} {v:.5f}" for k, v in record["runs"][0].items() if k.startswith("train_")]
        figures = [f"On the training images, last epoch: {', '.join(losses)}."]
    else:
        several = len(tops) > 1
        chosen = "the seed has the median validation accuracy" if several else "one seed"
        mean = f"Test, mean of {len(tops)} seeds: {spread(tops)}. " if several else ""
        held_out = f"{result.val['n']} validation and " if result.val else ""
        figures = [
            f"Top-1 of {held_out}{result.test['n']} test images; {chosen}.",
            "",
            "| Seed | Validation | Test |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"{mean}These weights, rounded to float16: {100 * record['float16']['test_top1']:.2f} % of "
            f"{record['float16']['n']}. With logits averaged over each image and its mirror image "
            f"(`feathervit evaluate --flip`): {100 * record['float16']['flip_test_top1']:.2f} %.",
        ]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{kind}: `{config['model']}`, {record['parameters']:,} parameters in float16 ({record['bytes']:,} bytes), "
            f"images of {config['img_size']} x {config['img_size']} pixels in patches of {config['patch_size']}.",
            "",
            "```python",
            "import feathervit",
            "",
            use,
            "```",
            "",
            f"`feathervit train --from {name} --data FOLDER --out RUN` starts from these weights.",
            "",
            "## Data and training",
            "",
            f"- data: {data}, {result.data['n_train']:,} training images; fingerprint `{result.data['fingerprint']}`",
            f"- recipe: `{config['recipe']}`, {trained['epochs']} epochs, seed {record['seed']}",
            *(f"- command: `{command}`" for command in trained["commands"]),
            f"- time: {trained['minutes']:.0f} minutes for these commands; threads: {trained['threads']}",
            f"- {result.machine['gpu'] or result.machine['cpu']}, PyTorch {result.torch}, commit {result.commit}",
            "",
            "## Results",
            "",
            *figures,
            "",
            "## Limits",
            "",
            "The results apply to images like the training images; on other images the accuracy may be lower. "
            + (
                "The model has no classes until it is fine-tuned."
                if pretrained
                else "The model predicts one of its classes for any image, even if the image shows none of them. Its "
                "probabilities are not calibrated."
            ),
            "",
            "## Licence",
            "",
            f"These weights: Apache-2.0, as the package. The data: {DATA_LICENCES.get(data, 'see its source')}.",
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--record", type=Path, help="write only the record NAME.json, to this folder")
    args = parser.parse_args()
    if args.record:
        with tempfile.TemporaryDirectory() as folder:
            main(args.name, args.runs, args.record, Path(folder))
    else:
        main(args.name, args.runs)
