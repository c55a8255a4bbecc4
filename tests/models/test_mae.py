"""The masked auto-encoder: its masks, its order, its loss, against the formulas written literally."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from feathervit.config import (
    ConvMLPConfig,
    DecoderConfig,
    EncoderConfig,
    GQAConfig,
    LossConfig,
    MAEConfig,
    MLPConfig,
    MoEConfig,
    resolve,
)
from feathervit.errors import ConfigError
from feathervit.models import Encoder, MaskedAutoencoder, build_model, list_models, spec
from feathervit.recipes import recipe
from feathervit.training.objectives import Joint, Masked

ENCODER = EncoderConfig(dim=12, depth=2, attention=GQAConfig(4, 2), feedforward=MoEConfig(10, 4, experts=(2, 3)))
DECODER = DecoderConfig(dim=8, depth=2, attention=GQAConfig(2, 2), feedforward=MoEConfig(6, 6, (3,)))
MAE = MAEConfig(decoder=DECODER, visible_weight=0.1)


def build(mae: MAEConfig = MAE, encoder: EncoderConfig = ENCODER, img_size: int = 8, classes: int = 0):
    torch.manual_seed(0)
    return MaskedAutoencoder(Encoder(encoder, img_size, 2, 3, classes), mae)


def images(batch: int = 4, size: int = 8) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("ratio", "masked"), [(0.75, 12), (0.5, 8), (0.1, 2), (0.9, 14)])
def test_every_image_has_the_exact_number_of_masked_patches(ratio, masked):
    found = build(replace(MAE, mask_ratio=ratio))(images(32))
    assert (found.mask.sum(1) == masked).all()
    assert len({tuple(row) for row in found.mask.tolist()}) > 16  # each image has its own mask


def test_masks_are_uniform():
    model = build()
    shown = model.draw(4000, torch.device("cpu"), torch.Generator().manual_seed(0))[:, :4]
    share = torch.bincount(shown.flatten(), minlength=16) / 4000
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5  # five deviations
    pairs = (shown == 0).any(1) & (shown == 1).any(1)
    assert pairs.float().mean() == pytest.approx(4 / 16 * 3 / 15, abs=0.02)  # without replacement, independent


@pytest.mark.parametrize("positions", ["encoder", "learned"])
def test_the_decoder_restores_the_order_of_patches(positions):
    """With identity layers, a patch depends only on its own token."""
    model = build(replace(MAE, decoder=replace(DECODER, positions=positions))).eval()
    for layer in model.decoder_blocks:
        for last in (layer.attn.proj, layer.ffn.w2):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    keep = torch.tensor([[7, 2, 15, 4]])
    tokens = torch.randn(1, 5, 12, requires_grad=True)
    painted, _ = model.decode(tokens, keep)
    for patch in range(16):
        (grad,) = torch.autograd.grad(painted[0, patch].square().sum(), tokens, retain_graph=True, allow_unused=True)
        assert [int(keep[0, j]) for j in range(4) if grad[0, 1 + j].any()] == [patch] * (patch in keep)
        assert not grad[0, 0].any()  # the read-out token does not affect the patches


def test_the_decoder_adds_positions_only_to_mask_tokens():
    """Visible patches keep the encoder's output. Gaps get the mask token plus the encoder's position."""
    model, seen = build().eval(), {}
    model.decoder_embed.register_forward_hook(lambda module, args, out: seen.update(x=args[0]))
    tokens, keep = torch.randn(2, 5, 12), torch.tensor([[7, 2, 15, 4], [0, 1, 2, 3]])
    model.decode(tokens, keep)
    for b in range(2):
        assert_close(seen["x"][b, 0], tokens[b, 0])
        for patch in range(16):
            if patch in keep[b]:
                want = tokens[b, 1 + keep[b].tolist().index(patch)]
            else:
                want = model.mask_token[0, 0] + model.encoder.pos_embed[0, 1 + patch]
            assert_close(seen["x"][b, 1 + patch], want)


def test_patchify_matches_the_projection_and_is_invertible():
    model, x = build(), images()
    patches = model.patchify(x)
    assert_close(patches[1, 6], x[1, :, 2:4, 4:6].reshape(-1))
    assert_close(model.unpatchify(patches), x)
    projection = model.encoder.patch_embed.proj.weight.flatten(1)
    assert_close(patches @ projection.T, model.encoder.patch_embed(x))


@pytest.mark.parametrize("norm_pixels", [False, True])
def test_loss_is_equation_16(norm_pixels):
    model = build(replace(MAE, norm_pixels=norm_pixels, visible_weight=0.3))
    x, balance = images(), 0.0
    torch.manual_seed(5)
    loss, figures = Masked(model, LossConfig(moe=0.7))(x)
    torch.manual_seed(5)
    found = model(x)
    masked, visible = [], []
    for b in range(4):
        for patch in range(16):
            i, j = divmod(patch, 4)
            target = x[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1)
            if norm_pixels:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            error = ((found.patches[b, patch] - target) ** 2).mean()
            (masked if found.mask[b, patch] else visible).append(error)
    mse_masked, mse_visible = torch.stack(masked).mean(), torch.stack(visible).mean()
    balance = found.balance
    assert_close(loss, mse_masked + 0.3 * mse_visible + 0.7 * balance)
    assert_close([figures[k] for k in Masked.figures], [mse_masked, mse_visible, balance])
    assert balance > 0


def test_balance_loss_includes_encoder_and_decoder():
    without = build(replace(MAE, decoder=replace(DECODER, feedforward=MLPConfig(2.0))))
    assert without(images()).balance > 0  # the encoder's alone
    plain = build(MAE, replace(ENCODER, feedforward=MLPConfig(2.0)))
    assert plain(images()).balance > 0  # the decoder's alone


def test_joint_loss_is_the_weighted_sum_of_both_passes():
    model = build(replace(MAE, visible_weight=0.0), classes=5)
    x, y = images(), torch.tensor([0, 1, 2, 4])
    torch.manual_seed(5)
    loss, figures = Joint(model, LossConfig(label_share=0.2, moe=3.0))(x, y)
    torch.manual_seed(5)
    logits, balance = model.encoder.forward_balanced(x)
    found, entropy = model(x), torch.nn.functional.cross_entropy(logits, y)
    assert balance > 0
    assert_close(loss, 0.2 * entropy + 0.8 * found.masked + 3 * (balance + found.balance))
    assert_close(figures["cross_entropy"], entropy)
    assert_close(figures["top1"], (logits.argmax(1) == y).float().mean())


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_matching_decoder(name):
    config = resolve(replace(recipe("mae_cifar100_xxs"), model=name))
    model = build_model(config, 3, 100)
    assert model.decoder_head.out_features == 3 * config.patch_size**2
    decoder = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("encoder."))
    assert decoder < sum(p.numel() for p in model.encoder.parameters())
    x = torch.randn(2, 3, config.img_size, config.img_size)
    loss, _ = Masked(model, config.loss)(x)
    loss.backward()
    unused = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not unused


def test_mismatched_parts_are_refused():
    for ratio in (0.0, 0.01, 0.99, 1.0):
        with pytest.raises(ConfigError, match="mask ratio"):
            build(replace(MAE, mask_ratio=ratio))
    with pytest.raises(ConfigError, match=r"decoder\.feedforward\.reduction 4.*'mean'"):
        build(replace(MAE, decoder=replace(DECODER, feedforward=ConvMLPConfig(2.0))), replace(ENCODER, readout="mean"))
    with pytest.raises(ConfigError, match="decoder"):
        build(MAEConfig())
    assert spec("mlit_s").decoder != spec("mlit_nano").decoder
