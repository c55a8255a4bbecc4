"""Defines the read-outs, which compute the input of the head. Contract: `prepend` adds the prefix tokens to the patches.

`forward` maps the output of the layers to [B, features]. `num_tokens` is the number of prefix tokens, `features` the input
width of the head, and `pool` timm's name of the pooling.

Prefix tokens come first in the sequence, as timm's `num_prefix_tokens` expects. The paper appends its dummy patch at the end;
the function is the same up to a permutation of the positions.

Legend: B batch, N tokens, D width, P prefix tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import ConfigError


class DummyPatch(nn.Module):
    """The embedding of an all-zero patch: zero before positions are added, because the projection has no bias."""

    pool = "token"

    def __init__(self, dim: int):
        super().__init__()
        self.num_tokens, self.features = 1, dim

    def prepend(self, patches_BND: Tensor) -> Tensor:
        return F.pad(patches_BND, (0, 0, 1, 0))

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND[:, 0]


class ClassTokens(nn.Module):
    """Learned class tokens. The head reads all of them, concatenated (PoorViTs, arXiv 2501.06220)."""

    pool = "token"

    def __init__(self, dim: int, count: int = 1):
        super().__init__()
        if count < 1:
            raise ConfigError(
                f"class_tokens must be at least 1, got {count}; for a read-out without tokens choose mean or pool"
            )
        self.num_tokens, self.features = count, count * dim
        self.token = nn.Parameter(torch.empty(1, count, dim).normal_(std=0.02))

    def prepend(self, patches_BND: Tensor) -> Tensor:
        token_BPD = self.token.to(patches_BND.dtype).expand(patches_BND.shape[0], -1, -1)
        return torch.cat([token_BPD, patches_BND], dim=1)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND[:, : self.num_tokens].flatten(1)


class Mean(nn.Module):
    """The mean of the patches, without prefix tokens."""

    pool = "avg"

    def __init__(self, dim: int):
        super().__init__()
        self.num_tokens, self.features = 0, dim

    def prepend(self, patches_BND: Tensor) -> Tensor:
        return patches_BND

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND.mean(1)


class SequencePool(Mean):
    """A mean of the patches, weighted by a softmax of learned scores (CCT, arXiv 2104.05704, section 3.2)."""

    pool = "map"

    def __init__(self, dim: int):
        super().__init__(dim)
        self.score = nn.Linear(dim, 1)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        weight_BN1 = self.score(tokens_BND).softmax(1)
        return (weight_BN1 * tokens_BND).sum(1)


def build_readout(config: EncoderConfig) -> nn.Module:
    """Builds the read-out of `config`. Raises ConfigError if class tokens are set but have no effect."""
    if config.readout == "class":
        return ClassTokens(config.dim, config.class_tokens)
    if config.class_tokens != 1:
        raise ConfigError(
            f"class_tokens {config.class_tokens} has no effect with read-out {config.readout!r}; choose readout class"
        )
    return {"dummy": DummyPatch, "mean": Mean, "pool": SequencePool}[config.readout](config.dim)


def output_layers(model: nn.Module) -> set[nn.Module]:
    """Returns the output layers: the classifier, ours or timm's, and the projection of a decoder to pixels."""
    layers = {module for name, module in model.named_modules() if name in ("head", "encoder.head", "decoder_head")}
    return layers.union(classifiers(model) if hasattr(model, "get_classifier") else ())


def classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """Returns the classifier of a model; distilled models of timm have two."""
    found = model.get_classifier()
    return found if isinstance(found, tuple) else (found,)
