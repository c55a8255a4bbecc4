"""The graph in ONNX Runtime agrees with the model, for any batch and image size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_sample_images

from feathervit.config import (
    ConvMLPConfig,
    ConvStemConfig,
    ImageConfig,
    LatentConfig,
    MLPConfig,
    SwiGLUConfig,
    WhitenedPatchesConfig,
    spec,
    with_fields,
)
from feathervit.data.image import fit_square, normalise, resize
from feathervit.export.int8 import METHODS, float_share, methods, quantise
from feathervit.export.lean import lean
from feathervit.export.onnx import core, finish
from feathervit.export.preprocess import OPSET
from feathervit.export.verify import probabilities, session
from feathervit.models import create_model, list_models

# The operators of ONNX at opset 18 that ONNX Runtime Web 1.22 lists for WebGPU (js/web/docs/webgpu-operators.md)
WEBGPU = set((Path(__file__).parent / "webgpu.txt").read_text().split())
FACTS = {"model": "some", "class_names": ["a", "b", "c"], "feathervit": "0"}


def ready(proto, size=16, channels=3, images=None, **kwargs):
    facts = FACTS | {"img_size": size, "channels": channels}
    return session(finish(proto, facts, images, **kwargs).SerializeToString())


def unseen(batch, size, channels=3, seed=1):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def expected(model, x):
    return model.eval()(x).softmax(-1).numpy()


def check_our_model(name, **parts):
    torch.manual_seed(0)
    size = spec(name).img_size
    model = create_model(name, num_classes=7, **parts)
    proto = core(model, size, 3)
    assert {node.op_type for node in proto.graph.node} <= WEBGPU
    run = ready(proto, size)
    for batch in (1, 3):
        x = unseen(batch, size)
        np.testing.assert_allclose(probabilities(run, x.numpy()), expected(model, x), atol=2e-6)


@pytest.mark.parametrize("name", ["feather_nano", "mlit_nano", "mae_vit"])
def test_convolutions_a_mixture_and_a_vit(name):
    check_our_model(name, depth=min(2, spec(name).config.depth))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_model(name):
    check_our_model(name)


PARTS = {
    "class token": {"readout": "class"},
    "mean": {"readout": "mean"},
    **{f"sharing {s}": {"feedforward.sharing": s} for s in ("v_w", "w_w2", "none")},
    "no choice": {"feedforward.top_k": 3, "feedforward.experts": (3,)},
    "one expert": {"feedforward.top_k": 1, "feedforward.experts": (1,)},
    "one of four": {"feedforward.top_k": 1, "feedforward.experts": (4,)},
    "ungrouped": {"attention.kv_heads": 4},
    "one layer": {"depth": 1},
    "no choice at first": {"feedforward.top_k": 1, "feedforward.experts": (1, 4)},
    "rotary": {"positions": "rotary"},
    "class tokens": {"readout": "class", "class_tokens": 3},
    "pool": {"readout": "pool"},
    "latent": {"attention": LatentConfig(4, 8)},
    "stem": {"patches": ConvStemConfig(2)},
    "whitened": {"patches": WhitenedPatchesConfig()},
    "conv-mlp": {"feedforward": ConvMLPConfig(2.0)},
    "mlp": {"feedforward": MLPConfig(2.0)},
    "swiglu": {"feedforward": SwiGLUConfig(24, 12)},
}


@pytest.mark.parametrize("name", PARTS)
def test_rewriting_keeps_the_outputs(name):
    torch.manual_seed(0)
    config = with_fields(spec("mlit_nano").config, **({"depth": 3} | PARTS[name]))
    model = create_model("mlit_nano", config=config, num_classes=5).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin, routes = lean(model)
    gates = {}
    for number, layer in enumerate(model.blocks, start=1):
        if getattr(layer.ffn, "gate", None) is not None:
            layer.ffn.gate.register_forward_hook(lambda _, __, out, number=number: gates.update({number: out[0]}))
    x = unseen(4, 16).double()
    np.testing.assert_allclose(expected(twin, x), expected(model, x), rtol=1e-12)
    assert list(routes.gates) == list(gates)  # the numbers of all layers with several experts
    for number, gate in routes.gates.items():
        torch.testing.assert_close(gate, gates[number][:, : gate.shape[1]])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def check_timm_model(name, size, **kwargs):
    torch.manual_seed(0)
    model = create_model(f"timm:{name}", img_size=size, num_classes=7, **kwargs)
    x = unseen(3, size)
    proto = core(model, size, 3)
    np.testing.assert_allclose(probabilities(ready(proto, size), x.numpy()), expected(model, x), atol=1e-4)
    levels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    ours = expected(model, normalise(levels.permute(0, 3, 1, 2), (0.5,), (0.5,)))
    np.testing.assert_allclose(probabilities(ready(proto, size, images=ImageConfig()), levels.numpy()), ours, atol=1e-4)


def test_a_timm_model():
    check_timm_model("test_resnet", 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_050", "mobilenetv4_conv_small", "vit_tiny_patch16_224", "mobilevit_xxs", "efficientvit_m0"],
)
def test_more_timm_models(name):
    check_timm_model(name, 96)


@pytest.fixture(scope="module")
def nano():
    torch.manual_seed(0)
    model = create_model("mlit_nano", num_classes=7, img_size=24, patch_size=2, depth=4)
    return model, core(model, 24, 3)


def test_the_router_is_not_frozen(nano):
    """For new inputs the gates equal those of the model, and other inputs choose other experts."""
    model, proto = nano
    gates = []
    for layer in model.blocks:
        layer.ffn.gate.register_forward_hook(lambda _, __, out: gates.append(out[0].numpy()))
    run, names = ready(proto, 24, routed=True), [out.name for out in proto.graph.output[1:]]
    found = []
    for seed in (1, 2):
        gates.clear()
        x = unseen(2, 24, seed=seed)
        expected(model, x)
        theirs = run.run(names, {"pixels": x.numpy()})
        assert len(theirs) == len(gates) == 4
        for ours, gate in zip(gates, theirs, strict=True):
            np.testing.assert_allclose(gate, ours[:, : gate.shape[1]], atol=2e-6)
            assert ((gate > 0).sum(-1) == 2).all()
        found.append(theirs[0].argmax(-1))
    assert (found[0] != found[1]).any()


def photographs():
    """Real photographs of several shapes and sizes, larger and smaller than the model's input."""
    china, flower = (torch.from_numpy(image.copy()) for image in load_sample_images().images)
    yield from (china, flower, china[:, :300], flower[100:124, 200:224], china[50:70, 100:111], flower[:33, :500])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_image_preprocessing_equals_the_package(nano, fit):
    model, proto = nano
    images = ImageConfig(fit=fit, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    run = ready(proto, 24, images=images, routed=True)
    for photograph in photographs():
        squares = resize(fit_square(photograph.permute(2, 0, 1)[None], fit), 24)
        seen, p = run.run(["seen", "probabilities"], {"image": photograph[None].numpy()})
        assert np.abs(seen - squares.numpy()).mean() < 0.01  # grey levels; the promise is at most 1
        assert np.abs(seen - squares.numpy()).max() <= 1
        np.testing.assert_allclose(p, expected(model, normalise(squares, images.mean, images.std)), atol=1e-3)


def test_a_batch_of_grey_images():
    torch.manual_seed(0)
    model = create_model("mlit_nano", num_classes=3, in_chans=1, depth=1)
    run = ready(core(model, 16, 1), 16, 1, ImageConfig())
    x = torch.randint(0, 256, (5, 1, 40, 31), dtype=torch.uint8)
    together = probabilities(run, x.permute(0, 2, 3, 1).numpy())
    squares = resize(fit_square(x, "crop"), 16)
    np.testing.assert_allclose(together, expected(model, normalise(squares, (0.5,), (0.5,))), atol=1e-3)


def test_contents_of_the_file(nano):
    _, proto = nano
    facts = FACTS | {"img_size": 24, "channels": 3}
    whole = finish(proto, facts, ImageConfig())
    found = {prop.key: prop.value for prop in whole.metadata_props}
    assert json.loads(found.pop("class_names")) == ["a", "b", "c"]
    made_for = {"opset": str(OPSET), "onnxruntime": ">=1.17"}
    assert found == {"model": "some", "feathervit": "0", "img_size": "24", "channels": "3", **made_for}
    assert whole.ir_version == 8
    assert not [node for node in whole.graph.node if node.op_type == "Constant"]
    assert {o.domain: o.version for o in whole.opset_import}[""] == OPSET
    assert [i.name for i in whole.graph.input] == ["image"]
    assert [o.name for o in whole.graph.output] == ["probabilities"]
    text = whole.SerializeToString()
    assert b"feathervit/" not in text  # paths of source files
    assert b"blocks." not in text
    for node in whole.graph.node:
        assert not node.metadata_props
        assert not node.doc_string


@pytest.mark.parametrize("images", [None, ImageConfig(), ImageConfig(fit="stretch", scale=4095.0)])
def test_onnx_runtime_can_prepare_the_file_for_quantisation(nano, images, tmp_path):
    from onnxruntime.quantization import quant_pre_process

    onnx.save(finish(nano[1], FACTS | {"img_size": 24, "channels": 3}, images), tmp_path / "whole.onnx")
    quant_pre_process(tmp_path / "whole.onnx", tmp_path / "prepared.onnx", skip_symbolic_shape=True)
    before, after = (session((tmp_path / f"{name}.onnx").read_bytes()) for name in ("whole", "prepared"))
    x = (
        unseen(2, 24).numpy()
        if images is None
        else np.full((2, 30, 40, 3), 100, np.float32 if images.scale else np.uint8)
    )
    np.testing.assert_allclose(probabilities(after, x), probabilities(before, x), atol=1e-6)


def test_a_fixed_batch_fixes_all_shapes(nano):
    model, proto = nano
    data = finish(proto, FACTS | {"img_size": 24, "channels": 3}, None, batch=4).SerializeToString()
    x = unseen(6, 24)  # one and a half batches
    np.testing.assert_allclose(probabilities(session(data), x.numpy()), expected(model, x), atol=2e-6)
    known = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), data_prop=True).graph
    shapes = [value.type.tensor_type.shape for value in (*known.input, *known.value_info, *known.output)]
    assert len(shapes) > len(known.node)
    assert all(dim.HasField("dim_value") for shape in shapes for dim in shape.dim)


