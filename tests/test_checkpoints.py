"""Checkpoints: exact there and back, and one sentence for every file that is not one."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dfflib import __version__, checkpoints
from dfflib.checkpoints import describe, load_into, load_model, load_weights, save_checkpoint
from dfflib.dff import build
from dfflib.errors import DffError

CONFIG = {"num_classes": 3, "channels": 8, "flow_width": 0.03, "flow_input_stride": 2}
ABOUT = {"stage": "joint", "seed": 3, "steps": 60, "metrics": {"miou": 0.5}, "data": ["bikes", "carphone"]}


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    return build(**{**CONFIG, **kwargs})


@pytest.fixture()
def written(tmp_path):
    model = make()
    with torch.no_grad():  # batch norm statistics too
        model.train()(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model, save_checkpoint(tmp_path / "a.safetensors", model, CONFIG, **ABOUT)


def refused(call, path, *args):
    """``call(*args, path)`` raises one sentence, in one line, that names the file."""
    with pytest.raises(DffError) as caught:
        call(*args, path)
    message = str(caught.value)
    assert Path(path).name in message and "\n" not in message and message.endswith(".")
    return message


def test_round_trip_is_exact(written):
    model, path = written
    again = load_model(path)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert tensor.dtype == again.state_dict()[name].dtype
    assert not any(module.training for module in again.modules())
    key, current = torch.rand(1, 3, 40, 52), torch.rand(1, 3, 40, 52)
    with torch.no_grad():
        torch.testing.assert_close(again(key, current), model.eval()(key, current), rtol=1e-4, atol=1e-4)


def test_the_model_is_rebuilt_from_its_description(written):
    again = load_model(written[1])
    assert again.flow_source.input_stride == 2 and again.task_net.weight.shape == (3, 8, 1, 1)
    assert describe(written[1]) == (CONFIG, ABOUT)


@pytest.mark.parametrize(
    "kwargs", [{"feature_net": "flownet_s", "width": 0.03}, {"scale": False}, {"flow_net": "flownet_s"}]
)
def test_every_kind_of_model_goes_there_and_back(tmp_path, kwargs):
    config = {**CONFIG, **kwargs}
    model = build(**config)
    again = load_model(save_checkpoint(tmp_path / "b.safetensors", model, config))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_header_is_plain_json_with_the_version(written):
    raw = written[1].read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert header["dfflib"] == __version__ and json.loads(header["model"]) == CONFIG


def test_writing_twice_gives_the_same_bytes(written, tmp_path):
    model, path = written
    assert save_checkpoint(tmp_path / "b.safetensors", model, CONFIG, **ABOUT).read_bytes() == path.read_bytes()


def test_channels_last_weights_are_stored_alike(written, tmp_path):
    model, path = written
    model = model.to(memory_format=torch.channels_last)
    assert save_checkpoint(tmp_path / "b.safetensors", model, CONFIG, **ABOUT).read_bytes() == path.read_bytes()


DAMAGE = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "one byte short": lambda raw: raw[:-1],
    "header cut": lambda raw: raw[:100],
    "zero bytes long": lambda raw: b"",
    "three bytes": lambda raw: raw[:3],
    "all zeros": lambda raw: bytes(5000),
    "random": lambda raw: (
        torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes()
    ),
    "something appended": lambda raw: raw + b"xx",
    "header overwritten": lambda raw: raw[:8] + b"\xff" * 200 + raw[208:],
    "text": lambda raw: b"<!DOCTYPE html><html>not found</html>",
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_file_is_refused(written, damage):
    model, path = written
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    for call in (describe, load_model, load_weights, partial(load_into, model)):
        assert "damaged" in refused(call, path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        assert "no checkpoint" in refused(load_model, path)


@pytest.mark.parametrize("header", [None, {"x": "1"}, {"model": "{}"}])
def test_a_file_without_our_header_is_refused(tmp_path, header):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path, header)
    assert "not written by dfflib" in refused(load_model, path)


@pytest.mark.parametrize(
    "config",
    [[1], 3, None, {"feature_net": "resnet"}, {"channels": -3}, {"channels": "a"}, {"unknown": 1}, {"width": {}}],
)
def test_a_description_that_cannot_be_built_is_refused(tmp_path, config):
    path = tmp_path / "strange.safetensors"
    save_file({"a": torch.ones(2)}, path, {"model": json.dumps(config), "about": "{}"})
    refused(load_model, path)


@pytest.mark.parametrize("kwargs", [{"num_classes": 4}, {"channels": 12}, {"scale": False}, {"flow_net": "flownet_s"}])
def test_another_models_checkpoint_is_refused_and_loads_nothing(written, kwargs):
    other = make(1, **kwargs)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    assert "another model" in refused(load_into, written[1], other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("parts", [("flow_source.",), ("feature_net.", "task_net.")])
def test_parts_alone_are_stored_and_the_rest_stays(written, tmp_path, parts):
    model, other = written[0], make(1)
    path = save_checkpoint(tmp_path / "part.safetensors", model, CONFIG, parts)
    assert set(load_weights(path)) == {name for name in model.state_dict() if name.startswith(parts)}
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    load_into(other, path)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, (model.state_dict() if name.startswith(parts) else before)[name]), name


def test_a_part_fits_where_the_rest_differs(written, tmp_path):
    path = save_checkpoint(tmp_path / "part.safetensors", written[0], CONFIG, ("flow_source.",))
    load_into(make(1, num_classes=7), path)
    assert "another model" in refused(load_into, path, make(1, scale=False))


def test_a_key_frame_checkpoint_gives_a_model_that_copies(written, tmp_path):
    path = save_checkpoint(tmp_path / "part.safetensors", written[0], CONFIG, ("feature_net.", "task_net."))
    model, key = load_model(path), torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        assert torch.equal(model(key, torch.rand(1, 3, 24, 32)), model.per_frame(key))


def test_an_empty_checkpoint_is_refused(written, tmp_path):
    path = save_checkpoint(tmp_path / "empty.safetensors", written[0], CONFIG, ("nothing.",))
    assert "it is empty" in refused(load_into, path, make())


@pytest.mark.parametrize("moment", ["while writing", "before renaming"])
def test_an_interrupted_write_leaves_the_old_file(written, monkeypatch, moment):
    path = written[1]
    old = path.read_bytes()

    def half(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    def stop(*args):
        raise KeyboardInterrupt

    if moment == "while writing":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, make(5), CONFIG)
    monkeypatch.undo()
    assert path.read_bytes() == old and [p.name for p in path.parent.iterdir()] == [path.name]
    assert checkpoints.load_model(path)


def test_half_precision_takes_half_the_space_and_loads_as_float32(written, tmp_path):
    model, path = written
    half = checkpoints.store_half(path, tmp_path / "half.safetensors")
    assert half.stat().st_size < 0.6 * path.stat().st_size
    config, about = describe(half)
    assert (config, about) == (CONFIG, {**ABOUT, "stored": "float16"})
    again = load_model(half).state_dict()
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype
        torch.testing.assert_close(again[name], tensor, rtol=2**-11, atol=1e-7)


def test_numbers_too_large_for_half_precision_are_refused(written, tmp_path):
    model, path = written
    with torch.no_grad():
        model.task_net.bias.fill_(1e6)
    save_checkpoint(path, model, CONFIG)
    assert "task_net.bias" in refused(lambda p: checkpoints.store_half(p, tmp_path / "half.safetensors"), path)
    assert not (tmp_path / "half.safetensors").exists()


def test_a_scale_field_that_a_file_does_not_hold_stays_as_it_is(tmp_path):
    file = save_checkpoint(tmp_path / "net.safetensors", make(), CONFIG, parts=("flow_source.net.",))
    other = make(1, channels=16)  # the scale field has other channels; the flow network is the same
    load_into(other, file)
    assert torch.equal(other.flow_source.net.conv1[0].weight, load_weights(file)["flow_source.net.conv1.0.weight"])
    assert not other.flow_source.scale_head.weight.any()
