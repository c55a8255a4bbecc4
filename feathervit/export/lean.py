"""Rewrites an encoder for inference: the same function and weights, with operators that are fast in common runtimes.

The query weights include the scale of the attention, and one product computes the queries of a group with their shared keys.
Gate, W and V are one product. Patches are reshaped and multiplied instead of convolved, so that every weight is a matrix.
Batch norms are folded into convolutions. If the head reads only the prefix tokens, the last layer computes only these. The k
largest gates are found with comparisons, which every runtime supports. Unknown parts stay unchanged.

Legend: B batch, C channels, S image side, N tokens, M query tokens, D width, H heads, G key/value heads, R queries per
group, K head width (of probabilities: classes), E experts, F hidden size, P prefix tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..models import Encoder
from ..models.attention import GroupedQueryAttention
from ..models.embed import ResidualBlock, ResidualStem
from ..models.fast import plain
from ..models.feedforward import MLP, SwiGLU
from ..models.moe import SHARINGS, SharedVW2

LEAST = -1e30  # below any score, but finite, because some shaders do not support infinity
TOKENWISE = (MLP, SwiGLU, *SHARINGS.values())  # feed-forwards that process tokens independently


class Routes:
    """Collects the gates [B, N, E] of a forward pass by layer number, from 1, for graphs with gates as outputs."""

    def __init__(self) -> None:
        self.gates: dict[int, Tensor] = {}

    def note(self, number: int) -> Callable[..., None]:
        """Returns a forward hook for the router of layer `number`."""
        return lambda _, __, out: self.gates.__setitem__(number, out[0])


class Probabilities(nn.Module):
    """Maps normalised images [B, C, S, S] to class probabilities [B, K].

    Runs the rewritten form of our models, and other models unchanged. `temperature` divides the logits. `routed`: return a
    tuple, with the gates [B, N, E] of each layer with experts.
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0, *, routed: bool = False, rewrite: bool = True):
        super().__init__()
        self.model, self.routes = lean(model) if rewrite else (model, Routes())
        self.temperature, self.routed = temperature, routed
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        self.routes.gates.clear()
        logits_BK = self.model(pixels)
        if self.temperature != 1:  # avoids a division in the graph
            logits_BK = logits_BK / self.temperature
        return (logits_BK.softmax(-1), *self.routes.gates.values()) if self.routed else logits_BK.softmax(-1)


class Patches(nn.Module):
    """Embeds non-overlapping patches with one matrix product: [B, C, S, S] to [B, (S/p)^2, D]."""

    def __init__(self, embed: nn.Module):
        super().__init__()
        self.patch_size, self.grid_size = embed.patch_size, embed.grid_size
        self.proj = _linear(embed.proj.weight.permute(0, 2, 3, 1).flatten(1), None)

    def forward(self, x_BCSS: Tensor, *place) -> Tensor:
        p, g, chans = self.patch_size, self.grid_size, x_BCSS.shape[1]
        x = x_BCSS.reshape(-1, chans, g, p, g, p).permute(0, 2, 4, 3, 5, 1)
        return self.proj(x.reshape(-1, g * g, p * p * chans))


class Block(nn.Module):
    """`ResidualBlock` on maps of `side` pixels, with batch norms folded: [B, I, H, H] to [B, O, H/s, H/s]."""

    def __init__(self, block: ResidualBlock, side: int):
        super().__init__()
        stride = block.stride
        self.conv1, self.conv2 = fuse_conv_bn_eval(block.conv1, block.bn1), fuse_conv_bn_eval(block.conv2, block.bn2)
        self.shortcut = block.shortcut if block.bn3 is None else fuse_conv_bn_eval(block.shortcut, block.bn3)
        # XNNPACK does not support ceil_mode.
        self.pool = nn.AvgPool2d(stride) if stride > 1 and side % stride == 0 else block.pool

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(self.pool(x)))


