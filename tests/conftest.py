"""What all tests share: one or two threads, no network, no window, and the development data beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # processes that share the cores
THREADS = max(1, min(2, (os.cpu_count() or 1) // WORKERS))

# Set before torch, OpenCV and matplotlib are imported, and inherited by the commands and kernels that tests start.
wanted = os.environ.get("OMP_NUM_THREADS", "")
threads = str(min(THREADS, int(wanted))) if wanted.isdigit() and int(wanted) else str(THREADS)
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # alike, or torch obeys the larger
    os.environ[variable] = threads
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="Agg", JUPYTER_PLATFORM_DIRS="1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products, where a GPU is present


def pytest_configure(config: pytest.Config) -> None:
    from hypothesis import settings

    # A shared machine is no stopwatch; and what fails in CI should fail again at home.
    settings.register_profile("dfflib", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("dfflib")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")  # the longest file begins


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the development data (CamVid, DAVIS), which is no part of the project; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no development data in ../shared/data beside this checkout")
    return SHARED_DATA
