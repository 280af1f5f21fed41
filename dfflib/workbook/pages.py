"""The pages that a run ends with: each executed notebook as HTML, and one index of notebooks, figures and tables.

Nothing needs the network. The index is one file with its style inside, and relative links. The notebook pages hold their
pictures, and formulas as MathML; only live widgets would come from the network, and beside them is a static picture.
"""

import os
import re
from dataclasses import dataclass
from datetime import datetime
from html import escape, unescape
from pathlib import Path
from string import Template
from urllib.parse import quote

from dfflib import __version__, profiles
from dfflib.errors import DffError
from dfflib.machine import machine
from dfflib.paths import write_atomically
from dfflib.workbook.notebooks import read_notebook

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
    """Convert an executed notebook to one HTML file."""
    from jinja2 import pass_context
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", embed_images=True)

    @pass_context
    def markdown(context, source: str) -> str:
        """A cell of prose as HTML."""
        return with_mathml(exporter.markdown2html(context, source))

    exporter.register_filter("markdown2html", markdown)
    resources = {"metadata": {"name": title, "path": str(executed.parent)}}
    page, _ = exporter.from_filename(str(executed), resources)
    # As few scripts from the network as there can be, and none that the page waits for.
    page = re.sub(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", "", page, flags=re.DOTALL)
    if "application/vnd.jupyter.widget" not in page:
        page = re.sub(r'<script src="[^"]*require[^"]*"></script>', "", page)
    page = re.sub(r'<script src="([^"]*require[^"]*)">', r'<script defer src="\1">', page)
    return write_atomically(target, page)


def with_mathml(html: str) -> str:
    """Formulas between dollars, in HTML, as MathML, which browsers draw by themselves; those in code stay as they are."""
    from latex2mathml.converter import convert

    def draw(found: re.Match) -> str:
        """One formula, or code with dollars in it."""
        display, inline = found["display"], found["inline"]
        if not (display or inline):
            return found[0]
        tex = re.sub(r"\\mathcal\s*([A-Z])", r"\\mathcal{\1}", unescape(display or inline))
        try:
            return convert(tex, display="block" if display else "inline")
        except Exception:  # not one that the converter knows: better LaTeX than nothing
            return found[0]

    code = r"<(?P<tag>code|pre)\b.*?</(?P=tag)>"
    return re.sub(rf"{code}|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", draw, html, flags=re.DOTALL)


def write_index(folder: Path, profile: str, outcomes: list[Outcome]) -> Path:
    """Write ``folder/index.html``."""
    about = profiles.get(profile).about
    page = PAGE.substitute(
        title=escape(f"Deep Feature Flow: {profile}"),
        profile=escape(profile),
        about=escape(about[0].upper() + about[1:]),
        version=escape(__version__),
        when=datetime.now().strftime("%d %B %Y, %H:%M"),
        machine="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in machine().items()),
        notebooks="\n".join(_notebook_row(outcome, folder) for outcome in outcomes),
        figures="\n".join(_gallery(outcome, folder) for outcome in outcomes) or "<p>No figures yet.</p>",
        tables="\n".join(_tables(folder)) or "<p>No results yet.</p>",
    )
    return write_atomically(folder / "index.html", page)


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


def _notebook_row(outcome: Outcome, folder: Path) -> str:
    title, line = headline(outcome.notebook)
    if outcome.html:
        title = f'<a href="{_link(outcome.html, folder)}">{escape(title)}</a>'
    else:
        title = escape(title)
    error = f'<p class="error">{escape(outcome.error)}</p>' if outcome.error else ""
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
    badge = f'<span class="badge {outcome.status.replace(" ", "-")}">{BADGES[outcome.status]}</span>'
    about = f"<strong>{title}</strong><p>{escape(line)}</p>{error}"
    return f"<tr><td>{about}</td><td>{badge}</td><td class=n>{seconds}</td></tr>"


def _gallery(outcome: Outcome, folder: Path) -> str:
    """The figures of one notebook, in the order in which it drew them; nothing if it has none."""
    files = [path for path in outputs_of(outcome.notebook.stem, folder) if path.parent.name == "figures"]
    files.sort(key=lambda path: path.stat().st_mtime)
    shown = "\n".join(_figure(path, folder) for path in files if path.suffix.lower() in PICTURES | VIDEOS)
    return f"<h3>{escape(headline(outcome.notebook)[0])}</h3>\n<div class=gallery>\n{shown}\n</div>" if shown else ""


def _figure(path: Path, folder: Path) -> str:
    link, name = _link(path, folder), _shown(path)
    if path.suffix.lower() in VIDEOS:
        medium = f'<video src="{link}" controls loop muted preload="metadata" title="{name}"></video>'
    else:
        medium = f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'
    return f"<figure>{medium}<figcaption>{name}</figcaption></figure>"


def _link(path: Path, folder: Path) -> str:
    return quote(os.fsencode(path.relative_to(folder).as_posix()))


def _shown(path: Path) -> str:
    """A file's name as HTML, also where it is no text."""
    return escape(os.fsencode(path.name).decode(errors="replace"))


def _tables(folder: Path) -> list[str]:
    return [_table(path, folder) for path in sorted((folder / "results").glob("*.csv"))]


def _table(path: Path, folder: Path) -> str:
    """One result file: columns that never change become its caption, numbers are rounded, long tables are folded."""
    import pandas as pd

    link = f'<a href="{_link(path, folder)}">{_shown(path)}</a>'
    try:
        table = pd.read_csv(path).dropna(axis="columns", how="all")
    except (ValueError, OSError) as error:  # an empty or damaged file must not cost the whole page
        return f"<p>{link} cannot be read ({escape(type(error).__name__)}).</p>"
    fixed = [name for name in table if len(table) > 1 and name != "value" and table[name].nunique(dropna=False) == 1]
    caption = ", ".join(f"{name} {table[name].iloc[0]}" for name in fixed)
    rows = table.drop(columns=fixed).to_html(
        index=False, border=0, na_rep="", escape=True, float_format=lambda number: f"{number:.4g}"
    )
    head = f"{link} <span>{len(table)} rows{escape('; ' + caption if caption else '')}</span>"
    body = f"<div class=scroll>{rows}</div>"
    if len(table) > LONG_TABLE:
        return f"<details><summary>{head}</summary>{body}</details>"
    return f"<section><h4>{head}</h4>{body}</section>"


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #1d2228; --soft: #5c6670; --line: #e1e5e9; --page: #fbfbfa; --card: #fff; --link: #0b5cad;
  --good: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #9aa4ae; --line: #30363d; --page: #14171a;
  --card: #1b1f24; --link: #79b8ff; --good: #56c58a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 3rem 1.5rem 5rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; padding-bottom: .4rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 2rem 0 .75rem; }
h4 { font-size: .95rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0; }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
header p, td p, h4 span, summary span, figcaption, footer { color: var(--soft); }
nav { margin-top: 1rem; display: flex; gap: 1.25rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem 1.5rem; margin: 1.75rem 0 0;
  padding: 1.1rem 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
dl div:first-child { grid-column: span 2; }
dt { color: var(--soft); font-size: .78rem; }
dd { margin: 0; font-size: .92rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .7rem .75rem .7rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-size: .8rem; font-weight: 500; white-space: nowrap; }
td p { font-size: .92rem; max-width: 44rem; }
td.n, th.n { text-align: right; white-space: nowrap; padding-right: 0; }
td p.error { color: var(--bad); }
.badge { white-space: nowrap; font-size: .85rem; color: var(--soft); }
.badge::before { content: ""; display: inline-block; width: .55em; height: .55em; margin-right: .5em;
  border-radius: 50%; background: currentColor; }
.badge.run, .badge.skipped { color: var(--good); }
.badge.failed { color: var(--bad); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(25rem, 100%), 1fr)); gap: 1.25rem;
  align-items: start; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden; background: var(--card); }
