import pytest

from data_efficiency import ConfigError
from data_efficiency.config import DataEfficiencyConfig, Mix, load_config, section_of

WEIGHTS = [[3, 1], [1, 1], [0, 2]]


def read(**mix):
    section = {"data_efficiency": {"data_sampling": {"mix": mix}}}
    return load_config(section).data_efficiency.mix


def test_points_in_tokens_are_closed_by_the_rows():
    mix = read(weights=WEIGHTS, at_tokens=[0, 1000, 1e4], between="linear")
    assert mix.weights == ((0.75, 0.25), (0.5, 0.5), (0, 1))
    config = DataEfficiencyConfig(mix=mix)
    assert config.needs_length
    closed = config.with_length(100)
    assert closed.mix == Mix(weights=mix.weights, points=(0, 10, 100), is_linear=True)
    assert not closed.needs_length
    for each in (config, closed):
        assert load_config({"data_efficiency": section_of(each)}).data_efficiency == each


def test_the_same_in_python():
    mix = {"weights": WEIGHTS[:1], "at_samples": [0]}
    assert DataEfficiencyConfig.of(mix=mix).mix == read(**mix)
    assert DataEfficiencyConfig.of().mix is None
    assert DataEfficiencyConfig.of(mix=None).mix is None


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"weights": WEIGHTS}, "give at_tokens or at_samples, one of the two"),
        ({"weights": WEIGHTS, "at_tokens": [0], "at_samples": [0]}, "one of the two"),
        (
            {"weights": WEIGHTS, "at_tokens": [0, 5, 5]},
            r"at_tokens is \[0, 5, 5\]: must be .* increase",
        ),
        ({"weights": WEIGHTS, "at_tokens": [1, 5, 6]}, "increase from 0"),
        ({"weights": WEIGHTS, "at_samples": "0"}, "at_samples is '0'"),
        ({"weights": WEIGHTS, "at_tokens": [0, 1]}, "must be a list of 2 lists"),
        ({"weights": [[1, 1], [1]], "at_tokens": [0, 1]}, r"weights is \[\[1, 1\], \[1\]\]"),
        ({"weights": [[1, 1], [0, 0]], "at_tokens": [0, 1]}, "not all 0"),
        ({"weights": [[1, -1], [1, 1]], "at_tokens": [0, 1]}, "at least 0"),
        ({"weights": [[1, 10**400]], "at_tokens": [0]}, "weights is .* must be a list"),
        ({"weights": [[1e308, 1e308]], "at_tokens": [0]}, "weights is .* must be a list"),
        ({"weights": [[1, 1]], "at_tokens": [0], "betwen": 1}, "nearest known key is 'between'"),
        ({"at_tokens": [0]}, "weights is missing"),
    ],
)
def test_what_makes_no_sense(mix, message):
    with pytest.raises(ConfigError, match=message):
        read(**mix)
