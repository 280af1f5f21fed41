"""The pages that a run ends with: each executed notebook as HTML, and one index of notebooks, figures and tables.

Nothing needs the network. The index is one file with its style inside, and relative links. The notebook pages hold their
pictures, and formulas as MathML; only live widgets would come from the network, and beside them is a static picture. How the
pages look is in ``templates/``.
"""

import os
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dfflib import __version__, profiles
from dfflib.errors import DffError
from dfflib.machine import machine
from dfflib.paths import write_atomically
from dfflib.workbook.notebooks import read_notebook

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
LONG_TABLE = 12  # rows; longer ones are folded
PICTURES = {".png", ".gif", ".jpg", ".svg", ".webp"}
VIDEOS = {".mp4", ".webm"}
BADGES = {
    "run": "done now",
    "skipped": "up to date",
    "earlier": "from before",
    "failed": "failed",
    "not run": "not run",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes:
        notebook: its source.
        status: ``run``, ``skipped`` (done before with the same code and parameters), ``failed``, or, where it was not
            selected, ``earlier`` or ``not run``.
        seconds: of the run that its page shows; None if it has none.
        error: one sentence if it failed.
        html: its page; None if it has none.
    """

    notebook: Path
    status: str
    seconds: float | None = None
    error: str = ""
    html: Path | None = None


def outputs_of(name: str, folder: Path) -> list[Path]:
    """Figures and results of a notebook: the files that carry its number."""
    number = name.split("_")[0]
    return [path for kind in ("figures", "results") for path in sorted((folder / kind).glob(f"{number}_*"))]


def write_page(executed: Path, target: Path, title: str) -> Path:
    """Convert an executed notebook to one HTML file, by nbconvert and the template ``templates/notebook``."""
    from jinja2 import pass_context
    from jinja2.runtime import Context
    from nbconvert import HTMLExporter

    folder = str(executed.parent)

    @pass_context
    def markdown2html(context: Context, source: str) -> str:
        """A cell of prose as HTML."""
        return markdown_to_html(source, folder, context.get("cell", {}).get("attachments", {}))

    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)], embed_images=True)
    exporter.register_filter("markdown2html", markdown2html)
    page, _ = exporter.from_filename(str(executed), {"metadata": {"name": title, "path": folder}})
    return write_atomically(target, page)


def markdown_to_html(source: str, folder: str = "", attachments: dict | None = None) -> str:
    """Prose of a notebook as HTML: pictures are embedded, and formulas are MathML, which browsers draw by themselves.

    Args:
        source: Markdown.
        folder: that pictures are looked for in.
        attachments: of the cell.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        """nbconvert's, which leaves formulas to a script from the network."""

        def inline_math(self, body: str) -> str:
            """A formula in a line of text."""
            return mathml(body, "inline") or super().inline_math(body)

        def block_math(self, body: str) -> str:
            """A formula on a line of its own."""
            return mathml(body, "block") or super().block_math(body)

    renderer = Renderer(escape=False, embed_images=True, path=folder, attachments=attachments)
    return MarkdownWithMath(renderer).render(source)


def mathml(tex: str, display: str) -> str:
    """A formula in LaTeX as MathML, ``"inline"`` or ``"block"``; empty if the converter does not know a command of it."""
    from latex2mathml.converter import convert

    try:
        return convert(re.sub(r"\\mathcal\s*([A-Z])", r"\\mathcal{\1}", tex), display=display)
    except Exception:  # of many kinds; better LaTeX than nothing
        return ""


def write_index(folder: Path, profile: str, outcomes: list[Outcome]) -> Path:
    """Write ``folder/index.html``."""
    return write_atomically(folder / "index.html", index_page(folder, profile, outcomes))


def index_page(folder: Path, profile: str, outcomes: list[Outcome]) -> str:
    """The index of a run folder as HTML."""
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            profile=profiles.get(profile),
            machine=machine(),
            notebooks=[_notebook(outcome, folder) for outcome in outcomes],
            badges=BADGES,
            tables=[_table(path, folder) for path in sorted((folder / "results").glob("*.csv"))],
            long_table=LONG_TABLE,
            version=__version__,
            when=datetime.now().strftime("%d %B %Y, %H:%M"),
        )
    )


@cache
def environment() -> "Environment":
    """Where the templates are found, and how they are read: what they are given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def headline(notebook: Path) -> tuple[str, str]:
    """Title and one-line description of a notebook: its first heading and its first paragraph, as plain text.

    A notebook that cannot be read has its name for a title.
    """
    try:
        cells = read_notebook(notebook).cells
    except DffError:
        return notebook.stem, ""
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    heading = re.search(r"^#\s+(.+)$", text, re.MULTILINE)
    blocks = (block.strip() for block in re.split(r"\n\s*\n|^#.*$", text, flags=re.MULTILINE))
    paragraph = next((block for block in blocks if re.match(r"[\w*_`\"'(\[$]", block)), "")
    return _plain(heading[1]) if heading else notebook.stem, _plain(paragraph)


def _plain(markdown: str) -> str:
    """Markdown without its marks, for one line of text."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"(\*\*|\*|`)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    return " ".join(text.replace("$", "").split())


def _notebook(outcome: Outcome, folder: Path) -> dict:
    """What the index shows of one notebook; its figures are in the order in which it drew them."""
    title, line = headline(outcome.notebook)
    files = [path for path in outputs_of(outcome.notebook.stem, folder) if path.parent.name == "figures"]
    files = [path for path in files if path.suffix.lower() in PICTURES | VIDEOS]
    figures = [
        {**_linked(path, folder), "is_video": path.suffix.lower() in VIDEOS}
        for path in sorted(files, key=lambda path: path.stat().st_mtime)
    ]
    link = _linked(outcome.html, folder)["link"] if outcome.html else ""
    return dict(outcome=outcome, title=title, line=line, link=link, figures=figures)


def _linked(path: Path, folder: Path) -> dict[str, str]:
    """A file's address in the index, and its name, also where that is no text."""
    return {
        "link": quote(os.fsencode(path.relative_to(folder).as_posix())),
        "name": os.fsencode(path.name).decode(errors="replace"),
    }


def _table(path: Path, folder: Path) -> dict:
    """One result file: columns that never change become its caption, numbers are rounded."""
    import pandas as pd

    file = _linked(path, folder)
    try:
        table = pd.read_csv(path).dropna(axis="columns", how="all")
    except (ValueError, OSError) as error:  # an empty or damaged file must not cost the whole page
        return {**file, "error": type(error).__name__, "num_rows": 0, "caption": ""}
    fixed = [name for name in table if len(table) > 1 and name != "value" and table[name].nunique(dropna=False) == 1]
    rows = table.drop(columns=fixed).to_html(
        index=False, border=0, na_rep="", escape=True, float_format=lambda number: f"{number:.4g}"
    )
    caption = ", ".join(f"{name} {table[name].iloc[0]}" for name in fixed)
    return {**file, "error": "", "num_rows": len(table), "caption": caption, "rows": rows}
