"""Properties of every configuration, folder, file of tensors and image (hypothesis, with the same examples every time)."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from feathervit import checkpoint
from feathervit.config import RunConfig, SplitConfig, changed, from_dict, to_dict, with_fields
from feathervit.data.finding import find
from feathervit.data.image import header, normalise, to_stored
from feathervit.data.sources import load_data
from feathervit.data.splits import hold_out, thin_out
from feathervit.errors import CheckpointError, ConfigError, FeatherVitError

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # no shrinking of failures, which takes minutes
    suppress_health_check=[HealthCheck.too_slow],  # machines are shared
)
some = settings(few, max_examples=12)

# --- configurations

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False, width=64))
st.register_type_strategy(int, st.integers(-(2**63), 2**63))
configurations = st.from_type(RunConfig)


@few
@given(configurations)
def test_a_configuration_survives_json(config):
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


@few
@given(configurations, st.data())
def test_a_dotted_name_sets_that_field_and_no_other(config, data):
    part = data.draw(st.sampled_from(["", "images", "split", "augment", "optim", "loss", "mae"]))
    holder = getattr(config, part) if part else config
    name = data.draw(st.sampled_from([f.name for f in dataclasses.fields(holder)]))
    value = data.draw(st.from_type(typing.get_type_hints(type(holder))[name]))
    field = f"{part}.{name}" if part else name
    direct = dataclasses.replace(holder, **{name: value})
    direct = dataclasses.replace(config, **{part: direct}) if part else direct
    found = with_fields(config, **{field: value})
    assert found == direct
    assert all(key == field or key.startswith(f"{field}.") for key in changed(config, found))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@few
@given(configurations, json_values, st.data())
def test_any_json_for_a_field_is_accepted_or_refused(config, value, data):
    stored = to_dict(config)
    name = data.draw(st.sampled_from(sorted(stored)))
    stored[name] = value
    try:
        found = from_dict(RunConfig, stored)
    except ConfigError:
        return
    again = from_dict(RunConfig, json.loads(json.dumps(to_dict(found))))
    assert repr(again) == repr(found)  # NaN does not equal itself


# --- sources

names = st.text("abcxyz019 _-.é", min_size=1, max_size=6).filter(lambda name: name.strip(". ") == name)
trees = st.dictionaries(
    names.map(lambda name: f"c{name}"),  # never the name of a split
    st.dictionaries(names, st.booleans(), min_size=1, max_size=7),  # file -> whether it is nested
    min_size=2,
    max_size=4,
)


@some
@given(trees, st.floats(0, 0.9), st.integers(0, 2**32 - 1))
def test_every_image_is_found_once_and_split_reproducibly(tree, fraction, seed):
    with tempfile.TemporaryDirectory() as at, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERVIT_CACHE", f"{at}/cache")
        root, wanted = Path(at) / "root", {}
        for name, files in tree.items():
            for number, (file, deeper) in enumerate(files.items()):
                path = root / name / (f"more/{file}.png" if deeper else f"{file}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (3, 3), number).save(path)
                wanted[path.relative_to(root).as_posix()] = name
        found = find(str(root))
        assert list(found.class_names) == sorted(tree)
        train = found.splits["train"]
        assert dict(zip(train.sources, (found.class_names[i] for i in train.labels), strict=True)) == wanted
        assert len(train.sources) == len(wanted)
        arguments = {"img_size": 4, "split": SplitConfig(val_fraction=fraction, seed=seed)}
        first, again = load_data(str(root), **arguments), load_data(str(root), **arguments)
        sets = [s for s in (first.train, first.val) if s is not None]
        together = [source for s in sets for source in s.sources]
        assert sorted(together) == sorted(wanted)
        assert first.record == again.record
        for s in sets:
            assert [s.class_names[i] for i in s.labels] == [wanted[source] for source in s.sources]


@few
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_hold_out_is_stratified(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held, _, _ = hold_out(labels, SplitConfig(val_fraction=fraction, seed=seed))
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert set(labels[kept]) == set(range(len(counts)))  # every class stays in train
    if len(held):
        share = len(held) / sum(count for count in counts if count > 1)
        inside = np.bincount(labels[held], minlength=len(counts))
        for count, held_out in zip(counts, inside, strict=True):
            assert held_out == 0 if count == 1 else abs(held_out - share * count) < 2
    few_, _ = thin_out(labels, SplitConfig(train_per_class=3, seed=seed))
    assert np.bincount(labels[few_]).tolist() == [min(3, count) for count in counts]


# --- checkpoints

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    values = torch.tensor(draw(st.lists(st.integers(0, 100), min_size=1, max_size=9)))
    size = int(np.prod(shape))
    return values.repeat(size)[:size].reshape(shape).to(draw(st.sampled_from(DTYPES)))


contents = st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), tensors(), max_size=5)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and torch.equal(a[name], b[name])
        for name in a
    )


def unpacked(data: bytes):
    with tempfile.TemporaryDirectory() as at:
        path = Path(at) / "x.safetensors"
        path.write_bytes(data)
        return checkpoint._read(path)


@few
@given(
    contents,
    st.dictionaries(st.text(max_size=5).filter(lambda n: n != "format"), st.integers() | st.text(), max_size=3),
)
def test_tensors_survive_a_file(content, meta):
    found, stored = unpacked(checkpoint._pack(content, meta))
    assert same(found, content)
    assert stored == {"format": checkpoint.FORMAT, **meta}


@few
@given(contents, st.data())
def test_damage_and_truncation_are_noticed(content, data):
    """Only a meaningless change may pass, such as a space in the header. The content is then unchanged."""
    whole = checkpoint._pack(content, {"epoch": 3})
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    try:
        found, meta = unpacked(damaged)
    except CheckpointError:
        return
    assert same(found, content)
    assert meta == {"format": checkpoint.FORMAT, "epoch": 3}


@few
@given(st.binary(max_size=300))
def test_random_bytes_are_not_a_checkpoint(data):
    with pytest.raises(CheckpointError):
        unpacked(data)


# --- images

MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "I;16"]


@few
@given(
    st.sampled_from(MODES),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from(["crop", "pad", "stretch"]),
)
def test_any_image_becomes_a_tensor_of_the_requested_size(mode, width, height, size, channels, fit):
    x_CSS = to_stored(Image.new(mode, (width, height)), size, channels, fit)
    assert (x_CSS.shape, x_CSS.dtype) == ((channels, size, size), torch.uint8)
    assert normalise(x_CSS, (0.5,), (0.5,)).abs().max() <= 1


@few
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]), st.data())
def test_a_damaged_image_is_read_or_refused(kind, data):
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind)
    whole = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for read in (header, lambda file: to_stored(file, 8)):
        try:
            found = read(bytes(whole))
        except FeatherVitError as error:
            assert str(error)
        else:
            assert isinstance(found, tuple) or found.shape == (3, 8, 8)
