"""Pictures: figures in one style, flow and labels as colours, results as plots."""

from dfflib.viz.colours import COLOURS, colour_labels, flow_to_rgb, overlay
from dfflib.viz.figures import (
    draw_arrows,
    flow_key,
    image_tag,
    maps,
    pca_rgb,
    save,
    show,
    stations,
    system,
    to_png,
    use_style,
    write_gif,
)
from dfflib.viz.plots import (
    accuracy_against_speed,
    bars,
    by_offset,
    curves,
    learning_curves,
    quantiles,
)

__all__ = [
    "COLOURS",
    "accuracy_against_speed",
    "bars",
    "by_offset",
    "colour_labels",
    "curves",
    "draw_arrows",
    "flow_key",
    "flow_to_rgb",
    "image_tag",
    "learning_curves",
    "maps",
    "overlay",
    "pca_rgb",
    "quantiles",
    "save",
    "show",
    "stations",
    "system",
    "to_png",
    "use_style",
    "write_gif",
]
