import pytest

from data_efficiency import ConfigError
from megatron.recipes import read_recipe
from tests.megatron.recipes.recipe_files import CASES, FOLDER, NUM_CASES, SHIPPED, write_family


@pytest.mark.parametrize("family", CASES)
def test_every_row_of_the_published_tables_is_a_recipe(family):
    names = {
        f"{family}_{case}_{tokens}" for case, budgets in CASES[family].items() for tokens in budgets
    }
    shipped = {path.stem for path in (FOLDER / family / "recipes").glob("*.toml")}
    assert shipped == names
    assert len(names) == NUM_CASES[family]


def test_the_catalogue_has_the_recipes_of_all_families():
    assert set(SHIPPED.families) == set(CASES)
    assert len(SHIPPED.recipes) == sum(NUM_CASES.values())


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ConfigError, match="'gpt_ltd_100b' is no recipe: near it are gpt_ltd_"):
        SHIPPED.recipe_path("gpt_ltd_100b")
    with pytest.raises(ConfigError, match=r"'gpt_1\.4b' is no model: near it are gpt_1\.3b"):
        SHIPPED.model_path("gpt_1.4b")


def test_an_own_recipe_is_named_by_its_path(tmp_path):
    write_family(tmp_path)
    own = tmp_path / "gpt" / "recipes" / "small_run.toml"
    own.write_text(own.read_text().replace('"small"', '"gpt_125m"'))
    assert read_recipe(SHIPPED, str(own)).flags["hidden_size"] == 768
