"""Named models have the parameters that their papers state."""

from __future__ import annotations

import math

import pytest

from feathervit.models import create_model, list_models, spec
from tests.models.test_encoder import count

SIZES = {
    "mlit_s": [144, 138, 133, 128, 123, 118, 113, 108, 102, 97, 92, 87, 82, 77, 72],
    "mlit_xs": [96, 90, 84, 78, 72, 66, 61, 55, 49, 43, 37, 32],
    "mlit_xxs": [81, 74, 67, 60, 54, 47, 40, 33, 27],
}


@pytest.mark.parametrize("name", SIZES)
def test_hidden_sizes_and_experts(name):
    layers = create_model(name).blocks
    assert [layer.ffn.v.out_features for layer in layers] == SIZES[name]
    third = len(layers) // 3
    experts = [layer.ffn.w.out_features // layer.ffn.v.out_features for layer in layers]
    assert experts == [3] * third + [4] * third + [5] * third
    assert [layer.ffn.gate.w_gate.out_features for layer in layers] == experts


@pytest.mark.parametrize(
    ("name", "ours", "table_1", "table_8"),
    [
        ("mlit_s", 2_358_182, 2.36, 2.38),
        ("mlit_xs", 1_202_348, 1.21, 1.22),
        ("mlit_xxs", 651_373, 0.66, 0.67),
    ],
)
def test_parameter_counts(name, ours, table_1, table_8):
    headless, with_head = count(create_model(name, num_classes=0)), count(create_model(name, num_classes=100))
    assert headless == ours
    assert with_head == headless + 100 * spec(name).config.dim
    assert math.ceil(headless / 1e4) / 100 == table_1
    assert math.ceil(with_head / 1e4) / 100 == table_8


@pytest.mark.parametrize(
    ("name", "parts", "classes", "exact", "published"),
    [
        ("poorvit_tiny", {}, 10, 3_588_480, 3.59),
        ("poorvit_tiny", {"depth": 9}, 10, 2_697_408, 2.70),
        ("mae_vit", {}, 100, 3_616_896, 3.62),
        ("mae_vit", {}, 10, 3_599_616, 3.60),
    ],
)
def test_parameter_counts_of_the_other_papers(name, parts, classes, exact, published):
    found = count(create_model(name, num_classes=classes, **parts))
    assert found == exact
    assert round(found / 1e6, 2) == published


@pytest.mark.parametrize(("depth", "published"), [(6, 3.191), (7, 3.717)])
def test_vit_lite_matches_its_repository_except_biases(depth, published):
    """In the repository, query, key and value have no bias, and the patches and the head have one."""
    found = count(create_model(f"vit_lite_{depth}", num_classes=10))
    assert round((found - depth * 3 * 256 + 256 + 10) / 1e6, 3) == published


@pytest.mark.parametrize(("depth", "published"), [(2, 0.284), (4, 0.482)])
def test_cct_matches_its_repository_except_biases(depth, published):
    """In the repository, query, key and value have no bias."""
    found = count(create_model(f"cct_{depth}_3x2", num_classes=10))
    assert round((found - depth * 3 * 128) / 1e6, 3) == published


def test_models_are_listed_by_decreasing_size():
    sizes = [count(create_model(name)) for name in list_models()]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *(("mlit_nano", 0.15), ("feather_nano", 0.15), ("feather_xxs", 0.67)),
        *(("feather_xs", 1.22), ("feather_s", 2.38)),
    ],
)
def test_our_models_are_within_their_size_limits(name, most):
    assert count(create_model(name, num_classes=100)) <= 1e6 * most
