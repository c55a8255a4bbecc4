"""Defines the encoder of all models. mLiT, Mae-ViT, ViT-Tiny and PoorViT are configurations of it, and MAE wraps it.

Layers are pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x)). `encode` returns the tokens and the sum of the
balance losses. timm's interface (`contract.py`) uses it. All layers use PyTorch's default initialisation, as in the mLiT
paper. Learned positions and tokens are initialised with N(0, 0.02) (ours).

Legend: B batch, C channels, S image side, N tokens (prefix tokens first), D width; H heads, K head width, E experts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import DecoderConfig, EncoderConfig
from ..errors import ConfigError
from .attention import build_attention
from .contract import TimmContract
from .embed import build_patch_embed
from .feedforward import build_feedforward, check_feedforward
from .place import Place
from .readout import build_readout
from .taken import Taken

INTERMEDIATES = ("embedding", "attention", "values", "gate", "output", "tokens")  # kinds, see `Encoder.intermediates`


class Layer(nn.Module):
    """One pre-norm layer: maps [B, N, D] to [B, N, D], and returns its balance loss. `index` counts layers from 0."""

    def __init__(self, config: EncoderConfig | DecoderConfig, index: int):
        super().__init__()
        drop = config.drop_path_rate * index / max(config.depth - 1, 1)
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = build_attention(config.attention, config.dim)
        self.norm2 = nn.LayerNorm(config.dim)
        self.ffn = build_feedforward(config.feedforward, config.dim, index, config.depth)
        self.drop_path = DropPath(drop) if drop else nn.Identity()

    def forward(self, x_BND: Tensor, place: Place, taken: Taken | None = None) -> tuple[Tensor, Tensor]:
        normed_BND = self.norm1(x_BND)
        if taken is not None and {"attention", "values"} & taken.kinds and hasattr(self.attn, "look"):
            taken["attention"], taken["values"] = self.attn.look(normed_BND, place)
        x_BND = x_BND + self.drop_path(self.attn(normed_BND, place))
        normed_BND = self.norm2(x_BND)
        if taken is not None and "gate" in taken.kinds and getattr(self.ffn, "gate", None) is not None:
            taken["gate"], _ = self.ffn.gate(normed_BND)
        y_BND, balance = self.ffn(normed_BND, place)
        x_BND = x_BND + self.drop_path(y_BND)
        if taken is not None:
            taken["output"] = x_BND
        return x_BND, balance


class Encoder(TimmContract, nn.Module):
    """A vision transformer classifier built from an `EncoderConfig`.

    The input is [B, in_chans, img_size, img_size], the output logits [B, num_classes]. With `num_classes` 0, the head is an
    identity, and the output is the read-out features [B, D]. `global_pool` is as in `reset_classifier`; None selects the
    pooling of the read-out. Raises ConfigError for incompatible sizes.
    """

    def __init__(
        self,
        config: EncoderConfig,
        img_size: int = 36,
        patch_size: int = 3,
        in_chans: int = 3,
        num_classes: int = 100,
        global_pool: str | None = None,
    ):
        super().__init__()
        if config.dim < 1 or config.depth < 0:
            raise ConfigError(f"width must be at least 1 and depth at least 0, got {config.dim} and {config.depth}")
        if config.positions == "rotary" and not config.depth:
            raise ConfigError("rotary positions act in attention, and this model has no layers; choose other positions")
        self.config = config
        self.in_chans = in_chans
        self.num_features = self.embed_dim = config.dim
        self.patch_embed = build_patch_embed(config.patches, img_size, patch_size, in_chans, config.dim)
        self.readout = build_readout(config)
        self.num_prefix_tokens, self.global_pool = self.readout.num_tokens, self.readout.pool
        check_feedforward(config.feedforward, self.num_prefix_tokens, config.readout, "feedforward")
        grid, prefix = self.patch_embed.grid_size, self.num_prefix_tokens
        if config.positions == "learned":  # added to the tokens, [1, P + G^2, D] or None
            self.pos_embed = nn.Parameter(torch.empty(1, prefix + grid**2, config.dim).normal_(std=0.02))
        else:
            self.register_buffer("pos_embed", None, persistent=False)
        self.blocks = nn.ModuleList([Layer(config, i) for i in range(config.depth)])
        self.register_buffer("turns", None, persistent=False)  # [1, P + G^2, 2K] of rotary positions
        self.init_non_persistent_buffers()
        self.norm = nn.LayerNorm(config.dim)
        self.head_drop = nn.Dropout(config.drop_rate)
        self.grad_checkpointing = False
        self.reset_classifier(num_classes, global_pool)

    def place(self, keep_BK: Tensor | None = None) -> Place:
        """Returns the positions of the tokens. `keep_BK`: indices of the kept patches; None keeps all."""
        place = Place(self.num_prefix_tokens, self.patch_embed.grid_size, keep_BK)
        if self.turns is None:
            return place
        turns_BNK = self.turns if keep_BK is None else self.turns.expand(len(keep_BK), -1, -1)
        return replace(place, turns_BNK=place.select(turns_BNK))

    def encode(
        self,
        x_BCSS: Tensor,
        keep_BK: Tensor | None = None,
        taken: Taken | None = None,
        layers: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns normalised tokens [B, P + G^2, D] and the balance loss summed over layers (a scalar; 0 in evaluation).

        `keep_BK` holds int64 indices of the patches to keep per image. Only the kept patches and the prefix tokens go through
        the layers, with their positions. The result is then [B, P + K, D], in the order of `keep_BK`. Intermediates are
        stored in `taken`. `layers` is the number of layers to run; None runs all.
        """
        place = self.place(keep_BK)
        inside = None if taken is None else Taken(taken.kinds)
        x_BND = self.readout.prepend(self.patch_embed(x_BCSS, place, inside))
        for kind, value in (inside or {}).items():
            taken[f"patch_embed.{kind}"] = value
        if self.pos_embed is not None:
            x_BND = x_BND + self.pos_embed
        x_BND = place.select(x_BND)
        losses = [x_BND.new_zeros(())]
        if taken is not None:
            taken["embedding"] = x_BND
        for i, layer in enumerate(self.blocks[:layers]):
            inside = None if taken is None else Taken(taken.kinds)
            if self.grad_checkpointing and torch.is_grad_enabled():
                x_BND, balance = checkpoint(layer, x_BND, place, inside, use_reentrant=False)
            else:
                x_BND, balance = layer(x_BND, place, inside)
            losses.append(balance)
            for kind, value in (inside or {}).items():
                taken[f"blocks.{i}.{kind}"] = value
        x_BND = self.norm(x_BND)
        if taken is not None:
            taken["tokens"] = x_BND
        return x_BND, torch.stack(losses).sum()

    def intermediates(self, x_BCSS: Tensor, kinds: Collection[str] = INTERMEDIATES) -> dict[str, Tensor]:
        """Returns intermediate tensors of a forward pass, by name. Computes and stores only the given `kinds`.

        I counts layers from 0, and J the modules of a stem:

        - "patch_embed.residual.J.output" and "patch_embed.rest.J.output", the last maps of each stage of a residual stem and
          the maps of a pooled stem;
        - "embedding" [B, N, D], the input of the first layer;
        - "blocks.I.attention" [B, H, N, N], the attention weights, one row per query;
        - "blocks.I.values" [B, H, N, K], the values of the attention;
        - "blocks.I.gate" [B, N, E], in layers with more than one expert;
        - "blocks.I.output" [B, N, D];
        - "tokens" [B, N, D], the last output after the norm, as in `forward_features`.

        An attention layer without a method `look` has no weights here. Raises ConfigError for unknown kinds, and
        in training mode, because of its noise and dropout.
        """
        if isinstance(kinds, str) or not set(kinds) <= set(INTERMEDIATES):
            raise ConfigError(f"kinds must be some of {', '.join(INTERMEDIATES)}, as a list; got {kinds!r}")
        if self.training:
            raise ConfigError("intermediates need a model in evaluation mode: call eval() first")
        taken = Taken(kinds)
        self.encode(x_BCSS, taken=taken)
        return dict(taken)

    def forward_balanced(self, x_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, num_classes] and the balance loss, for the training objectives."""
        tokens_BND, balance = self.encode(x_BCSS)
        return self.forward_head(tokens_BND), balance

    def initialise_from(self, images_NCSS: Tensor) -> None:
        """Initialises the data-dependent weights. `images_NCSS`: normalised training images of the input size."""
        self.patch_embed.initialise_from(images_NCSS)

    @property
    def data_dependent(self) -> bool:
        """Whether `initialise_from` must run before training, because some weights depend on training images."""
        return self.patch_embed.data_dependent
