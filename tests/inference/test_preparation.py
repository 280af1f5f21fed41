"""A model made ready: the same scores to rounding, the original untouched, and fall-backs that say so."""

import copy
import platform
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from dfflib import paths
from dfflib.errors import DffError
from dfflib.inference import preparation
from dfflib.inference.engine import Engine
from dfflib.inference.preparation import Packed, autocast, fold_batch_norm, keep_memory, pack, prepare
from dfflib.models.build import build

COMPILER = shutil.which("g++") and (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


def lively(model):
    """Batch norms with statistics that matter."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    "features, flow",
    [
        (dict(channels=8), dict(width=0.05)),
        (dict(name="resnet50"), dict(width=0.05)),
        (dict(task_blocks=2), dict(name="flownet_inception", width=0.1)),
    ],
)
def test_folding_changes_nothing_but_the_number_of_layers(features, flow):
    model = lively(build(dict(num_classes=5), features, flow))
    before = copy.deepcopy(model.state_dict())
    image = torch.rand(2, 3, 64, 80)
    ready = prepare(model, "cpu")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ready.modules())
    assert not any(p.requires_grad for p in ready.parameters())
    with torch.inference_mode():
        expected, found = model.per_frame(image), ready.per_frame(image)
        scale = expected.abs().max()
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_norm_that_follows_no_convolution_of_its_size_stays():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert [type(layer) for layer in fold_batch_norm(net)] == [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]


@pytest.mark.parametrize("name", ["flownet_s", "flownet_sr", "flownet_inception"])
def test_packed_weights_give_what_the_plain_layers_give(name):
    torch.manual_seed(0)
    model = build(features=dict(channels=8), flow=dict(name=name, width=0.06)).eval()
    net, ready = model.flow_source.net, prepare(model, "cpu").flow_source.net
    assert list(ready.state_dict()) == list(net.state_dict())
    for size in ((1, 6, 45, 70), (3, 6, 45, 70), (1, 6, 64, 37), (1, 6, 45, 70)):
        pair = torch.rand(size).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            for expected, found in (
                (net(pair), ready(pair)),
                (net.estimate(net.encode_key(pair[:, 3:]), pair[:, :3]),
                 ready.estimate(ready.encode_key(pair[:, 3:]), pair[:, :3])),
            ):  # fmt: skip
                for a, b in zip((*expected[0], expected[1]), (*found[0], found[1]), strict=True):
                    torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)


LAYERS = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2, 1), nn.LeakyReLU(0.1), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.LeakyReLU(0.3), nn.Conv2d(8, 2, 1)
)  # fmt: skip


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no kernels with packed weights")
def test_weights_are_packed_once_a_size_and_kept_once_a_layout():
    with torch.inference_mode():
        layers = pack(copy.deepcopy(LAYERS))
        forward = layers[0].forward
        assert isinstance(forward, Packed) and isinstance(layers[1], nn.Identity)
        for count in (1, 2, 1):
            layers(torch.rand(count, 3, 32, 48))
        weights = list(forward.packed.values())
        assert len(weights) == 2
        layout = torch.ops.mkldnn._get_mkldnn_serialized_md
        assert (weights[0] is weights[1]) == torch.equal(layout(weights[0]), layout(weights[1]))


def test_what_packed_kernels_cannot_do_the_layers_do():
    layers, x = pack(copy.deepcopy(LAYERS)), torch.rand(2, 3, 9, 13)
    expected = LAYERS(x).detach()
    torch.testing.assert_close(copy.deepcopy(layers)(x), expected)
    torch.testing.assert_close(copy.deepcopy(layers).double()(x.double()).float(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert layers(x).dtype == torch.bfloat16
        torch.testing.assert_close(layers(x).float(), expected, atol=0.05, rtol=0.05)
    layers(x.requires_grad_()).sum().backward()
    found = x.grad.clone()
    x.grad = None
    LAYERS(x).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_without_such_kernels_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert [type(layer) for layer in pack(copy.deepcopy(LAYERS))] == [type(layer) for layer in LAYERS]


def test_compiling_that_fails_is_told_and_does_no_harm(monkeypatch):
    def broken(function, **_):
        def call(*args):
            raise RuntimeError("no C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model = build(features=dict(channels=8), flow=dict(width=0.05)).eval()
    ready = prepare(model, "cpu", compile=True)
    image = torch.rand(1, 3, 32, 32)
    with pytest.warns(UserWarning, match="ResidualSegmenter runs without torch.compile.*no C\\+\\+ compiler"):
        found = ready.extract(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert torch.equal(ready.extract(image), found)
    torch.testing.assert_close(found, model.extract(image), atol=1e-4, rtol=1e-4)


def test_precision():
    device = torch.device("cpu")
    layer, x = nn.Linear(4, 4), torch.rand(2, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(device, precision):
            assert layer(x).dtype == dtype
    with pytest.MonkeyPatch.context() as patch:
        for amx, dtype in ((False, torch.float32), (True, torch.bfloat16)):
            patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
            with preparation.autocast(device, "auto"):
                assert layer(x).dtype == dtype
    with pytest.raises(DffError, match="no precision 'half'"):
        autocast(device, "half")


PAGES = """
import resource, sys, torch
from dfflib.inference.preparation import keep_memory
torch.set_num_threads(1)
kept = keep_memory() if sys.argv[1] == "keep" else True
for n in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**n) for n in range(18, 24)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before if kept else -1)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_asked_for_again():
    def pages(how: str) -> int:
        """Pages that the system had to hand out for blocks which were there before."""
        done = subprocess.run(
            [sys.executable, "-c", PAGES, how],
            cwd=paths.ROOT,
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
        return int(done.stdout)

    assert 0 <= pages("keep") < 100 < pages("plain")


def test_elsewhere_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_memory() is False


@pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler, or no Python.h")
def test_a_compiled_model_gives_the_same_labels_and_says_nothing(recwarn, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # no other process compiles into it
    torch.manual_seed(0)
    model = build(dict(num_classes=3), dict(channels=8), dict(width=0.1)).eval()
    frames = [torch.randint(0, 255, (3, 32, 48), dtype=torch.uint8) for _ in range(3)]
    plain, fast = Engine(prepare(model, "cpu")), Engine(prepare(model, "cpu", compile=True))
    for engine in (plain, fast):
        engine.key(frames[0])
    torch.testing.assert_close(fast._keys.features, plain._keys.features, rtol=1e-3, atol=1e-4)
    assert (fast.others(frames[1:]) == plain.others(frames[1:])).float().mean() > 0.99
    assert [str(w.message) for w in recwarn if "without torch.compile" in str(w.message)] == []