class Stem(nn.Module):
    """`ResidualStem` without masks, with batch norms folded: [B, C, S, S] to [B, G^2, D]."""

    def __init__(self, embed: ResidualStem):
        super().__init__()
        self.patch_size, self.grid_size = embed.patch_size, embed.grid_size
        self.proj, self.out = fuse_conv_bn_eval(embed.proj, embed.bn), embed.out
        self.residual, side = nn.Sequential(), -(-embed.img_size // embed.stride)
        for block in embed.residual:
            self.residual.append(Block(block, side))
            side = -(-side // block.stride)

    def forward(self, x_BCSS: Tensor, *place) -> Tensor:
        return self.out(self.residual(F.relu(self.proj(x_BCSS)))).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """`GroupedQueryAttention` of the first M tokens to all N tokens: [B, N, D] to [B, M, D]."""

    def __init__(self, attn: GroupedQueryAttention, tokens: int, asking: int):
        super().__init__()
        self.tokens, self.asking = tokens, asking
        self.heads, self.kv_heads, self.head_dim = attn.heads, attn.kv_heads, attn.head_dim
        width, scale = attn.heads * attn.head_dim, attn.head_dim**-0.5
        weight, bias = attn.qkv.weight.clone(), attn.qkv.bias.clone()
        weight[:width] *= scale
        bias[:width] *= scale
        if asking == tokens:
            self.qkv = _linear(weight, bias)
        else:
            self.q, self.kv = _linear(weight[:width], bias[:width]), _linear(weight[width:], bias[width:])
        self.proj = attn.proj

    def forward(self, x_BND: Tensor, *place) -> Tensor:
        n, m, g, r, k = self.tokens, self.asking, self.kv_heads, self.heads // self.kv_heads, self.head_dim
        if m == n:
            q, keys, values = self.qkv(x_BND).split([g * r * k, g * k, g * k], dim=-1)
        else:
            q, (keys, values) = self.q(x_BND[:, :m]), self.kv(x_BND).split(g * k, dim=-1)
        q_BGRK = q.reshape(-1, m, g, r, k).permute(0, 2, 3, 1, 4).reshape(-1, g, r * m, k)
        k_BGKN = keys.reshape(-1, n, g, k).permute(0, 2, 3, 1)
        v_BGNK = values.reshape(-1, n, g, k).permute(0, 2, 1, 3)
        y_BGRK = (q_BGRK @ k_BGKN).softmax(-1) @ v_BGNK
        y_BMD = y_BGRK.reshape(-1, g, r, m, k).permute(0, 3, 1, 2, 4).reshape(-1, m, g * r * k)
        return self.proj(y_BMD)


class GatedFeedForward(nn.Module):
    """`SwiGLU`, or `SharedVW2` with a mixture as gate branch: [B, N, D] to [B, N, D] and a balance loss of 0."""

    def __init__(self, ffn: SwiGLU | SharedVW2, routes: Routes, number: int):
        super().__init__()
        self.routes, self.number = routes, number
        gate = getattr(ffn, "gate", None)
        self.hidden, self.experts = ffn.v.out_features, ffn.w.out_features // ffn.v.out_features
        weights, biases = [ffn.w.weight, ffn.v.weight], [ffn.w.bias, ffn.v.bias]
        if gate is not None:
            weights.insert(0, gate.w_gate.weight)
            biases.insert(0, gate.w_gate.weight.new_zeros(self.experts))
        self.top_k = gate.config.top_k if gate is not None else None
        earlier_EE = torch.ones(self.experts, self.experts, dtype=ffn.w.weight.dtype).tril(-1)
        self.register_buffer("earlier", earlier_EE)
        self.up, self.w2 = _linear(torch.cat(weights), torch.cat(biases)), ffn.w2

    def forward(self, x_BND: Tensor, *place) -> tuple[Tensor, Tensor]:
        e, f, n = self.experts, self.hidden, x_BND.shape[1]
        if self.top_k is None:
            w_BNF, v_BNF = self.up(x_BND).split(f, dim=-1)
            return self.w2(F.silu(w_BNF) * v_BNF), x_BND.new_zeros(())
        h_BNE, w, v_BNF = self.up(x_BND).split([e, e * f, f], dim=-1)
        other_BN1E, this_BNE1 = h_BNE.unsqueeze(-2), h_BNE.unsqueeze(-1)
        equal_BNEE = (other_BN1E == this_BNE1).to(h_BNE.dtype) * self.earlier  # among equal gates, the first wins
        rank_BNE = ((other_BN1E > this_BNE1).to(h_BNE.dtype) + equal_BNEE).sum(-1)
        gate_BNE = torch.where(rank_BNE < self.top_k, h_BNE, LEAST).softmax(-1)
        self.routes.gates[self.number] = gate_BNE
        mixed_BNF = (gate_BNE.unsqueeze(2) @ F.silu(w).reshape(-1, n, e, f)).reshape(-1, n, f)
        return self.w2(mixed_BNF * v_BNF), x_BND.new_zeros(())


class LastLayer(nn.Module):
    """A layer that computes only the prefix tokens: [B, N, D] to [B, P, D]."""

    def __init__(self, layer: nn.Module, prefix: int):
        super().__init__()
        self.prefix = prefix
        self.norm1, self.attn, self.norm2, self.ffn = layer.norm1, layer.attn, layer.norm2, layer.ffn

    def forward(self, x_BND: Tensor, *place) -> tuple[Tensor, Tensor]:
        x_BPD = x_BND[:, : self.prefix] + self.attn(self.norm1(x_BND))
        y_BPD, balance = self.ffn(self.norm2(x_BPD))
        return x_BPD + y_BPD, balance


@torch.no_grad()
def lean(model: nn.Module) -> tuple[nn.Module, Routes]:
    """Returns a model that is equivalent to `model` in evaluation mode, up to rounding, and its `Routes`.

    Does not change `model`. Models of timm are only copied and set to evaluation mode.
    """
    model, routes = plain(copy.deepcopy(model)).eval(), Routes()
    if type(model) is not Encoder:
        return model, routes
    prefix = model.num_prefix_tokens
    tokens = prefix + model.patch_embed.grid_size**2
    if _is_linear(model.patch_embed):
        model.patch_embed = Patches(model.patch_embed)
    elif type(model.patch_embed) is ResidualStem:
        model.patch_embed = Stem(model.patch_embed)
    is_rotary = model.turns is not None  # rotary positions rotate queries and keys
    for number, layer in enumerate(model.blocks, start=1):
        known = type(layer.attn) is GroupedQueryAttention and not is_rotary
        last = number == len(model.blocks) and model.global_pool == "token"  # the head reads only prefix tokens
        cut = last and known and type(layer.ffn) in TOKENWISE
        if known:
            layer.attn = Attention(layer.attn, tokens, prefix if cut else tokens)
        if type(layer.ffn) is SwiGLU or (type(layer.ffn) is SharedVW2 and layer.ffn.gate is not None):
            layer.ffn = GatedFeedForward(layer.ffn, routes, number)
        elif isinstance(layer.ffn, tuple(SHARINGS.values())) and layer.ffn.gate is not None:
            layer.ffn.gate.register_forward_hook(routes.note(number))
        if cut:
            model.blocks[number - 1] = LastLayer(layer, prefix)
    return model, routes


def _is_linear(embed: nn.Module) -> bool:
    """Returns whether a patch embedding is one convolution of non-overlapping patches."""
    names = [name for name, _ in (*embed.named_parameters(), *embed.named_buffers())]
    return names == ["proj.weight"] and embed.proj.kernel_size == embed.proj.stride == (embed.patch_size,) * 2


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    out_features, in_features = weight.shape
    linear = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias is not None, dtype=weight.dtype)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    return linear.eval()
