"""The plots of a model: their values against formulas written literally; the verbs, and their errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import feathervit
from feathervit.cli import main
from feathervit.config import RunConfig
from feathervit.plots.attention import readout_attention, rollout
from feathervit.plots.patches import filters
from feathervit.plots.positions import similarity
from feathervit.plots.routing import expert_use, experts_map
from feathervit.plots.subject import load_encoder, own_data
from tests.models.test_encoder import VARIANTS, build


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier with experts, a dummy patch and learned positions, trained for one epoch."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    fields = {"arch.depth": 2, "arch.dim": 16, "augment.policy": "none", "split.train_per_class": 8}
    feathervit.train("digits", data="digits", out=folder, epochs=1, **fields)
    return folder


def test_rollout_follows_abnar_and_zuidema():
    weights = [torch.rand(1, 2, 4, 4, dtype=torch.float64).softmax(-1) for _ in range(3)]
    whole = np.eye(4)
    for weight in weights:
        mean = sum(weight[0, head].numpy() for head in range(2)) / 2
        whole = (0.5 * mean + 0.5 * np.eye(4)) @ whole
    assert_close(rollout(weights)[0].numpy(), whole)
    assert_close(rollout(weights).sum(-1), torch.ones(1, 4, dtype=torch.float64))


def test_readout_attention_equals_the_weights():
    model, config = build(VARIANTS["latent"]).eval(), RunConfig(img_size=8)  # three class tokens
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    last, _ = readout_attention(model, images, config)
    weights = model.intermediates(images / 127.5 - 1)["blocks.2.attention"]
    expected = weights[1, 2, :3, 3 + 4 * 1 + 3].mean()  # image 1, head 2, the patch in row 1 and column 3
    assert last.shape == (2, 4, 4, 4)
    assert_close(last[1, 2, 1, 3], expected.detach())


def test_experts_map_divides_patches_by_gates():
    gates = np.array([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.0, 0.9, 0.1]])
    found = experts_map(gates, 20)  # four patches of 10 px
    assert found.shape == (20, 20)
    assert (found == found[[*[0] * 10, *[10] * 10]]).all()
    assert found[0, :10].tolist() == [1] * 7 + [0] * 3 or found[0, :10].tolist() == [1] * 8 + [0] * 2
    assert found[0, 10:].tolist() == [2] * 10
    assert found[10].tolist() == [0] * 5 + [2] * 5 + [1] * 9 + [2]


@torch.no_grad()
def test_expert_use_counts_tokens(trained):
    encoder, stored = load_encoder(trained)
    data = own_data(stored.config).subset(range(100))
    use = expert_use(encoder, data, stored.config)
    gates = encoder.intermediates(torch.nn.functional.interpolate(data.images / 127.5 - 1, size=16, mode="bilinear"))
    for layer, found in use.items():
        assert_close(found.sum(1), np.full(10, float(stored.config.arch.feedforward.top_k)))
        gate = gates[f"blocks.{layer}.gate"]
        threes = [i for i in range(100) if data.labels[i] == 3]
        tokens = [gate[i, n] for i in threes for n in range(gate.shape[1])]
        expected = [sum(float(t[e]) > 0 for t in tokens) / len(tokens) for e in range(gate.shape[2])]
        assert found[3].tolist() == pytest.approx(
            expected, abs=0.02
        )  # rounding of an image's pixels may change a token


def test_filters_and_positions():
    model = build(VARIANTS["frozen"])
    found = filters(model)
    assert found.shape == (16, 3, 2, 2)
    assert sorted(found.flatten(1).norm(dim=1).tolist(), reverse=True) == found.flatten(1).norm(dim=1).tolist()
    assert {tuple(f.flatten().tolist()) for f in model.patch_embed.white} <= {
        tuple(f.flatten().tolist()) for f in found
    }
    model = build()
    alike = similarity(model, RunConfig())
    a, b = model.pos_embed[0, 1 + 4 * 1 + 2], model.pos_embed[0, 1 + 4 * 3 + 0]
    assert_close(alike[1, 2, 3, 0], (a @ b / (a.norm() * b.norm())).detach())


@pytest.mark.parametrize("verb", ["routing", "attention", "patches", "positions"])
def test_verbs_write_an_image(verb, trained, tmp_path, capsys):
    path = tmp_path / "new" / "out.png"
    assert main(["plot", verb, str(trained), "--out", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    drawn = np.asarray(Image.open(path).convert("L"))
    assert drawn.std() > 20
    if verb in ("routing", "attention"):
        Image.fromarray(np.full((20, 20), 90, np.uint8)).save(tmp_path / "mine.png")
        assert main(["plot", verb, str(trained), str(tmp_path / "mine.png"), "--out", str(path)]) == 0
        assert np.asarray(Image.open(path)).shape[0] < drawn.shape[0]


def test_row_names_show_the_true_and_predicted_class(trained):
    from feathervit.plots.subject import row_names, varied

    encoder, stored = load_encoder(trained)
    data = varied(own_data(stored.config), 20)
    assert data.labels.bincount().tolist() == [2] * 10
    guesses = [p.label for p in feathervit.load(trained).predict(list(data.images[:, 0].numpy()))]
    for text, label, guess in zip(
        row_names(encoder, data.images, stored, data.labels), data.labels, guesses, strict=True
    ):
        assert text.split("\n") == [f"true {data.class_names[label]}", f"predicted {guess}"]
    assert [text.split("\n")[1] for text in row_names(encoder, data.images, stored)] == guesses


def test_varied_images_of_few_classes_are_spread(arrays):
    from feathervit.data import ImageSet
    from feathervit.plots.subject import varied

    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    one = ImageSet(images, torch.zeros(40, dtype=torch.long), ("all",), tuple(map(str, range(40))), "x/train")
    assert varied(one, 4).images.flatten().tolist() == [0, 13, 26, 39]
    labels = torch.tensor([0] * 38 + [2, 2])  # class 1 is empty
    two = ImageSet(images, labels, ("a", "b", "c"), tuple(map(str, range(40))), "x/train")
    assert varied(two, 4).labels.tolist() == [0, 0, 2, 2]


def test_autoencoders_have_plots(folder, small, tmp_path):
    fields = {k: v for k, v in small.items() if not k.startswith(("augment", "loss"))}
    feathervit.pretrain(data=folder, out=tmp_path / "mae", epochs=1, **fields)
    for verb in ("routing", "patches", "positions"):
        assert main(["plot", verb, str(tmp_path / "mae"), "--out", str(tmp_path / "out.png")]) == 0


@pytest.mark.parametrize(
    ("verb", "fields", "message"),
    [
        ("routing", {"model": "poorvit_tiny"}, "no layer with more than one expert"),
        ("attention", {"arch.readout": "mean"}, "read-out 'mean' and no read-out token"),
        ("attention", {"arch.readout": "pool"}, "read-out 'pool' and no read-out token"),
        ("positions", {"arch.positions": "sincos"}, "positions 'sincos'"),
        ("patches", {"model": "timm:test_vit", "img_size": 32}, "is timm:test_vit;"),
    ],
)
def test_impossible_plots_are_refused(verb, fields, message, arrays, small, tmp_path, capsys):
    parts = {} if "model" in fields else {k: v for k, v in small.items() if k.startswith("arch.")}
    sizes = {"img_size": 16, "patch_size": 4, "batch_size": 96}
    if "model" in fields:
        parts = {} if fields["model"].startswith("timm") else {"arch.depth": 1}
    feathervit.train(data=arrays, out=tmp_path / "run", epochs=1, **{**sizes, "model": "mlit_nano", **parts, **fields})
    Image.fromarray(arrays[0][0]).save(tmp_path / "mine.png")
    named = [str(tmp_path / "mine.png")] if verb in ("routing", "attention") else []
    assert main(["plot", verb, str(tmp_path / "run"), *named, "--out", str(tmp_path / "out.png")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