def test_the_first_of_equal_scores_is_kept():
    model = create_model("mlit_nano", num_classes=5, depth=1).double()
    model.blocks[0].ffn.gate.w_gate.weight.data.zero_()
    twin, routes = lean(model)
    x = unseen(2, 16).double()
    np.testing.assert_allclose(expected(twin, x), expected(model, x), rtol=1e-12)
    assert (routes.gates[1][..., :2] == 0.5).all()


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_int8_leaves_no_matrix_in_float(nano, method):
    model, proto = nano
    small = quantise(proto, method, unseen(16, 24).numpy())
    values = {t.name: t for t in small.graph.initializer}
    floats = {name for name, t in values.items() if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) >= 2}
    made = {out: node for node in small.graph.node for out in node.output}

    def constant(name):  # also finds float weights behind a transposition, a concatenation, ...
        node = made.get(name)
        return name in floats or (
            node is not None and node.op_type != "DequantizeLinear" and node.input and all(map(constant, node.input))
        )

    products = [node for node in small.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert not [node.name for node in products if any(map(constant, node.input))]
    weights = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and p is not model.pos_embed)
    eight = sum(np.prod(t.dims) for t in values.values() if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2)
    noise = sum(layer.ffn.gate.w_noise.weight.numel() for layer in model.blocks)  # not in the graph
    assert eight == weights - noise
    assert float_share(small) < 0.1 < float_share(proto) == 1
    assert methods(proto) == ("dynamic", "static")  # there is no convolution


