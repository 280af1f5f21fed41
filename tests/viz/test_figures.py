"""Pictures: shapes, types, the same twice, and no crash on what has no contrast."""

import base64
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dfflib import viz
from dfflib.data.clips import IGNORE
from dfflib.viz import colours, flow_to_rgb
from dfflib.viz.colours import CLASS_COLOURS


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def numbers(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


FRAME = (numbers(3, 12, 18) * 255).to(torch.uint8)
LABELS = torch.tensor([0, 1, 5, 14, IGNORE, 0]).repeat_interleave(3).expand(12, 18)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_to_image(dtype):
    frame = FRAME if dtype == torch.uint8 else (FRAME.float() / 255).to(dtype)
    image = colours.to_image(frame)
    assert image.shape == (12, 18, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - FRAME.permute(1, 2, 0).numpy()).max() <= (1 if dtype == torch.bfloat16 else 0)
    assert np.array_equal(colours.to_image(frame[None]), image)


def test_to_image_clips_and_rounds():
    assert colours.to_image(torch.tensor([[-1.0, 0.5], [2.0, 1.0]])).tolist() == [[0, 128], [255, 255]]
    array = np.zeros((3, 4))
    assert colours.to_image(array) is array


def test_to_png_holds_the_frame(tmp_path):
    (tmp_path / "a.png").write_bytes(viz.to_png(FRAME))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), FRAME.permute(1, 2, 0).numpy())


def test_colour_labels():
    picture = viz.colour_labels(LABELS)
    assert picture.shape == (12, 18, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == CLASS_COLOURS[0].tolist()
    assert picture[0, 3].tolist() == CLASS_COLOURS[1].tolist()
    assert picture[0, 9].tolist() == CLASS_COLOURS[2].tolist(), "colours repeat after twelve"
    assert picture[0, 12].tolist() == [255, 255, 255]
    assert len({tuple(c) for c in CLASS_COLOURS.tolist()}) == 12 and [255] * 3 not in CLASS_COLOURS.tolist()


@pytest.mark.parametrize("frame", [FRAME, FRAME.float() / 255])
def test_overlay(frame):
    before = frame.clone()
    picture = viz.overlay(frame, LABELS)
    assert picture.shape == (12, 18, 3) and picture.dtype == np.uint8
    assert (picture[:, 3] == 255).all() and (picture[:, 6] == 255).all(), "class borders are drawn"
    assert (picture[:, 1].astype(int) <= FRAME[:, :, 1].T.numpy().max(-1, keepdims=True)).all(), "class 0 is darkened"
    expected = 0.45 * FRAME[:, 5, 4].numpy() + 0.55 * CLASS_COLOURS[1]
    assert np.abs(picture[5, 4] - expected).max() <= 1
    assert torch.equal(frame, before) and np.array_equal(viz.overlay(frame, LABELS), picture)


@pytest.mark.parametrize("value", [0, 1, IGNORE])
def test_overlay_of_a_single_class(value):
    picture = viz.overlay(FRAME, torch.full((12, 18), value))
    assert picture.shape == (12, 18, 3) and not (picture == 255).all(), "no border, and the frame shows through"


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (5, 7)])
def test_pca_has_three_colours_whatever_the_features(channels, size):
    features = numbers(channels, *size)
    picture, basis = viz.pca_rgb(features)
    assert picture.shape == (*size, 3) and picture.dtype == np.uint8
    assert np.array_equal(viz.pca_rgb(features, basis)[0], picture), "its own basis gives the same colours"
    assert np.array_equal(viz.pca_rgb(features)[0], picture)


def test_pca_of_constant_features_is_flat():
    picture, _ = viz.pca_rgb(torch.full((8, 5, 6), 3.0))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_pca_shows_the_strongest_directions():
    features = 0.01 * numbers(6, 10, 10)
    features[2] += torch.linspace(-5, 5, 10)[:, None]
    features[4] += torch.linspace(-1, 1, 10)[None, :]
    picture, _ = viz.pca_rgb(features)
    red, green = picture[..., 0].astype(float), picture[..., 1].astype(float)
    assert red.std(0).min() > 20 and red.std(1).max() < 3, "red varies down only"
    assert green.std(1).min() > 20 and green.std(0).max() < 3, "green varies across only"


def test_a_shared_basis_keeps_colours_comparable():
    features = numbers(8, 6, 6)
    picture, basis = viz.pca_rgb(features)
    moved, _ = viz.pca_rgb(features.roll(2, -1), basis)
    assert np.array_equal(moved, np.roll(picture, 2, 1))


@pytest.mark.parametrize("max_motion", [0.0, 1.0, 30.0])
@pytest.mark.filterwarnings("error")
def test_flow_key(max_motion):
    wheel = viz.flow_key(max_motion, (41, 41))
    assert wheel.shape == (41, 41, 3) and wheel.dtype == np.uint8
    assert (wheel[0, 0] == 255).all() and (wheel[20, 20] >= 254).all()
    if max_motion:
        assert len({tuple(wheel[y, x]) for y, x in ((20, 0), (20, 40), (0, 20), (40, 20))}) == 4
        for (x, y), colour in (((-1.0, 0.0), wheel[20, 0]), ((0.0, 1.0), wheel[40, 20]), ((0.0, -1.0), wheel[0, 20])):
            vector = max_motion * torch.tensor([x, y]).view(2, 1, 1)
            assert np.abs(colour.astype(int) - flow_to_rgb(vector, max_motion)[0, 0]).max() <= 1, "left is left"


