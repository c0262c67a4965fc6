"""Weights are found in the stated order, the hub path against a local server, and every failure says what was tried."""

import hashlib
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save, save_file

from inlier import InlierError
from inlier.features import Backbone
from inlier.features.weights import find_weights


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {key: (value + 0.5).contiguous() for key, value in Backbone("resnet18", (8,)).net.state_dict().items()}


def test_an_explicit_path_comes_first_then_the_folder(tensors, tmp_path, monkeypatch):
    torch.save(tensors, tmp_path / "resnet18.pth")
    save_file({k: v + 1 for k, v in tensors.items()}, tmp_path / "mine.safetensors")
    monkeypatch.setenv("INLIER_WEIGHTS", str(tmp_path))
    from_folder, explicit = Backbone("resnet18", (8,)), Backbone("resnet18", (8,))
    assert from_folder.load().source == str(tmp_path / "resnet18.pth")
    explicit.load(tmp_path / "mine.safetensors")
    assert torch.equal(from_folder.net.conv1.weight, tensors["conv1.weight"])
    assert torch.equal(explicit.net.conv1.weight, tensors["conv1.weight"] + 1)


def test_the_embedded_backbone_needs_no_download():
    weights = Backbone("efficientnet_lite0", (16,)).load()
    assert weights.source.endswith("efficientnet-lite0-57934424.pth") and "Apache-2.0" in weights.licence


def test_layers_that_are_not_tapped_may_be_missing_others_not(tensors, tmp_path):
    del tensors["layer2.0.conv1.weight"]
    torch.save(tensors, tmp_path / "w.pth")
    Backbone("resnet18", (4,)).load(tmp_path / "w.pth")
    with pytest.raises(
        InlierError, match=r"lacks 1 tensors that resnet18 needs up to layer2, first 'layer2.0.conv1.weight'"
    ):
        Backbone("resnet18", (8,)).load(tmp_path / "w.pth")


def test_a_tensor_of_another_shape_is_named(tensors, tmp_path):
    tensors["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(InlierError, match=r"'conv1.weight' has the shape \(64, 1, 7, 7\)"):
        Backbone("resnet18", (4,)).load(tmp_path / "w.pth")


def test_nothing_found_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("INLIER_WEIGHTS", str(tmp_path))
    with pytest.raises(InlierError) as error:
        find_weights("alexnet")
    for words in (f"INLIER_WEIGHTS={tmp_path}", "alexnet-owt-7be5be79.pth", "--weights FILE", "efficientnet_lite0"):
        assert words in str(error.value)


def test_foreign_damaged_and_dangerous_files_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with open(tmp_path / "bomb.pth", "wb") as file:
        pickle.dump(Bomb(), file)
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "cut.safetensors", "bomb.pth", "list.pth", "nowhere.pth"):
        with pytest.raises(InlierError, match=name):
            find_weights("resnet18", tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_the_hub_is_asked_once_then_the_cache_serves(tensors, tmp_path):
    data = save(tensors)

    class Hub(BaseHTTPRequestHandler):
        asked: list[str] = []

        def do_HEAD(self):
            self.asked.append(f"{self.command} {self.path}")
            self.send_response(200)
            for name, value in {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": "c" * 40,
                "Content-Length": str(len(data)),
            }.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(data)

        def log_message(self, *_):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # torch is imported once; whoever asks is a process of its own
    code = """
import os
from huggingface_hub import hf_hub_download
from inlier.features import Backbone
backbone = Backbone("resnet18", (8,))
for _ in range(2):
    child = os.fork()
    if not child:
        print(backbone.load().source, backbone.net.conv1.weight.sum().item())
        break
    assert os.waitpid(child, 0)[1] == 0
"""
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert run.returncode == 0 and len(run.stdout.splitlines()) == 2, run.stderr
        for line in run.stdout.splitlines():
            source, total = line.split()
            assert source == "hf.co/timm/resnet18.tv_in1k"
            assert float(total) == pytest.approx(tensors["conv1.weight"].sum().item(), rel=1e-4)
        gets = [line for line in Hub.asked if line.startswith("GET") and "resolve" in line]
        assert gets == ["GET /timm/resnet18.tv_in1k/resolve/main/model.safetensors"]
    finally:
        server.shutdown()
        server.server_close()
