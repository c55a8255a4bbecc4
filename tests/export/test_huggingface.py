"""The Hugging Face folder in transformers and PEFT, and its upload to a stand-in for the hub."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from PIL import Image
from torch.testing import assert_close

import feathervit
import feathervit.models
from feathervit.checkpoint import load_weights, weights_digest
from feathervit.cli import main
from feathervit.errors import ConfigError
from feathervit.models import create_model


@pytest.fixture(scope="module")
def exported(photographs_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("huggingface") / "out"
    assert feathervit.export_model(photographs_run, "huggingface", out)["passed"]
    return out


def test_transformers_loads_the_folder(exported, photographs_run, photographs):
    transformers = pytest.importorskip("transformers")
    predictor = feathervit.load(photographs_run)
    path = sorted((photographs / "test" / "flat").glob("*.jpg"))[0]
    image = Image.open(path).convert("RGB")
    processor = transformers.AutoImageProcessor.from_pretrained(exported)
    model = transformers.AutoModelForImageClassification.from_pretrained(exported).eval()
    weights = predictor.model.state_dict()
    found = {name.removeprefix("timm_model."): value for name, value in model.state_dict().items()}
    assert found.keys() == weights.keys() and all(torch.equal(found[n], weights[n]) for n in found)
    pixels = processor(image)["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    with torch.no_grad():
        assert_close(model(pixels).logits, predictor.model(pixels))
    assert tuple(model.config.id2label[i] for i in range(3)) == predictor.class_names
    classify = transformers.pipeline("image-classification", model=str(exported))
    assert classify(image, top_k=1)[0]["label"] == predictor.predict([str(path)])[0].label
    other = transformers.AutoModelForImageClassification.from_pretrained(
        exported, num_labels=5, ignore_mismatched_sizes=True
    )
    loss = other(pixel_values=torch.zeros(2, 3, 16, 16), labels=torch.tensor([0, 4])).loss
    loss.backward()
    assert other.timm_model.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_computed_positions_are_restored_after_loading(positions):
    """transformers builds models on the meta device and fills them from the file."""
    model = create_model("mlit_nano", depth=2, positions=positions, readout="mean").eval()
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    again = create_model("mlit_nano", depth=2, positions=positions, readout="mean").to("meta").to_empty(device="cpu")
    for module in again.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    again.load_state_dict(model.state_dict())
    assert_close(again.eval()(x), expected)


def test_lora_trains_only_adapters():
    """As in PEFT's example for timm models: LoRA on the attention, and the whole classifier is trained."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = create_model("feather_nano", num_classes=3)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["qkv", "conv1"], modules_to_save=["head"], lora_alpha=8)
    )
    x, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2] * 2)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name or "head" in name for name in trained)
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(adapted(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, p in adapted.named_parameters():
        assert name in trained or torch.equal(p, before[name]), name
    expected = adapted.eval()(x)
    merged = adapted.merge_and_unload().eval()
    assert type(merged) is type(model)
    assert_close(merged(x), expected, rtol=1e-4, atol=1e-4)


class Hub(BaseHTTPRequestHandler):
    """Answers an upload of small files like the hub: the repository, the upload mode of each file, the commit."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    refuse = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refuse or self.headers.get("Authorization") != "Bearer hf_stand_in":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"http://{self.headers['Host']}/me/{json.loads(body)['name']}", "id": "me/tiny"})
        if "/preupload/" in self.path:
            named = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in named]
            return self.answer({"files": modes})
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": f"http://{self.headers['Host']}/me/tiny/commit/0", "commitOid": "0" * 40})
        return self.answer({})

    def do_GET(self):
        self.answer({"id": "me/tiny", "siblings": [], "sha": "0" * 40})

    do_HEAD = do_GET

    def answer(self, found, status=200):
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants, hf_api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    for module in (constants, hf_api.constants):
        monkeypatch.setattr(module, "ENDPOINT", address)
    monkeypatch.setattr(Hub, "files", {})
    yield Hub
    server.shutdown()
    with contextlib.suppress(OSError):
        server.server_close()


def test_push_uploads_the_folder(hub, photographs_run, tmp_path, capsys, monkeypatch):
    command = ["export", str(photographs_run), "--to", "huggingface", "--push", "me/tiny"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "uploaded to http://127.0.0.1" in capsys.readouterr().out
    assert hub.files.keys() == {"config.json", "model.safetensors", "README.md"}
    for name, data in hub.files.items():
        assert (tmp_path / "a" / name).read_bytes() == data
    assert b"hf-hub:me/tiny" in hub.files["README.md"]
    monkeypatch.setattr(hub, "refuse", True)
    assert main([*command, "--out", str(tmp_path / "b")]) == 2
    assert "cannot push to me/tiny" in capsys.readouterr().err
    assert (tmp_path / "b" / "model.safetensors").exists()
    with pytest.raises(ConfigError, match="--push"):
        feathervit.export_model(photographs_run, "onnx", tmp_path / "c", push="me/tiny")


def test_a_hugging_face_folder_loads_again(digits_run, held_out, tmp_path):
    report = feathervit.export_model(digits_run, "huggingface", tmp_path / "out")
    assert report["agreement"] == 1
    assert report["weights"] == weights_digest(digits_run / "best.safetensors")
    folder = shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    images = held_out.images[:20]
    assert feathervit.load(folder).predict(images) == feathervit.load(digits_run).predict(images)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "mlit_nano"
    assert config["label_names"][7] == "7"
    assert config["num_classes"] == 10
    card = (folder / "README.md").read_text()
    test = json.loads((digits_run / "result.json").read_text())["test"]
    header, text = card.split("---\n")[1:3]
    assert "library_name: feathervit" in header
    for phrase in ("digits", f"{100 * test['top1']:.2f} %", "360 images", "Limits", "Licence"):
        assert phrase in text


def test_timm_loads_a_hugging_face_folder(digits_run, held_out, tmp_path):
    """With its own weights and architecture, not those of the same name in the package."""
    feathervit.export_model(digits_run, "huggingface", tmp_path / "out")
    predictor = feathervit.load(digits_run)
    name = f"local-dir:{tmp_path / 'out'}"
    found = timm.create_model(name, pretrained=True).eval()
    ours, theirs = predictor.model.state_dict(), found.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    config = timm.data.resolve_model_data_config(found)
    assert (config["input_size"], list(config["mean"]), config["crop_pct"]) == ((1, 16, 16), [0.5], 1.0)
    other = timm.create_model(name, pretrained=True, num_classes=3, in_chans=3)
    assert other.head.weight.shape[0] == 3
    assert torch.equal(other.blocks[0].attn.qkv.weight, found.blocks[0].attn.qkv.weight)
    assert timm.create_model(name).config == found.config


def test_an_edited_licence_is_kept(digits_run, tmp_path):
    messages = []
    feathervit.export_model(digits_run, "huggingface", tmp_path)
    (tmp_path / "README.md").write_text("license: mine")
    feathervit.export_model(digits_run, "huggingface", tmp_path, say=messages.append)
    assert (tmp_path / "README.md").read_text() == "license: mine"
    assert "kept" in messages[0]


def test_a_classifier_that_is_not_linear_keeps_the_temperature(digits_run):
    """Two linear classifiers, as of distilled models, include it."""
    from feathervit.export.huggingface import _with_temperature

    stored = dataclasses.replace(load_weights(digits_run), temperature=3.0)
    model = feathervit.load(digits_run).model
    head = model.head
    model.get_classifier = lambda: torch.nn.Sequential(head)
    assert _with_temperature(stored, model) is stored
    model.get_classifier = lambda: (head, model.blocks[0].ffn.w2)
    found = _with_temperature(stored, model)
    divided = {name for name, w in found.weights.items() if not torch.equal(w, stored.weights[name])}
    assert divided == {"head.weight", "blocks.0.ffn.w2.weight", "blocks.0.ffn.w2.bias"}
    assert_close(found.weights["head.weight"], stored.weights["head.weight"] / 3)
    assert found.temperature == 1


@pytest.mark.parametrize(("model", "patch"), [("timm:resnet18_xxs", None), ("timm:vit_twin_xxs", 4)])
def test_timm_loads_a_folder_of_a_timm_model(model, patch, arrays, tmp_path):
    fields = {"img_size": 16, "patch_size": patch, "epochs": 1, "optim.name": "adamw", "augment.policy": "none"}
    feathervit.train(recipe="folder", data=arrays, out=tmp_path / "run", model=model, batch_size=48, **fields)
    feathervit.export_model(tmp_path / "run", "huggingface", tmp_path / "out", data=arrays)
    found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    weights = load_weights(tmp_path / "run").weights
    assert all(torch.equal(t, weights[n]) for n, t in found.state_dict().items())
    grey = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=2, in_chans=1)
    assert grey(torch.zeros(2, 1, 16, 16)).shape == (2, 2)
