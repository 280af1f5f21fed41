"""What pyproject.toml cannot say: a wheel carries the data that the library itself uses, from outside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = Path("data")
SHIPPED = ("checkpoints/joint_s0.safetensors", "published/*.csv")


class BuildPy(build_py):
    """Copies `SHIPPED` to ``dfflib/shipped``, where ``dfflib.paths`` looks; an editable installation reads ``data/``."""

    def run(self) -> None:
        """Build the package, and add the data."""
        super().run()
        for pattern in () if self.editable_mode else SHIPPED:
            found = sorted(DATA.glob(pattern))
            if not found:
                raise FileNotFoundError(f"{DATA / pattern} is missing: restore it with `git checkout data`.")
            for source in found:
                target = Path(self.build_lib, "dfflib", "shipped", source.relative_to(DATA))
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildPy})