def test_stations_stand_end_to_end_in_their_order():
    rows = {"other": {"write": 4.0, "F": 2.0, "decode": 1.0}, "key": {"N_feat": 8.0, "decode": 1.5}}
    axis = viz.stations(rows).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["other", "key"] and axis.yaxis_inverted()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["decode", "N_feat", "F", "write"]
    pieces = {(bar.get_y() > 0.5, bar.get_x()): bar.get_width() for bar in axis.patches}
    assert pieces == {(False, 0): 1, (False, 1): 2, (False, 3): 4, (True, 0): 1.5, (True, 1.5): 8}


@pytest.mark.parametrize("size", [(41, 97), (97, 41)])
def test_a_flow_key_beside_pictures_is_as_large_as_they(size):
    wheel = viz.flow_key(3.0, size)
    assert wheel.shape == (*size, 3)
    middle = wheel[:, 28:69] if size[1] > size[0] else wheel[28:69]
    assert np.abs(middle.astype(int) - viz.flow_key(3.0, (41, 41))).mean() < 3
    assert (wheel[:3, :3] == 255).all() and (wheel[-3:, -3:] == 255).all()


def test_a_picture_inside_a_page(tmp_path):
    path = viz.write_gif(tmp_path / "a.gif", [FRAME.permute(1, 2, 0).numpy()] * 2)
    tag = viz.image_tag(path)
    encoded = re.fullmatch(r'<img src="data:image/gif;base64,([^"]+)" alt="a.gif" style="max-width: 100%">', tag)[1]
    assert base64.b64decode(encoded) == path.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_write_gif(tmp_path, count):
    frames = [np.roll(FRAME.permute(1, 2, 0).numpy(), i, 1) for i in range(count)]
    path = viz.write_gif(tmp_path / "new" / "a.gif", frames, fps=10)
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]
    with Image.open(path) as image:
        read = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
        assert image.n_frames == count and image.size == (18, 12)
        if count > 1:
            assert image.info["loop"] == 0 and image.info["duration"] == 100
    assert all(np.abs(a.astype(int) - b).mean() < 15 for a, b in zip(read, frames, strict=True))
    assert viz.write_gif(tmp_path / "b.gif", frames, fps=10).read_bytes() == path.read_bytes()


def test_write_gif_of_a_still_picture(tmp_path):
    path = viz.write_gif(tmp_path / "a.gif", [np.full((4, 5, 3), 7, np.uint8)] * 3)
    assert np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - 7).max() <= 4


def test_save_writes_the_same_png_twice(tmp_path):
    def draw():
        fig, axis = plt.subplots()
        axis.plot([1, 2, 3])
        return fig

    path = viz.save(draw(), "01_line", tmp_path)
    assert path == tmp_path / "figures" / "01_line.png"
    first = path.read_bytes()
    assert Image.open(path).format == "PNG"
    assert viz.save(draw(), "01_line", str(tmp_path)).read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["01_line.png"]


@pytest.mark.parametrize("count, columns, shape", [(1, None, (1, 1)), (3, None, (1, 3)), (5, 2, (3, 2))])
def test_show_lays_pictures_out(count, columns, shape):
    fig = viz.show([FRAME] * count, [f"t{i}" for i in range(count)], columns, caption="a caption")
    assert len(fig.axes) == shape[0] * shape[1] and sum(bool(a.images) for a in fig.axes) == count
    assert [a.get_title() for a in fig.axes][:count] == [f"t{i}" for i in range(count)]
    assert fig.texts[0].get_text() == "a caption"
    fig.canvas.draw()


@pytest.mark.parametrize("flow", [torch.zeros(2, 12, 18), numbers(2, 12, 18), torch.zeros(2, 12, 18) - 5])
@pytest.mark.parametrize("step", [4, 16, 100])
def test_draw_arrows(flow, step):
    fig, axis = plt.subplots()
    viz.draw_arrows(axis, FRAME, flow, step)
    fig.canvas.draw()


@pytest.mark.parametrize("limit", [None, 2.0])
def test_maps_share_one_colour_code(limit):
    values = [torch.zeros(5, 6), torch.full((1, 5, 6), 4.0), np.eye(5, 6)]
    fig = viz.maps(values, ["a", "b", "c"], "px", limit)
    assert {axis.images[0].get_clim() for axis in fig.axes[:3]} == {(0, limit or 4.0)}
    assert fig.axes[3].get_ylabel() == "px"
    fig.canvas.draw()


def test_maps_of_nothing_but_zeros():
    fig = viz.maps([torch.zeros(5, 6)])
    assert fig.axes[0].images[0].get_clim() == (0, 1.0)


def test_style():
    viz.use_style()
    assert plt.rcParams["image.interpolation"] == "nearest"
