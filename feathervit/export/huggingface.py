"""`--to huggingface`: writes a folder for the Hugging Face hub: config.json, model.safetensors, README.md (model card).

`feathervit.load(FOLDER)` loads it. After `import feathervit.models`, timm's `create_model("local-dir:FOLDER", pretrained=True)`
and transformers' `AutoModelForImageClassification.from_pretrained("FOLDER")` also load it. `--push OWNER/NAME` uploads it.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import HfApi
from torch import Tensor, nn

from .. import __version__
from ..checkpoint import Checkpoint, load_weights, save_weights
from ..config import RunConfig, architecture, to_dict
from ..errors import CheckpointError, ConfigError, FeatherVitError
from ..evaluation.inference import logits
from ..files import write_bytes
from ..models import described
from ..models.cost import cost
from ..models.readout import classifiers
from ..models.starting import head_weights
from ..results import RunResult, name_of, public_command, read_result, write_json
from .job import Job
from .verify import compare

FILES = ("config.json", "model.safetensors", "README.md")
CLOSE = 0.01  # largest difference of a probability; the same temperature is included, so only rounding differs

CARD = """\
---
library_name: feathervit
pipeline_tag: image-classification
tags: [image-classification, timm, transformers, feathervit]
---

# {title}

An image classifier of {parameters} parameters ({macs} million multiply-accumulates) \
for images of {side} x {side} pixels, {channels}.

{classes}

## Use

```python
import feathervit

predictor = feathervit.load("FOLDER")  # the downloaded folder
print(predictor.predict("image.jpg")[0].label)
```

In timm and transformers:

```python
import feathervit.models  # registers the architecture in timm
import timm
from transformers import pipeline

model = timm.create_model("{source}", pretrained=True)
classify = pipeline("image-classification", model="{place}")
```

## Data and training

{training}

## Results

| images | top-1 |
| --- | --- |
{figures}

## Limits

The model predicts one of its classes for any image, even if the image shows none of them. \
The results apply to images like the training images; on other images the accuracy may be lower. \
{calibration}

## Licence

The publisher chooses the licence of these weights, which depends on the licence of the data. \
feathervit itself is Apache-2.0. Write the licence here and into the header (`license: ...`).
"""


def push(folder: Path, repository: str) -> str:
    """Uploads the files of an exported folder to OWNER/NAME on the hub. Returns the address.

    Creates the repository if needed. The token is that of `hf auth login`, or HF_TOKEN. Raises ConfigError if the hub rejects
    the upload or is not reachable.
    """
    api = HfApi(library_name="feathervit", library_version=__version__)
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message=f"feathervit {__version__}",
        )
    except Exception as error:  # the type of error depends on the network, the hub and the HTTP library
        why = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"cannot push to {repository}: {why}; the folder {folder} is complete; log in with `hf auth login` and export "
            f"again, or run: hf upload {repository} {folder}"
        ) from error
    return str(address)


def write_huggingface(job: Job, folder: Path) -> dict[str, Any]:
    """Writes the folder, compares it with the model, as timm loads it, and returns the results for export.json."""
    config = public(job.predictor.config)
    stored = _with_temperature(dataclasses.replace(job.checkpoint, config=config), job.predictor.model)
    save_weights(folder / "model.safetensors", stored)
    names = job.predictor.class_names
    costs = cost(job.predictor.model, config.img_size, job.predictor.in_chans)
    card = {
        "library_name": "feathervit",
        "architecture": architecture(config.model),
        "num_classes": len(names),
        "label_names": list(names),
        "model_args": _model_args(config, job.predictor.in_chans),
        "pretrained_cfg": _pretrained_cfg(config, job.predictor.in_chans, len(names), job.predictor.model),
        "fit": config.images.fit,
        "temperature": stored.temperature,
        "parameters": costs.parameters,
        "macs": costs.macs,
        "run": to_dict(config),
        "feathervit_version": __version__,
    }
    write_json(folder / "config.json", card)
    checked = compare(job.before(job.checking), _in_timm(folder, job.checking.pixels), job.checking.labels)
    if (folder / "README.md").exists():  # the user may have added the licence
        job.say(f"  {folder / 'README.md'} is kept; remove it to get a new card")
    else:
        text = model_card(job, card, checked, _result_of(job))
        write_bytes(folder / "README.md", text.encode(errors="backslashreplace"))
    return {
        "file": "model.safetensors",
        "bytes": (folder / "model.safetensors").stat().st_size,
        **checked,
        "min_agreement": 1.0,
        "passed": checked["agreement"] == 1.0 and checked["largest_difference"] < CLOSE,
    }


def _with_temperature(checkpoint: Checkpoint, model: nn.Module) -> Checkpoint:
    """Divides the weights of linear classifiers by the temperature, because timm and transformers do not read it.

    Returns other checkpoints unchanged.
    """
    if not all(isinstance(head, nn.Linear) for head in classifiers(model)):
        return checkpoint
    names = head_weights(model)
    weights = {n: w / checkpoint.temperature if n in names else w for n, w in checkpoint.weights.items()}
    return dataclasses.replace(checkpoint, weights=weights, temperature=1.0)


def _in_timm(folder: Path, images_NCRR: Tensor) -> np.ndarray:
    """Returns the probabilities [N, K] of the exported folder, loaded with timm. Raises CheckpointError."""
    stored = load_weights(folder)
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # the type depends on the model and on the version of timm
        raise CheckpointError(f"timm cannot load {folder}: {' '.join(str(error).split())[:300]}") from error
    z_NK = logits(model, images_NCRR, stored.config, torch.device("cpu"))
    return (z_NK / stored.temperature).softmax(-1).numpy()


def _model_args(config: RunConfig, in_chans: int) -> dict[str, Any]:
    """Returns timm's arguments for the model, except the number of classes, which is a separate field of config.json."""
    sizes = {"img_size": config.img_size, "patch_size": config.patch_size}
    options = {"in_chans": in_chans}
    if config.arch is not None:  # by field, because transformers uses the name "config"
        return {**options, **sizes, **to_dict(config.arch)}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    try:
        with torch.device("meta"):
            timm.create_model(architecture(config.model), **options, **sizes)
    except TypeError:  # the model accepts any image size
        return options
    return {**options, **sizes}


