"""The oracles reproduce the paper's numeric examples, and the statements of its text and the facts sheet."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from tests.reference import moe

# Eq. 7, and the input of Eq. 4
H = torch.tensor(
    [[4.4742, -5.6365, 6.8226, 0.9960], [3.5298, 2.3049, 1.2113, -1.3946], [-2.2414, 0.3925, 1.6676, -1.9253]],
    dtype=torch.float64,
)


def test_softmax_k_of_eq_4():
    expected = [[0.0872, 0, 0.9128, 0], [0.7729, 0.2271, 0, 0], [0, 0.2184, 0.7816, 0]]
    assert_close(moe.softmax_k(H, 2), torch.tensor(expected).double(), atol=5.1e-5, rtol=0)


def test_softmax_k_of_all_is_softmax():
    assert_close(moe.softmax_k(H, 4), H.softmax(1))


def test_psi_of_eq_9():
    printed = torch.tensor([[0.9960, 4.4742, 0.9960, 4.4742], [1.2113, 1.2113, 2.3049, 2.3049]]).double()
    assert_close(moe.psi(H, 2)[:2], printed, atol=1e-6, rtol=0)


def test_psi_of_eq_9_last_row():
    """As printed. The row's k-th and (k+1)-th largest values are those of Eq. 8: 0.3925 and -1.9253."""
    printed = torch.tensor([0.3925, -1.9253, -1.9253, 0.3925]).double()
    assert_close(moe.psi(H, 2)[2], printed, atol=1e-6, rtol=0)


def test_load_probability_is_the_chance_of_being_chosen():
    """Eq. 5: redraw one entry's noise, keep the others, and count how often the entry is among the k largest."""
    generator = torch.Generator().manual_seed(0)
    x, w_gate, w_noise, noise = (torch.randn(s, generator=generator).double() for s in [(1, 3), (3, 4), (3, 4), (1, 4)])
    p = moe.load_probability(x, w_gate, w_noise, noise, k=2)[0]
    h = moe.noisy_h(x, w_gate, w_noise, noise)[0]
    draws = torch.randn(200_000, generator=generator).double()
    for c in range(4):
        others = torch.cat([h[:c], h[c + 1 :]]).sort(descending=True).values
        redrawn = (x @ w_gate)[0, c] + draws * moe.softplus(x @ w_noise)[0, c]
        assert (redrawn > others[1]).double().mean().item() == pytest.approx(p[c].item(), abs=5e-3)


def test_losses_vanish_at_perfect_balance_and_grow_with_imbalance():
    even = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    assert moe.importance_loss(even).item() == pytest.approx(0, abs=1e-12)
    one = torch.tensor([[1.0, 0.0, 0.0]] * 6).double()
    assert moe.importance_loss(one).item() == pytest.approx(1e-2 * math.sqrt(3))  # sums 6, 0, 0: mean 2, std sqrt(12)
    assert moe.load_loss(one, squared=True).item() == pytest.approx(3e-2)


def test_load_probability_of_all_experts_is_one():
    x, w = torch.randn(5, 3).double(), torch.randn(3, 2).double()
    assert torch.equal(moe.load_probability(x, w, w, torch.randn(5, 2).double(), k=2), torch.ones(5, 2).double())


@pytest.mark.parametrize(
    ("layers", "first", "last", "expected"),
    [
        (15, 144, 72, [144, 138, 133, 128, 123, 118, 113, 108, 102, 97, 92, 87, 82, 77, 72]),
        (12, 96, 32, [96, 90, 84, 78, 72, 66, 61, 55, 49, 43, 37, 32]),
        (9, 81, 27, [81, 74, 67, 60, 54, 47, 40, 33, 27]),
    ],
)
def test_hidden_sizes(layers, first, last, expected):
    assert [moe.hidden_size(i, layers, first, last) for i in range(layers)] == expected


def test_learning_rates_of_the_paper():
    assert [moe.learning_rate(*a) for a in [(3e-4, 840), (3e-4, 1280), (5e-3, 448)]] == pytest.approx(
        [9.84375e-4, 1.5e-3, 8.75e-3]
    )