def test_convolutions_are_static_and_products_static_or_dynamic():
    """A residual stem in eight bits: per-channel QDQ convolutions, with static or dynamic products."""
    torch.manual_seed(0)
    model = create_model("feather_nano", num_classes=7)
    proto = core(model, 32, 3)
    kinds = [node.op_type for node in proto.graph.node]
    assert "Conv" in kinds and "BatchNormalization" not in kinds
    assert methods(proto) == METHODS
    x = unseen(32, 32, seed=3)
    for method in ("static", "mixed"):
        small = quantise(proto, method, unseen(32, 32, seed=4).numpy())
        made = {out: node for node in small.graph.node for out in node.output}
        weights = [made[node.input[1]] for node in small.graph.node if node.op_type == "Conv"]
        assert {node.op_type for node in weights} == {"DequantizeLinear"}
        scales = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
        assert all(scales[node.input[1]].size > 1 for node in weights)
        dynamic = {node.op_type for node in small.graph.node} & {"DynamicQuantizeLinear", "MatMulInteger"}
        assert bool(dynamic) == (method == "mixed")
        assert float_share(small) < 0.1
        assert np.abs(probabilities(ready(small, 32), x.numpy()) - expected(model, x)).max() < 0.05


def test_dynamic_int8_does_not_change_convolutions():
    torch.manual_seed(0)
    proto = core(create_model("timm:test_resnet", num_classes=7), 32, 3)
    assert float_share(quantise(proto, "dynamic", unseen(4, 32).numpy())) > 0.5
    assert float_share(quantise(proto, "static", unseen(4, 32).numpy())) < 0.1