def _pretrained_cfg(config: RunConfig, in_chans: int, num_classes: int, model: nn.Module) -> dict[str, Any]:
    """Returns timm's configuration of the weights; for models of timm, also the names of the layers that timm adapts."""
    timm_cfg = getattr(model, "pretrained_cfg", {}) if config.arch is None else {}
    names = {key: timm_cfg[key] for key in ("first_conv", "classifier", "fixed_input_size") if key in timm_cfg}
    return {**described(config, in_chans, num_classes), **names}


def public(config: RunConfig) -> RunConfig:
    """Returns the configuration without folders of this machine: only the last component of each path."""
    named = {field: name_of(getattr(config, field)) for field in ("data", "start_from", "teacher")}
    return dataclasses.replace(config, **named)


def _escaped(name: str) -> str:
    """Escapes the characters that Markdown and HTML interpret."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(name.split()))


def model_card(job: Job, card: dict[str, Any], checked: dict[str, Any], result: RunResult | None) -> str:
    """Returns the text of README.md: model, data, recipe, results, limits, licence."""
    place = job.push or "FOLDER"
    source = "hf-hub" if job.push else "local-dir"
    config, channels = job.predictor.config, job.predictor.in_chans
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
            *(f"- command: `{public_command(command)}`" for command in (result.command, *result.resumed)),
            f"- {result.data['n_train']} training images; fingerprint `{result.data['fingerprint']}`",
            f"- {result.machine['gpu'] or result.machine['cpu']}{minutes}, PyTorch {result.torch}",
        ]
    return CARD.format(
        title=f"{config.model} on {data}",
        parameters=f"{card['parameters']:,}",
        macs=f"{card['macs'] / 1e6:.1f}",
        side=config.img_size,
        channels=f"{channels} channel{'s' * (channels > 1)}",
        classes=f"{len(names)} classes: {shown}.",
        source=f"{source}:{place}",
        place=place,
        training="\n".join([f"- data: {data}", *training]),
        figures="\n".join(figures),
        calibration=_calibration(job.predictor.temperature, card["temperature"]),
    )


def _calibration(temperature: float, left: float) -> str:
    """Returns a sentence on the temperature. `left`: the part that the weights do not include, 1 or the temperature."""
    if temperature == 1:
        return "Its probabilities are not calibrated."
    where = (
        "The weights of the classifier include it."
        if left == 1
        else "feathervit divides the logits by it; in timm and transformers, divide them yourself."
    )
    return f"Its probabilities are calibrated on validation images by a temperature of {temperature:.3f}. {where}"


def _result_of(job: Job) -> RunResult | None:
    """Reads result.json of the run, if it is beside the weights."""
    try:
        return read_result(job.folder / "result.json")
    except FeatherVitError:
        return None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
