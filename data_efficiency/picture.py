"""What all pictures share: an empty figure, colours, plain axes.

Source: Okabe and Ito, Color Universal Design (2008), and Tol, Colour Schemes (2021): the colours.
"""

from typing import TYPE_CHECKING

from data_efficiency.short_numbers import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE_COLOUR = "#000000"
COLOURS = ("#56B4E9", "#E69F00", "#882255", "#009E73", "#D55E00", "#0072B2")
DARK_BASELINE_COLOUR = "#f2f2f2"
DARK_COLOURS = ("#56B4E9", "#E69F00", "#E38BB5", "#2CC295", "#F0764A", "#9AA5FF")
"""The same on a dark ground, where three of them would not be seen."""
WIDEST, NARROWEST = 5.2, 1.7
GREY = "#5f5f5f"


def new_figure() -> "Figure":
    """An empty figure that needs no display and no global state.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise ModuleNotFoundError(
            "the picture needs matplotlib: pip install 'data-efficiency[report]'"
        ) from error
    figure = Figure(figsize=(12.5, 8.8), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.09, wspace=0.04)
    return figure


def tidy_axes(axes: "Axes") -> None:
    """Short numbers, a faint grid, no frame to the right and above."""
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")
