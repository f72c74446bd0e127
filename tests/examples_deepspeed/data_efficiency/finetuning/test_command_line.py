import argparse
import json

import pytest

from examples_deepspeed.data_efficiency.finetuning.clocks import Budget
from examples_deepspeed.data_efficiency.finetuning.command_line import (
    add_run_flags,
    print_errors_in_one_line,
    run_settings,
)

BUDGET = Budget(unit="steps", amount=1)


def parse(tmp_path, *flags):
    recipe = tmp_path / "recipe.json"
    recipe.write_text("{}")
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    return parser.parse_args(["--recipe", str(recipe), *flags])


def test_each_variant_and_seed_has_a_folder(tmp_path):
    arguments = parse(tmp_path, "--save", "runs/a", "--variant", "baseline")
    settings = run_settings(arguments, 7, BUDGET, {})
    assert settings.folder.parts == ("runs", "a", "baseline", "seed7")
    assert settings.seed == settings.description["seed"] == 7


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (["--engine", "deepspeed"], True),
        (["--save-interval", "3"], True),
        (["--seeds", "1", "2"], True),
        (["--learning-rate", "0.5"], False),
        (["--eval-interval", "3"], False),
        (["--bf16"], False),
    ],
)
def test_what_makes_a_run_another(tmp_path, flags, same):
    descriptions = [
        json.dumps(dict(run_settings(parse(tmp_path, *more), 1, BUDGET, {"n": 3}).description))
        for more in ([], flags)
    ]
    assert (descriptions[0] == descriptions[1]) == same


def test_errors_end_the_program_in_one_line(capsys):
    with pytest.raises(SystemExit) as ending, print_errors_in_one_line(ValueError):
        raise ValueError("no such\n  thing")
    assert ending.value.code == 1
    assert capsys.readouterr().err == "error: no such thing\n"
