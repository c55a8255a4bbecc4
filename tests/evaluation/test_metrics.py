"""Figures against hand counts and slow loops."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch

from feathervit.errors import DataError, DivergedError
from feathervit.evaluation.metrics import Metrics, calibration_error, score

# Four images, three classes. Class "c" has no image, and one image of "b" is predicted as "c".
P = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1], [0.1, 0.3, 0.6]]
LABELS = [0, 1, 0, 1]
NAMES = ["a", "b", "c"]


def random_case(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(k, 0.3), n).astype(np.float32), rng.integers(0, k, n), [f"class {i}" for i in range(k)]


def test_score_by_hand():
    found = score(torch.tensor(P), torch.tensor(LABELS), NAMES)
    assert found.n == 4
    assert found.top1 == 0.5
    assert (found.top5, found.top5_k) == (1.0, 3)
    assert found.per_class == {"a": 0.5, "b": 0.5, "c": None}
    assert found.balanced_accuracy == 0.5
    assert found.confusion == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.8) + math.log(0.4) + math.log(0.3)) / 4, rel=1e-6)
    # confidences 0.7, 0.8, 0.5, 0.6 fall into four bins of a fifteenth each, two of them right
    assert found.ece == pytest.approx((0.3 + 0.2 + 0.5 + 0.6) / 4, rel=1e-6)


def test_balanced_accuracy_differs_from_top1_for_unequal_classes():
    found = score([[0.9, 0.1]] * 10, [0] * 9 + [1], ["a", "b"])
    assert found.top1 == 0.9
    assert found.balanced_accuracy == 0.5
    assert (found.top5, found.top5_k) == (1.0, 2)


@pytest.mark.parametrize("classes", [6, 10])
def test_score_equals_loops(classes):
    p_NK, labels_N, names = random_case(300, classes)
    found = score(p_NK, labels_N, names)
    ranks = [sorted(range(classes), key=lambda j, row=row: -row[j]) for row in p_NK]
    assert found.top1 == pytest.approx(np.mean([r[0] == y for r, y in zip(ranks, labels_N, strict=True)]))
    assert found.top5_k == 5
    assert found.top5 == pytest.approx(np.mean([y in r[:5] for r, y in zip(ranks, labels_N, strict=True)]))
    confusion = [[0] * classes for _ in range(classes)]
    for r, y in zip(ranks, labels_N, strict=True):
        confusion[y][r[0]] += 1
    assert found.confusion == confusion
    shares = [confusion[i][i] / sum(confusion[i]) for i in range(classes)]
    assert list(found.per_class.values()) == pytest.approx(shares)
    assert found.balanced_accuracy == pytest.approx(np.mean(shares))


def test_calibration_error_equals_a_loop():
    p_NK, labels_N, _ = random_case(500, 4)
    # Right in every second thirtieth of the confidence. If all errors had one sign, any binning would give the same sum.
    right = (p_NK.max(1) * 30).astype(int) % 2 == 1
    labels_N = np.where(right, p_NK.argmax(1), (p_NK.argmax(1) + 1) % 4)
    expected = 0.0
    for b in range(15):
        members = [i for i in range(500) if b / 15 < p_NK[i].max() <= (b + 1) / 15]
        if members:
            accuracy = np.mean([p_NK[i].argmax() == labels_N[i] for i in members])
            confidence = np.mean([p_NK[i].max() for i in members])
            expected += len(members) / 500 * abs(accuracy - confidence)
    assert calibration_error(p_NK, labels_N) == pytest.approx(expected, rel=1e-6)


def test_calibrated_and_overconfident():
    labels = np.array([0] * 80 + [1] * 20)
    assert calibration_error(np.tile([0.8, 0.2], (100, 1)), labels) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.tile([1.0, 0.0], (100, 1)), labels) == pytest.approx(0.2)


def test_metrics_are_strict_json_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(torch.tensor([[1.0, 0.0, 0.0]] * 2), [1, 1], NAMES)  # certain but wrong
    again = Metrics(**json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert math.isfinite(found.nll)
    assert found.top1 == 0


@pytest.mark.parametrize(
    ("p", "labels", "names", "error", "message"),
    [
        (np.zeros((0, 3)), [], NAMES, DataError, "is empty"),
        (P, LABELS, ["a", "b"], DataError, "do not fit"),
        (P, [0, 1], NAMES, DataError, "do not fit"),
        (P, [0, 1, 2, 3], NAMES, DataError, "0 to 3"),
        ([[1.0]], [0], ["a"], DataError, "at least 2"),
        ([[math.nan, 0.5]] * 3, [0, 1, 0], ["a", "b"], DivergedError, "3 of 3"),
    ],
)
def test_invalid_scores_are_refused(p, labels, names, error, message):
    with pytest.raises(error, match=message):
        score(p, labels, names)
