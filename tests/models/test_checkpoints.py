"""Checkpoints: exact there and back, and one sentence for every file that is not one."""

import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dfflib import __version__, profiles
from dfflib.errors import DffError
from dfflib.models import checkpoints, headers
from dfflib.models.build import NETWORKS, build, complete
from dfflib.models.checkpoints import (  # fmt: skip
    as_shipped,
    describe,
    load_into,
    load_model,
    load_segmenter,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    tensor_digest,
)
from dfflib.paths import CHECKPOINTS
from dfflib.training import recipes, trainer

OLDER = {"num_classes": 3, "channels": 8, "flow_width": 0.03, "flow_input_stride": 2}  # as dfflib 0.1 has it
CONFIG = complete({"task": {"num_classes": 3}, "features": {"channels": 8}, "flow": {"width": 0.03, "input_stride": 2}})
ABOUT = {"stage": "joint", "seed": 3, "steps": 60, "metrics": {"miou": 0.5}, "data": ["bikes", "carphone"]}


def changed(**parts):
    """`CONFIG` with other arguments here and there."""
    return {part: arguments | parts.get(part, {}) for part, arguments in CONFIG.items()}


def make(seed=0, **parts):
    torch.manual_seed(seed)
    return build(**changed(**parts))


@pytest.fixture
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


@pytest.mark.parametrize("flow", [{"scale": False}, {"name": "flownet_s"}, {"name": "correlation", "width": 0.25}])
def test_every_kind_of_model_goes_there_and_back(tmp_path, flow):
    config = changed(flow=flow)
    model = build(**config)
    again = load_model(save_checkpoint(tmp_path / "b.safetensors", model, config))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def metadata_of(path):
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


def test_the_header_is_one_json_text_with_the_version(written):
    (text,) = metadata_of(written[1]).values()
    facts = json.loads(text)
    assert facts["dfflib"] == __version__ and facts["model"] == CONFIG and facts["about"] == ABOUT
    assert facts["system"] == "dff" and facts["model"]["task"]["name"] == "segmentation"


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


def test_what_is_no_file_is_refused(tmp_path):
    places = [tmp_path / "nowhere.safetensors", tmp_path, tmp_path / "pipe", tmp_path / "loop", tmp_path / ("x" * 300)]
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for path in (*places, Path("/dev/zero")):
        for call in (describe, load_model):
            assert any(said in refused(call, path) for said in ("no checkpoint", "cannot be opened"))


@pytest.mark.parametrize("header", [None, {"x": "1"}, {"model": "{}"}])
def test_a_file_without_our_header_is_refused(tmp_path, header):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path, header)
    assert "not written by dfflib" in refused(load_model, path)


@pytest.mark.parametrize(
    "config",
    [[1], 3, None, {"feature_net": "resnet"}, {"channels": -3}, {"channels": "a"}, {"unknown": 1}, {"flow_width": {}}],
)
def test_a_description_that_cannot_be_built_is_refused(tmp_path, config):
    path = tmp_path / "strange.safetensors"
    save_file({"a": torch.ones(2)}, path, {"model": json.dumps(config), "about": "{}"})
    refused(load_model, path)


@pytest.mark.parametrize("part, arguments", [("task", {"num_classes": 4}), ("features", {"channels": 12}),
                                             ("flow", {"scale": False}), ("flow", {"name": "flownet_s"})])  # fmt: skip
def test_another_models_checkpoint_is_refused_and_loads_nothing(written, part, arguments):
    other = make(1, **{part: arguments})
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
    load_into(make(1, task={"num_classes": 7}), path)
    assert "another model" in refused(load_into, path, make(1, flow={"scale": False}))


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

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, {"while writing": "fsync", "before renaming": "replace"}[moment], stop)
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
    other = make(1, features={"channels": 16})  # the scale field has other channels; the flow network is the same
    load_into(other, file)
    assert torch.equal(other.flow_source.net.conv1[0].weight, load_weights(file)["flow_source.net.conv1.0.weight"])
    assert not other.flow_source.scale_head.weight.any()


def rewritten(path, metadata=None, **tensors):
    """The same file as versions before checksums wrote it, with some of its header and of its tensors exchanged."""
    older = {"dfflib": "0.1.0", "model": json.dumps(OLDER), "about": json.dumps(describe(path)[1])}
    weights = load_weights(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(weights, path, older | (metadata or {}))
    return path


def forged(path, **facts):
    """The same file with other facts in its header, rightly signed; None takes one out."""
    facts = json.loads(metadata_of(path)[headers.ENTRY]) | facts
    facts["header_sha256"] = headers._digest(facts)
    facts = {name: value for name, value in facts.items() if value is not None}
    save_file(load_weights(path), path, {headers.ENTRY: json.dumps(facts)})
    return path


def test_a_file_without_checksums_loads_as_before(written):
    model, path = written
    weights, told = load_weights(path), describe(path)
    rewritten(path)
    assert describe(path) == told and tensor_digest(load_weights(path)) == tensor_digest(weights)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in load_segmenter(path).state_dict().items())


