"""What the networks see, what comes out for it, and how many frames go together."""

import pytest
import torch

from dfflib.inference import engine
from dfflib.inference.engine import Engine
from dfflib.inference.schedule import FixedInterval
from dfflib.inference.stream import predictions
from tests.inference.test_stream import frames, net


@pytest.fixture(scope="module")
def model():
    return net()


def test_labels_have_full_size_whatever_the_networks_see(model):
    pictures = frames(3, (61, 83))
    for short_side, seen in ((None, (61, 83)), (30, (30, 41)), (500, (61, 83))):
        assert tuple(Engine(model, short_side).images(pictures).shape) == (3, 3, *seen)
        results = list(predictions(model, pictures, FixedInterval(2), short_side))
        assert [tuple(r.result.shape) for r in results] == [(61, 83)] * 3


@pytest.mark.parametrize("layout", ["as decoded", "plane by plane", "a window of a larger frame"])
@pytest.mark.parametrize("short_side", [None, 20])
def test_network_input_is_the_frames_over_255(model, layout, short_side):
    pictures = frames(3, (30, 41))
    if layout == "as decoded":
        pictures = [p.permute(1, 2, 0).contiguous().permute(2, 0, 1) for p in pictures]
    elif layout != "plane by plane":
        pictures = [torch.nn.functional.pad(p, (3, 2, 1, 4))[:, 1:31, 3:44] for p in pictures]
    images = Engine(model, short_side).images(pictures)
    expected = torch.stack(pictures).double() / 255
    if short_side:
        expected = torch.nn.functional.interpolate(expected, size=(20, 27), mode="area")
    assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-6)


def test_a_batch_is_bounded_by_memory_and_labels_stay_the_same(model, monkeypatch):
    one = Engine(model)
    assert one.most((128, 128)) == engine.MOST and one.most((4320, 7680)) == 1
    assert Engine(model, 256).most((1080, 1920)) > one.most((1080, 1920))
    pictures, sizes, others = frames(9), [], Engine.others
    expected = [result.result for result in predictions(model, pictures, FixedInterval(9), mode="batched")]
    monkeypatch.setattr(
        Engine, "others", lambda self, batch, rows: (sizes.append(len(batch)), others(self, batch, rows))[1]
    )
    monkeypatch.setattr(engine, "BATCH_BYTES", 3 * 32 * 40 * (engine.RESULT_BYTES + engine.IMAGE_BYTES))
    found = [result.result for result in predictions(model, pictures, FixedInterval(9), mode="batched")]
    assert sizes == [3, 3, 2] and all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
