"""The disk cache: exact, bounded, and right whatever happens to its files."""

import os
import pickle
import subprocess
import sys
import time
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from dfflib.data import cache as module
from dfflib.data.cache import DiskCache
from dfflib.errors import DffError

TYPES = (torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16)


def sample(number: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"x": torch.full((size,), number % 251, dtype=torch.uint8), "n": torch.tensor(number)}


def forbidden():
    raise AssertionError("made again")


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(
        a[k].shape == b[k].shape
        and a[k].dtype == b[k].dtype
        and torch.equal(a[k].contiguous().view(-1).view(torch.uint8), b[k].contiguous().view(-1).view(torch.uint8))
        for k in a
    )


def samples_in(cache: DiskCache) -> list:
    return sorted(cache.folder.glob("??/*.safetensors"))


@st.composite
def tensors(draw):
    dtype, shape = draw(st.sampled_from(TYPES)), draw(st.lists(st.integers(0, 4), max_size=4))
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    tensor = bits.view(dtype).reshape(shape)  # any bits: NaN and infinity too
    return tensor.permute(draw(st.permutations(range(len(shape)))))


@given(made=st.dictionaries(st.text("abz é", min_size=1), tensors(), max_size=4), key=st.text())
def test_round_trip_is_exact(made, key, tmp_path_factory):
    cache = DiskCache(tmp_path_factory.getbasetemp() / "round trip")
    cache.clear()
    assert cache.get(key, lambda: made) is made
    assert same(cache.get(key, forbidden), made)


def test_views_of_one_tensor_and_expanded_ones(tmp_path):
    clip = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    made = {"all": clip, "key": clip[0], "same": clip[0], "wide": clip[0].expand(3, 6), "odd": clip[:, ::2]}
    cache = DiskCache(tmp_path)
    cache.get("k", lambda: made)
    again = cache.get("k", forbidden)
    assert same(again, made)
    again["key"].zero_()  # a hit is the caller's own
    assert same(pickle.loads(pickle.dumps(cache)).get("k", forbidden), made)


def test_wrong_arguments(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DffError, match="is a file"):
        DiskCache(tmp_path / "file")
    with pytest.raises(DffError, match="above 0"):
        DiskCache(tmp_path, 0)


@pytest.mark.parametrize("damage", ["empty", "short", "header", "value", "foreign", "json"])
def test_damaged_files_are_made_again(tmp_path, damage):
    cache = DiskCache(tmp_path)
    cache.get("k", lambda: sample(7))
    (path,) = samples_in(cache)
    good = path.read_bytes()
    value = bytearray(good)
    value[-20] ^= 1
    bad = {"empty": b"", "short": good[:-9], "header": good[:30], "value": value, "foreign": b"\xff" * 99}
    path.write_bytes(bad.get(damage, b"\x02" + bytes(7) + b"[]"))
    assert same(cache.get("k", lambda: sample(7)), sample(7))
    assert same(cache.get("k", forbidden), sample(7))
    assert load_file(path)


def test_key_is_compared(tmp_path):
    cache = DiskCache(tmp_path)
    cache.get("a", lambda: sample(1))
    cache._path("b").parent.mkdir(exist_ok=True)
    os.replace(cache._path("a"), cache._path("b"))  # as if both keys had one SHA-256
    assert same(cache.get("b", lambda: sample(2)), sample(2))
    assert same(cache.get("b", forbidden), sample(2))


def test_least_recently_used_goes_first(tmp_path):
    file = len(module._pack(sample(1000), "0"))
    cache = DiskCache(tmp_path, 10 * file)
    for i in range(10):
        cache.get(str(i), lambda i=i: sample(1000 + i))
        os.utime(cache._path(str(i)), (0, 1e9 + i))
    cache.get("0", forbidden)  # renewed: now the youngest
    cache.get("new", lambda: sample(3))
    left = {k for k in [*map(str, range(10)), "new"] if cache._path(k).exists()}
    assert left == {"0", "2", "3", "4", "5", "6", "7", "8", "9", "new"}
    assert cache.size() <= cache.max_bytes


def test_bound_is_kept_and_foreign_files_stay(tmp_path):
    (tmp_path / "00").mkdir()
    (tmp_path / "00" / "mine.txt").write_text("precious", encoding="utf-8")
    cache = DiskCache(tmp_path, 40_000)
    for i in range(120):
        cache.get(str(i), lambda i=i: sample(i, 100 + 30 * i))
        assert cache.size() <= cache.max_bytes
    assert cache.size() > cache.max_bytes / 2
    assert same(cache.get("big", lambda: sample(5, 50_000)), sample(5, 50_000))
    assert not cache._path("big").exists()
    cache.clear()
    assert cache.size() == 0 and (tmp_path / "00" / "mine.txt").read_text(encoding="utf-8") == "precious"


def test_scans_are_rare(tmp_path, monkeypatch):
    cache, scans = DiskCache(tmp_path, 10_000_000), []
    files = cache._files
    monkeypatch.setattr(cache, "_files", lambda: scans.append(1) or files())
    for i in range(200):
        cache.get(str(i), lambda i=i: sample(i))
    assert len(scans) == 1


def test_full_disk_gives_the_sample_and_one_warning(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_warned", False)
    monkeypatch.setattr(module.os, "replace", full)
    cache = DiskCache(tmp_path)
    with pytest.warns(UserWarning, match="No space left"):
        assert same(cache.get("a", lambda: sample(1)), sample(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(cache.get("a", lambda: sample(1)), sample(1))
    assert cache.size() == 0  # no temporary file is left either


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_warned", False)
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="made each time"):
        assert same(DiskCache(tmp_path / "c").get("a", lambda: sample(1)), sample(1))


def test_killed_writer_is_swept_after_an_hour(tmp_path):
    folder = tmp_path / "ab"
    folder.mkdir()
    old, young = folder / ".old.1.part", folder / ".young.2.part"
    for path, age in ((old, 3700), (young, 60)):
        path.write_bytes(b"half")
        os.utime(path, (0, time.time() - age))
    DiskCache(tmp_path).get("k", lambda: sample(1))
    assert not old.exists() and young.exists()


FILL = """
import sys, random, warnings, torch
from dfflib.data.cache import DiskCache
warnings.simplefilter("error")
torch.set_num_threads(1)
folder, seed = sys.argv[1], int(sys.argv[2])
cache, choose = DiskCache(folder, 60_000), random.Random(seed)
make = lambda n: {"x": torch.full((1000,), n % 251, dtype=torch.uint8), "n": torch.tensor(n)}
sys.stdin.readline()
for turn in range(1200):
    n = choose.randrange(90)
    got = cache.get(str(n), lambda: make(n))
    assert all(torch.equal(got[k], v) for k, v in make(n).items())
    if turn % 10 == 0:
        assert cache.size() <= 60_000 + 2 * 1400, cache.size()
"""


def test_two_processes_fill_one_small_cache(tmp_path):
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    runs = [subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]
    for run in runs:
        run.stdin.write(b"\n")
        run.stdin.flush()
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors.decode()
    assert not list(tmp_path.rglob("*.part"))
    assert 20_000 < DiskCache(tmp_path).size() <= 60_000 + 2 * 1400
