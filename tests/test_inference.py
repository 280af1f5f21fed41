"""A model made ready: the same scores to rounding, the original untouched, and fall-backs that say so."""

import copy
import warnings

import pytest
import torch
from torch import nn

from dfflib import inference
from dfflib.dff import build
from dfflib.errors import DffError
from dfflib.inference import autocast, fold_batch_norm, prepare


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


@pytest.mark.parametrize("options", [dict(channels=8, flow_width=0.05), dict(feature_net="resnet50", flow_width=0.05),
                                     dict(task_blocks=2, flow_net="flownet_inception", flow_width=0.1)])  # fmt: skip
def test_folding_changes_nothing_but_the_number_of_layers(options):
    model = lively(build(num_classes=5, **options))
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


def test_compiling_that_fails_is_told_and_does_no_harm(monkeypatch):
    def broken(function, **_):
        def call(*args):
            raise RuntimeError("no C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model = build(channels=8, flow_width=0.05).eval()
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
            with inference.autocast(device, "auto"):
                assert layer(x).dtype == dtype
    with pytest.raises(DffError, match="no precision 'half'"):
        autocast(device, "half")