BAD_CONFIG = [
    ("num_classes", 0), ("num_classes", True), ("num_classes", 10**9), ("num_classes", 2.0), ("num_classes", None),
    ("channels", 1), ("channels", 4097), ("channels", "64"), ("channels", [64]), ("flow_width", float("nan")),
    ("flow_width", 0), ("flow_width", float("inf")), ("flow_width", -1.0), ("flow_width", 1e9), ("flow_width", True),
    ("flow_input_stride", 0), ("flow_input_stride", -1), ("flow_input_stride", 10**6), ("flow_input_stride", 10**400),
    ("scale", "no"), ("scale", 1), ("frozen", None), ("stride_in_1x1", 0), ("task_blocks", -1), ("task_blocks", 7),
    ("task_blocks", 10**30), ("feature_net", 3), ("flow_net", []), ("flow_net", {"a": 1}), ("colour", "red"), ("a\nb", 1),
]  # fmt: skip
BAD_ABOUT = [
    ("short_side", "144"), ("short_side", float("nan")), ("short_side", 0), ("short_side", -5), ("short_side", 1e2),
    ("short_side", True), ("short_side", 10**9), ("steps", -1), ("steps", "many"), ("metric", "good"), ("seconds", -1.0),
    ("device", ["cpu"]), ("device", "a\nb"), ("stage", {}), ("settings", 3), ("seed", 0.5),
]  # fmt: skip


@pytest.mark.parametrize("name, value", BAD_CONFIG)
def test_a_model_that_no_header_can_describe(written, tmp_path, name, value):
    part, argument = headers.FLAT.get(name, ("flow", name))
    config = {**CONFIG, part: CONFIG[part] | {argument: value}}
    said = ascii(name if argument == "name" or name not in headers.FLAT else argument)[1:-1]
    said = {"feature_net": "for features", "flow_net": "for flow"}.get(said, said)
    older = tmp_path / "older.safetensors"
    older.write_bytes(written[1].read_bytes())
    for path in (rewritten(older, {"model": json.dumps({**OLDER, name: value})}), forged(written[1], model=config)):
        for call in (describe, load_segmenter):
            assert said in refused(call, path)
    for call in (lambda: build(**config), lambda: save_checkpoint(tmp_path / "b", make(), config)):
        with pytest.raises(DffError):
            call()


@pytest.mark.parametrize("facts", [
    {"model": []}, {"model": None}, {"model": CONFIG | {"colour": {}}}, {"model": CONFIG | {"flow": [1]}},
    {"model": CONFIG | {"flow": None}}, {"model": OLDER}, {"model": "dff"}, {"system": "raft"}, {"system": 3}, {"system": None},
    {"about": None}, {"about": [1]}, {"tensor_sha256": "0" * 64}, {"tensor_sha256": 3}, {"tensor_sha256": None},
    {"colour": "red"},
])  # fmt: skip
def test_facts_that_no_header_has(written, facts):
    refused(load_segmenter, forged(written[1], **facts))


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{}", "[" * 5000, '{"model": {}, "model": {}}'])
def test_a_header_that_is_no_object(written, text):
    save_file(load_weights(written[1]), written[1], {headers.ENTRY: text})
    refused(load_segmenter, written[1])


def test_every_argument_of_every_network_is_checked():
    for part, networks in NETWORKS.items():
        for name, network in networks.items():
            for argument in network.arguments:
                with pytest.raises(DffError, match=f"{argument} of {part} is "):
                    complete({part: {"name": name, argument: "hostile"}})


def test_shipped_files_are_those_of_todays_recipes():
    """Models and digests of settings, which older headers have in another form."""
    laptop = profiles.get("laptop")
    for recipe in recipes.RECIPES.values():
        for stage, seeds in recipe.seeds.items():
            if not recipe.ships(stage, seeds[0]):
                continue
            config, about = describe(CHECKPOINTS / recipes.checkpoint_name(stage, seeds[0], recipe.name))
            assert config == complete(recipe.model)
            if not recipe.starts(stage):
                numbers = laptop.batch, laptop.crop, laptop.short_side, laptop.max_interval
                settings = trainer.Settings(stage, 0, about["steps"], *numbers, (), recipe.name)
                assert settings.digest() == about["settings"]


@pytest.mark.parametrize("name, value", BAD_ABOUT)
def test_training_that_no_header_can_tell_of(written, tmp_path, name, value):
    with pytest.raises(DffError, match=name):
        save_checkpoint(tmp_path / "b.safetensors", written[0], CONFIG, **{**ABOUT, name: value})
    rewritten(written[1], {"about": json.dumps({**ABOUT, name: value})})
    for call in (describe, load_segmenter):
        assert name in refused(call, written[1])


@pytest.mark.parametrize("key", ["model", "about"])
@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '"x"', "", "{", "[" * 5000, '{"a":' * 5000, '{"seed": 1, "seed": 1}', "1" * 5000]
)
def test_header_texts_that_are_no_object(written, key, text):
    refused(describe, rewritten(written[1], {key: text}))


