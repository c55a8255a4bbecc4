"""`--to huggingface`: a folder as the Hugging Face hub wants it: config.json, model.safetensors, README.md (the model card).

`feathervit.load(FOLDER)` takes it back, as does timm's `create_model("local-dir:FOLDER", pretrained=True)`; `hf upload
OWNER/NAME FOLDER` publishes it, `hf download` brings it elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from .. import __version__
from ..checkpoint import load_weights, save_weights
from ..config import RunConfig, architecture, to_dict
from ..errors import FeatherVitError
from ..evaluation.inference import Predictor
from ..files import write_bytes
from ..models import described
from ..models.cost import cost
from ..results import RunResult, name_of, public_command, read_result, write_json
from .job import Job
from .verify import compare


def write_huggingface(job: Job, folder: Path) -> dict[str, Any]:
    """The folder; what comes back out of it is compared with the model."""
    config = public(job.predictor.config)
    save_weights(folder / "model.safetensors", dataclasses.replace(job.checkpoint, config=config))
    names = job.predictor.class_names
    found = cost(job.predictor.model, config.img_size, job.predictor.in_chans)
    card = {
        "library_name": "feathervit",
        "architecture": architecture(config.model),
        "num_classes": len(names),
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "model_args": _model_args(config, job.predictor.in_chans, len(names)),
        "pretrained_cfg": _pretrained_cfg(config, job.predictor.in_chans, len(names), job.predictor.model),
        "fit": config.images.fit,
        "temperature": job.predictor.temperature,
        "parameters": found.parameters,
        "macs": found.macs,
        "run": to_dict(config),
        "feathervit_version": __version__,
    }
    write_json(folder / "config.json", card)
    again = Predictor(load_weights(folder), folder)
    after = dataclasses.replace(job, predictor=again).before(job.checking)
    checked = compare(job.before(job.checking), after, job.checking.labels)
    if (folder / "README.md").exists():  # the licence may have been written into it
        job.say(f"  {folder / 'README.md'} is kept as it is; remove it to have the card written anew")
    else:
        text = model_card(job, card, checked, _result_of(job))
        write_bytes(folder / "README.md", text.encode(errors="backslashreplace"))
    return {
        "file": "model.safetensors",
        "bytes": (folder / "model.safetensors").stat().st_size,
        "split": job.checking.name,
        **checked,
        "min_agreement": 1.0,
        "passed": checked["agreement"] == 1.0,
    }


def _model_args(config: RunConfig, in_chans: int, num_classes: int) -> dict[str, Any]:
    """The words with which timm builds the model again."""
    sizes = {"img_size": config.img_size, "patch_size": config.patch_size}
    words = {"in_chans": in_chans, "num_classes": num_classes}
    if config.arch is not None:
        return {**words, **sizes, "config": to_dict(config.arch)}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    try:
        with torch.device("meta"):
            timm.create_model(architecture(config.model), **words, **sizes)
    except TypeError:  # of any image size
        return words
    return {**words, **sizes}


def _pretrained_cfg(config: RunConfig, in_chans: int, num_classes: int, model: nn.Module) -> dict[str, Any]:
    """What timm wants to know of the weights; for a model of its own with the names of the parts that it adapts."""
    theirs = getattr(model, "pretrained_cfg", {}) if config.arch is None else {}
    names = {key: theirs[key] for key in ("first_conv", "classifier", "fixed_input_size") if key in theirs}
    return {**described(config, in_chans, num_classes), **names}


def public(config: RunConfig) -> RunConfig:
    """The configuration without the folders of this machine: of paths the last name is left."""
    named = {field: name_of(getattr(config, field)) for field in ("data", "start_from", "teacher")}
    return dataclasses.replace(config, **named)


def _escaped(name: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(name.split()))


def model_card(job: Job, card: dict[str, Any], checked: dict[str, Any], result: RunResult | None) -> str:
    """README.md: what the model is, from what data by which recipe, its figures, its limits, its licence."""
    config = job.predictor.config
    data = _escaped(name_of(config.data))
    names = [_escaped(name) for name in job.predictor.class_names]
    split = _escaped(job.checking.name.rpartition("/")[2])
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    figures = [f"| {split}, {checked['n']} images checked when this folder was written | {_percent(checked['top1'])} |"]
    training = [f"- recipe: `{config.recipe or 'none'}`, seed {config.seed}, {config.epochs} epochs"]
    if result is not None:
        for name, found in (("validation", result.val), ("test", result.test)):
            if found:
                figures.append(f"| {name}, {found['n']} images, at the end of training | {_percent(found['top1'])} |")
        minutes = "" if result.minutes is None else f", {result.minutes:.1f} minutes"
        training += [
            f"- command: `{public_command(result.command)}`",
            f"- {result.data['n_train']} training images; fingerprint `{result.data['fingerprint']}`",
            f"- {result.machine['gpu'] or result.machine['cpu']}{minutes}, PyTorch {result.torch}",
        ]
    return "\n".join(
        [
            "---",
            "library_name: feathervit",
            "pipeline_tag: image-classification",
            "tags: [image-classification, vision-transformer, feathervit]",
            "---",
            "",
            f"# {config.model} on {data}",
            "",
            f"An image classifier of {card['parameters']:,} parameters ({card['macs'] / 1e6:.1f} million multiply-accumulates) "
            f"for images of {config.img_size} x {config.img_size} pixels, {job.predictor.in_chans} "
            f"channel{'s' * (job.predictor.in_chans > 1)}.",
            "",
            f"{len(names)} classes: {shown}.",
            "",
            "## Use",
            "",
            "```python",
            "import feathervit",
            "",
            'predictor = feathervit.load("FOLDER")  # this folder, wherever it is',
            'print(predictor.predict("picture.jpg")[0].label)',
            "```",
            "",
            "In timm:",
            "",
            "```python",
            "import feathervit.models",
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
            "```",
            "",
            "## Data and training",
            "",
            f"- data: {data}",
            *training,
            "",
            "## Figures",
            "",
            "| images | top-1 |",
            "| --- | --- |",
            *figures,
            "",
            "## Limits",
            "",
            "The model names one of its classes for any picture, also for one that shows none of them. It was measured on "
            f"images like those it was trained on; on others it may be worse. {_calibration(job.predictor.temperature)}",
            "",
            "## Licence",
            "",
            "The licence of these weights is for whoever publishes them to choose, and depends on that of the data; feathervit "
            "itself is Apache-2.0. Write it here and into the header (`license: ...`).",
            "",
        ]
    )


def _calibration(temperature: float) -> str:
    if temperature == 1:
        return "Its probabilities are not calibrated."
    return f"Its probabilities are calibrated on validation images by a temperature of {temperature:.3f}."


def _result_of(job: Job) -> RunResult | None:
    """result.json of the run, where it lies beside the weights."""
    try:
        return read_result(job.folder / "result.json")
    except FeatherVitError:
        return None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
