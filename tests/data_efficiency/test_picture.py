from data_efficiency.picture import COLOURS, new_figure, tidy_axes


def test_numbers_of_an_axis_are_short(tmp_path):
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([0, 3_000_000], [1, 2], color=COLOURS[0])
    tidy_axes(axes)
    figure.savefig(tmp_path / "a.png")
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert "1M" in labels
