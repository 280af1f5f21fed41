"""Pictures: figures in one style, flow and labels as colours."""

from dfflib.viz.colours import colour_labels, flow_to_rgb, overlay
from dfflib.viz.figures import (
    COLOURS,
    STATIONS,
    STYLE,
    draw_arrows,
    flow_key,
    image_tag,
    maps,
    pca_rgb,
    save,
    show,
    stations,
    to_png,
    use_style,
    write_gif,
)

__all__ = [
    "COLOURS",
    "STATIONS",
    "STYLE",
    "colour_labels",
    "draw_arrows",
    "flow_key",
    "flow_to_rgb",
    "image_tag",
    "maps",
    "overlay",
    "pca_rgb",
    "save",
    "show",
    "stations",
    "to_png",
    "use_style",
    "write_gif",
]
