"""Grouped-query attention against torch's MultiheadAttention with the same weights and each group written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from feathervit.config import GQAConfig, LatentConfig
from feathervit.errors import ConfigError
from feathervit.models.attention import GroupedQueryAttention, LatentAttention

D, HEADS = 24, 6
WIDTH = D // HEADS


def repeat_for_each_head(t: Tensor, kv_heads: int) -> Tensor:
    """Rows of a key or value projection, repeated for each query head of the group."""
    groups = t.split(WIDTH)
    assert len(groups) == kv_heads
    return torch.cat([groups[head // (HEADS // kv_heads)] for head in range(HEADS)])


def same_in_torch(ours: GroupedQueryAttention, kv_heads: int) -> nn.MultiheadAttention:
    torchs = nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    sizes = [D, kv_heads * WIDTH, kv_heads * WIDTH]
    with torch.no_grad():
        for mine, theirs in [(ours.qkv.weight, torchs.in_proj_weight), (ours.qkv.bias, torchs.in_proj_bias)]:
            q, k, v = mine.split(sizes)
            theirs.copy_(torch.cat([q, repeat_for_each_head(k, kv_heads), repeat_for_each_head(v, kv_heads)]))
        torchs.out_proj.weight.copy_(ours.proj.weight)
        torchs.out_proj.bias.copy_(ours.proj.bias)
    return torchs


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
def test_equals_torch(kv_heads):
    torch.manual_seed(0)
    ours = GroupedQueryAttention(D, GQAConfig(HEADS, kv_heads)).double()
    torchs = same_in_torch(ours, kv_heads)
    x = (3 * torch.randn(2, 9, D, dtype=torch.float64)).requires_grad_()
    y = ours(x)
    expected, _ = torchs(x, x, x, need_weights=False)
    assert_close(y, expected, atol=1e-12, rtol=1e-12)

    probe = torch.randn_like(y)
    (dx,) = torch.autograd.grad((y * probe).sum(), x, retain_graph=True)
    (dx_expected,) = torch.autograd.grad((expected * probe).sum(), x, retain_graph=True)
    assert_close(dx, dx_expected, atol=1e-12, rtol=1e-12)

    # The gradient of a shared key or value is the sum over its copies.
    (got,) = torch.autograd.grad((y * probe).sum(), ours.qkv.weight)
    (copies,) = torch.autograd.grad((expected * probe).sum(), torchs.in_proj_weight)
    dq, dk, dv = copies.split(D)
    summed = [t.view(kv_heads, HEADS // kv_heads, WIDTH, D).sum(1).flatten(0, 1) for t in (dk, dv)]
    assert_close(got, torch.cat([dq, *summed]), atol=1e-12, rtol=1e-12)


def test_parameter_count_of_grouped_attention():
    attention = GroupedQueryAttention(D, GQAConfig(HEADS, 2))
    assert sum(p.numel() for p in attention.parameters()) == 2 * (D * D + D) + 2 * (D * 8 + 8)


@pytest.mark.parametrize(
    ("dim", "heads", "kv_heads", "message"),
    [(24, 5, 5, "24.*5"), (24, 6, 4, "6.*4"), (24, 6, 12, "6.*12"), (24, 0, 1, "0"), (24, 6, 0, "0")],
)
def test_indivisible_heads_are_refused(dim, heads, kv_heads, message):
    with pytest.raises(ConfigError, match=message):
        GroupedQueryAttention(dim, GQAConfig(heads, kv_heads))


@pytest.mark.parametrize("low_rank", ["q", "k", "v", "qk", "qv", "kv", "qkv"])
@pytest.mark.parametrize("rank", [5, D])
def test_latent_attention_equals_attention_with_merged_matrices(low_rank, rank):
    """q = U (D x) + b, as in PoorViTs. If the rank equals the width, any matrix is such a product."""
    torch.manual_seed(0)
    latent = LatentAttention(D, LatentConfig(HEADS, rank, low_rank)).double()
    whole = GroupedQueryAttention(D, GQAConfig(HEADS, HEADS)).double()
    if rank == D:  # set the pairs so that their products are the matrices of ordinary attention
        for name, matrix, bias in zip("qkv", whole.qkv.weight.split(D), whole.qkv.bias.split(D), strict=True):
            layer = getattr(latent, name)
            with torch.no_grad():
                (layer[1] if name in low_rank else layer).bias.copy_(bias)
                if name in low_rank:
                    layer[1].weight.copy_(matrix @ torch.linalg.inv(layer[0].weight))
                else:
                    layer.weight.copy_(matrix)
    else:
        layers = [getattr(latent, name) for name in "qkv"]
        pairs = [name in low_rank for name in "qkv"]
        rows = [f[1].weight @ f[0].weight if pair else f.weight for f, pair in zip(layers, pairs, strict=True)]
        with torch.no_grad():
            whole.qkv.weight.copy_(torch.cat(rows))
            whole.qkv.bias.copy_(torch.cat([f[1].bias if p else f.bias for f, p in zip(layers, pairs, strict=True)]))
    with torch.no_grad():
        latent.proj.load_state_dict(whole.proj.state_dict())
    x = 3 * torch.randn(2, 9, D, dtype=torch.float64)
    assert_close(latent(x), whole(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("low_rank", ["q", "kv", "qkv"])
def test_parameter_count_of_latent_attention(low_rank):
    """At width 192 and rank 64 a projection has 24,768 parameters instead of 37,056."""
    attention = LatentAttention(192, LatentConfig(12, 64, low_rank))
    pairs = len(low_rank)
    assert sum(p.numel() for p in attention.parameters()) == pairs * 24_768 + (4 - pairs) * 37_056
    assert {n for n, p in attention.named_parameters() if p.shape == (64, 192)} == {f"{n}.0.weight" for n in low_rank}
