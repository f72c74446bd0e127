import pytest

from data_efficiency import ConfigError
from megatron.recipes import SHIPPED
from tests.megatron.recipes.recipe_files import CASES, LATER, NUM_CASES, read


@pytest.mark.parametrize("family", CASES)
def test_every_row_of_the_published_tables_is_a_recipe(family):
    names = {
        f"{family}_{case}_{tokens}" for case, budgets in CASES[family].items() for tokens in budgets
    }
    assert {name for name in SHIPPED.recipes if name.startswith(family)} - {*LATER} == names
    assert len(SHIPPED.recipes) == sum(NUM_CASES.values()) + len(LATER)
    assert len(names) == NUM_CASES[family]


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ConfigError, match="'gpt_ltd_100b' is no run file: near it are gpt_ltd_"):
        SHIPPED.path("gpt_ltd_100b")
    with pytest.raises(ConfigError, match=r"'none\.toml' is no run file: there is no such file"):
        SHIPPED.path("none.toml")
    with pytest.raises(ConfigError, match=r"'gpt_1\.4b' is no model: near it are gpt_1\.3b"):
        SHIPPED.path("gpt_1.4b", "model")


def test_a_run_file_of_ones_own_builds_on_a_shipped_one(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('base = ["gpt_ltd_150b"]\n[training]\nlr = 5e-4\n')
    config = read(str(own), "--model", "gpt_125m", "--data-path", "corpus")
    assert (config.training.lr, config.model.hidden_size) == (5e-4, 768)
    assert config.training.train_tokens == 150 * 10**9