figure img, figure video { display: block; width: 100%; height: auto; background: #fff; }
figcaption { font-size: .82rem; padding: .5rem .8rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.dataframe { font-size: .86rem; width: auto; min-width: 22rem; }
.dataframe th, .dataframe td { padding: .3rem 1.25rem .3rem 0; }
h4 span, summary span { font-weight: 400; font-size: .85rem; margin-left: .5rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; font-size: .95rem; }
footer { margin-top: 4rem; font-size: .85rem; }
</style>
</head>
<body>
<header>
<h1>Deep Feature Flow</h1>
<p>Profile <strong>$profile</strong>. $about.</p>
<nav><a href="#notebooks">Notebooks</a><a href="#figures">Figures</a><a href="#results">Results</a></nav>
<dl>$machine</dl>
</header>
<main>
<h2 id="notebooks">Notebooks</h2>
<div class=scroll><table>
<thead><tr><th>Notebook</th><th>State</th><th class=n>Time</th></tr></thead>
<tbody>
$notebooks
</tbody>
</table></div>
<h2 id="figures">Figures</h2>
$figures
<h2 id="results">Results</h2>
$tables
</main>
<footer>dfflib $version, $when. This page needs no network; in the notebook pages, formulas and widgets do.</footer>
</body>
</html>
""")
