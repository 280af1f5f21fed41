"""Deep Feature Flow for video recognition: a workbook in notebooks, and the compact library that they import."""

from dfflib._version import __version__

__all__ = ["DeepFeatureFlow", "DffError", "__version__"]


def __getattr__(name: str):
    # torch takes seconds to import; `dfflib --help` and a second `dfflib reproduce` need none of it.
    if name == "DeepFeatureFlow":
        from dfflib.models.dff import DeepFeatureFlow

        return DeepFeatureFlow
    if name == "DffError":
        from dfflib.errors import DffError

        return DffError
    raise AttributeError(f"module 'dfflib' has no attribute {name!r}")