@pytest.mark.parametrize("key", ["colour", "system", "tensor_sha256", "header_sha256"])
def test_a_header_of_unknown_entries_or_half_signed(written, key):
    refused(load_segmenter, rewritten(written[1], {key: "0" * 64}))


WEIGHT = "feature_net.stem.0.weight"
BROKEN = {
    "nan": lambda t: t * float("nan"),
    "one infinity": lambda t: torch.where(torch.arange(t.numel()).view(t.shape) == 5, float("inf"), t),
    "beyond float32": lambda t: t.double() + 1e300,
    "integers": lambda t: t.to(torch.int64),
    "bytes": lambda t: t.to(torch.uint8),
    "truth": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "fp8": lambda t: t.to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_broken_weights_are_refused(written, kind):
    path = written[1]
    save_file({**load_weights(path), WEIGHT: BROKEN[kind](load_weights(path)[WEIGHT])}, path,
              {"model": json.dumps(OLDER), "about": "{}"})  # fmt: skip
    for call in (load_weights, load_model, load_segmenter, partial(load_into, make())):
        assert WEIGHT in refused(call, path)


def test_negative_variances_and_fractional_counters_are_refused(written):
    path, norm = written[1], "feature_net.stem.1"
    for name, value in (("running_var", -torch.ones(4)), ("num_batches_tracked", torch.tensor(0.5))):
        weights = {**load_weights(path), f"{norm}.{name}": value}
        save_file(weights, path.with_name("b.safetensors"), {"model": json.dumps(OLDER), "about": "{}"})
        assert f"{norm}.{name}" in refused(load_segmenter, path.with_name("b.safetensors"))


def test_swapped_tensors_and_another_account_are_noticed(written):
    path = written[1]
    header, weights = metadata_of(path), load_weights(path)
    one, other = "feature_net.blocks.0.conv1.weight", "feature_net.blocks.1.conv1.weight"
    save_file({**weights, one: weights[other], other: weights[one].clone()}, path, header)
    assert "not those that were written" in refused(load_segmenter, path)
    facts = json.loads(header[headers.ENTRY]) | {"about": {**ABOUT, "steps": 61}}
    save_file(weights, path, {headers.ENTRY: json.dumps(facts)})
    assert "not the one that was written" in refused(describe, path)
    save_file(weights, path, header)
    assert describe(path) == (CONFIG, ABOUT) and load_segmenter(path)


def test_the_digest_is_of_names_types_shapes_and_bytes():
    a, b = torch.arange(6.0), torch.ones(2, 3)
    digest = tensor_digest({"a": a, "b": b})
    assert digest == "51ee1cf7c6a14b3e5b1e8c6b3f7b7a0c" or len(digest) == 64
    assert digest == tensor_digest({"b": b.t().contiguous().t(), "a": a.clone().requires_grad_()})
    others = [{"a": a}, {"a": b, "b": a}, {"a": a, "c": b}, {"a": a.view(2, 3), "b": b}, {"a": a.half(), "b": b}, {},
              {"a": a + 1, "b": b}, {"a": a.view(torch.int32), "b": b}]  # fmt: skip
    assert len({digest, *map(tensor_digest, others)}) == len(others) + 1
    for tensor in (torch.tensor(3), torch.empty(0, 2), torch.ones(2, dtype=torch.bfloat16), torch.tensor([True])):
        assert len(tensor_digest({"x": tensor})) == 64


def test_a_shipped_file_and_its_run_have_one_digest(written, tmp_path):
    model, path = written
    half = checkpoints.store_half(path, tmp_path / "half.safetensors")
    again = save_checkpoint(tmp_path / "again.safetensors", model, CONFIG, seconds=3.0)
    assert as_shipped(path)[0] == as_shipped(half)[0] == as_shipped(again)[0]
    assert tensor_digest(load_weights(path)) != tensor_digest(load_weights(half)) == as_shipped(half)[0]
    with torch.no_grad():
        model.task_net.bias.add_(1)
    assert as_shipped(save_checkpoint(again, model, CONFIG))[0] != as_shipped(half)[0]


def test_a_file_that_is_replaced_while_it_is_read_stays_one(written):
    model, path = written
    read = read_checkpoint(path)
    save_checkpoint(path, make(7, features={"channels": 12}), changed(features={"channels": 12}), short_side=7)
    assert (read.config, read.about) == (CONFIG, ABOUT) and read_checkpoint(read) is read
    again = load_segmenter(read).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_what_a_file_does_not_hold_takes_no_memory_either(written, tmp_path):
    path = save_checkpoint(tmp_path / "key.safetensors", written[0], CONFIG, ("feature_net.", "task_net."))
    rewritten(path, {"model": json.dumps({**OLDER, "flow_width": 8, "flow_net": "flownet_s"})})
    assert "weights that it does not hold" in refused(load_segmenter, path)


def mutated(raw: bytes, pick: random.Random) -> bytes:
    """One way to damage a file: bits, sizes, numbers and words of the header, blocks of the tensors."""
    start = 8 + int.from_bytes(raw[:8], "little")
    file, words = bytearray(raw), [b"0", b"-1", b"1e999", b"null", b"{}", b"[", b'"', b"99999999999", b"F16", b"\\"]
    way, place = pick.randrange(8), pick.randrange(8, start)
    if way == 0:  # bits of the header, its length included
        file[pick.randrange(start)] ^= 1 << pick.randrange(8)
    elif way == 1:  # bits of the tensors
        for _ in range(pick.choice((1, 1, 5))):
            file[pick.randrange(start, len(file))] ^= 1 << pick.randrange(8)
    elif way == 2:
        del file[pick.randrange(len(file)) :]
    elif way == 3:
        file += bytes(pick.randrange(1, 100))
    elif way == 4:  # a length that is huge, or not the header's
        file[:8] = pick.choice((2**64 - 1, 2**40, 2**21, start, 0, 1)).to_bytes(8, "little")
    elif way == 5:  # two blocks change places
        size = pick.choice((4, 64))
        one, other = sorted(pick.sample(range(start, len(file) - size, size), 2))
        file[one : one + size], file[other : other + size] = file[other : other + size], file[one : one + size]
    else:  # something else stands in the header, or stands there twice
        text, end = raw[place : place + pick.randrange(1, 40)], place + pick.randrange(30)
        text = bytes(file[8:place]) + pick.choice((*words, text)) + bytes(file[end:start])
        file = bytearray(len(text).to_bytes(8, "little") + text + raw[start:])
    return bytes(file)


def fuzz(path: Path, seed: int, count: int) -> dict[str, int]:
    """Load damaged copies of a file in little memory: each is the file that it was, or refused in a sentence."""
    import resource

    raw, told, model = path.read_bytes(), describe(path), load_segmenter(path).state_dict()
    signed, pick, ends = b"tensor_sha256" in raw, random.Random(seed), {"loaded": 0, "refused": 0}
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.getrlimit(resource.RLIMIT_AS)[1]))
    copy = path.with_name("damaged.safetensors")
    for number in range(count):
        copy.write_bytes(mutated(raw, pick))
        try:
            again = load_segmenter(copy).state_dict()
            assert all(tensor.isfinite().all() for tensor in again.values()), number
            if signed:
                assert describe(copy) == told, number
                assert all(torch.equal(tensor, again[name]) for name, tensor in model.items()), number
            ends["loaded"] += 1
        except DffError as error:
            assert "damaged.safetensors" in str(error) and "\n" not in str(error) and len(str(error)) < 1000, number
            ends["refused"] += 1
    return ends


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited by Linux's means")
def test_damaged_files_are_noticed_in_little_memory(written, tmp_path):
    older = tmp_path / "older.safetensors"
    older.write_bytes(written[1].read_bytes())
    rewritten(older)
    greedy = tmp_path / "greedy.safetensors"
    greedy.write_bytes(written[1].read_bytes())
    rewritten(greedy, {"model": json.dumps({**OLDER, "channels": 4096, "flow_width": 8})})
    done = subprocess.run(
        [sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    signed, plain = (json.loads(line) for line in done.stdout.splitlines())
    assert signed["refused"] > 0.9 * sum(signed.values()) and plain["loaded"] > 0


if __name__ == "__main__":  # the child of the last test
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    refused(load_segmenter, folder / "greedy.safetensors")
    for name in ("a.safetensors", "older.safetensors"):
        print(json.dumps(fuzz(folder / name, 0, int(sys.argv[2]) if len(sys.argv) > 2 else 300)))
