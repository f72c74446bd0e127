import json

import pytest

from data_efficiency import load_config
from megatron.arguments import parse_run_config
from tests.megatron.recipes.recipe_files import SHIPPED, write_family
from tools import recipe


@pytest.mark.parametrize("family", ["", "bert"])
def test_list_names_every_recipe_of_a_family_or_of_all(family, capsys):
    assert recipe.main(["list", family] if family else ["list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[::2]]
    assert listed == [name for name in SHIPPED.recipes if name.startswith(family)]


def test_shipped_recipes_are_right(capsys):
    assert recipe.main(["check"]) == 0
    assert capsys.readouterr().out == f"{len(SHIPPED.recipes)} recipes are right\n"


def test_check_says_what_is_wrong(tmp_path):
    first, second = recipe.check(write_family(tmp_path))[:2]
    assert first == "small_run: no comment Source:"
    assert second == "small_run: no comment Cost:"
    broken = write_family(tmp_path, recipe='model = "small"\nflag = 3\n')
    assert "nearest known key is 'flags'" in recipe.check(broken)[0]


def test_show_prints_cost_command_and_json(capsys):
    assert recipe.main(["show", "gpt_cl_ltd_300b", "--num-processes", "64"]) == 0
    printed = capsys.readouterr().out
    assert "377,232 steps" in printed
    content = json.loads(printed.split("ds_config.json:\n")[1])
    assert len(load_config(content).data_efficiency.schedules) == 2


def test_analysis_says_which_indexes_are_needed(capsys):
    assert recipe.main(["analysis", "gpt_cl_ltd_300b", "--scale-down"]) == 0
    assert capsys.readouterr().out.split() == ["gpt", "949,50,1", "64", "vocab_rarity"]
    assert recipe.main(["analysis", "gpt_cl_truncate_300b"]) == 0
    assert capsys.readouterr().out.split() == ["gpt", "949,50,1", "2048"]
    assert recipe.main(["analysis", "bert_cl_voc_reorder_1049b"]) == 0
    assert capsys.readouterr().out.split() == ["bert", "949,50,1", "512", "seqlen_vocab_rarity"]


def test_write_leaves_what_a_launcher_needs(tmp_path):
    save = tmp_path / "a run"
    flags = ["--scale-down", "--seed", "5", "--data-path", "corpus", "--save", str(save)]
    assert recipe.main(["write", "gpt_ltd_300b", *flags]) == 0
    script, *words = (save / "recipe" / "command").read_text().splitlines()
    assert script == "pretrain_gpt.py"
    settings = parse_run_config("", words)
    assert (settings.training.seed, settings.checkpoint.save) == (5, str(save))
    config = load_config(settings.training.deepspeed_config)
    assert config.data_efficiency.random_ltd is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["show", "gpt_basline_300b"], "near it are gpt_baseline_300b"),
        (["list", "bart"], "nearest known key is 'bert'"),
        (["show", "gpt_ltd_300b", "--num-processes", "48"], "48 processes cannot share it"),
        (["show", "gpt_ltd_300b", "--model", "bart"], "'bart' is no model"),
    ],
)
def test_bad_input_is_one_line(refused, flags, message):
    assert message in refused(recipe.main, flags)
