"""Published runs by name: `list` them, `show` one's command and JSON, `write` its files, `check` all.

python tools/recipe.py show gpt_cl_ltd_300b --num-processes 8
python tools/recipe.py write gpt_cl_ltd_300b --scale-down --data-path corpus --save runs/a
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.command import run_command

from megatron.recipes import (
    Catalogue,
    PreparedRun,
    Recipe,
    cost_line,
    prepare_run,
    read_recipe,
    scale_down,
)
from megatron.recipes.toml_file import check_known, read_toml

FOLDER = Path(__file__).resolve().parents[1] / "examples_deepspeed" / "data_efficiency"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="recipes with their tokens and published results")
    listing.add_argument("family", nargs="?", metavar="FAMILY", help="gpt or bert; all by default")
    commands.add_parser("check", help="read, prepare and cost every recipe")
    for name, text in (
        ("show", "print the cost, the command and the JSON file of a recipe"),
        ("analysis", "print family, split and sequence length, then the indexes that are needed"),
        ("write", "write SAVE/recipe/ds_config.json and the command line, one word a line"),
    ):
        add = commands.add_parser(name, help=text, allow_abbrev=False).add_argument
        add("recipe", metavar="RECIPE", help="name, or path of a .toml file")
        add("--model", help="another model than the recipe's")
        add("--scale-down", action="store_true", help="the same shape, seconds on a CPU")
        add("--engine", choices=("torch", "deepspeed"), help="instead of its own")
        add("--num-processes", type=int, default=1, metavar="N")
        add("--micro-batch-size", type=int, metavar="N")
        add("--seed", type=int, metavar="N")
        add("--data-path", nargs="+", metavar="TEXT", help="corpus or blend")
        add("--difficulty", default="difficulty", metavar="FOLDER", help="of the indexes")
        add("--save", metavar="FOLDER", required=name == "write", help="of the run")
    return parser.parse_args(argv)


def prepared(catalogue: Catalogue, arguments: argparse.Namespace) -> tuple[Recipe, PreparedRun]:
    """The recipe that the command line names, and how it runs here."""
    recipe = read_recipe(catalogue, arguments.recipe, model=arguments.model)
    if arguments.scale_down:
        recipe = scale_down(recipe)
    names = ("micro_batch_size", "seed", "data_path", "save")
    given: dict[str, Any] = {
        name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None
    }
    run = prepare_run(
        recipe,
        num_processes=arguments.num_processes,
        difficulty=arguments.difficulty,
        engine=arguments.engine,
        flags=given,
    )
    run.config()
    return recipe, run


def list_recipes(catalogue: Catalogue, family: str | None) -> None:
    """Prints two lines for each recipe of a family, or of all."""
    if family is not None:
        check_known([family], catalogue.families, "list")
    shown = {
        name: path
        for name, path in catalogue.recipes.items()
        if family in (None, path.parents[1].name)
    }
    width = max(map(len, shown), default=0)
    for name, path in shown.items():
        file = read_toml(path)
        print(f"{name:{width}}  {file.comment[0]}\n{'':{width}}  {file.remark('Result')}")


def check(catalogue: Catalogue) -> list[str]:
    """What is wrong with the shipped recipes, a line each."""
    wrong = []
    for name, path in catalogue.recipes.items():
        try:
            recipe = read_recipe(catalogue, name)
            for each in (recipe, scale_down(recipe)):
                prepare_run(each, num_processes=1).config()
            remarks = {key: read_toml(path).remark(key) for key in ("Source", "Cost", "Result")}
            wrong += [f"{name}: no comment {key}:" for key, text in remarks.items() if not text]
            if remarks["Cost"] != cost_line(recipe) + ".":
                wrong.append(f"{name}: its comment must be Cost: {cost_line(recipe)}.")
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    return wrong


def write_run_files(run: PreparedRun, save: Path) -> None:
    """Writes what a launcher needs: the JSON file and the command line, one word a line."""
    folder = save / "recipe"
    folder.mkdir(parents=True, exist_ok=True)
    json_file = folder / "ds_config.json"
    json_file.write_text(run.json_text())
    words = [run.script, *run.arguments(str(json_file))]
    (folder / "command").write_text("\n".join(words) + "\n")


def carry_out(arguments: argparse.Namespace) -> int | None:
    """Do what the subcommand says; 1 if a recipe is wrong."""
    catalogue = Catalogue(FOLDER)
    if arguments.command == "list":
        list_recipes(catalogue, arguments.family)
    elif arguments.command == "check":
        wrong = check(catalogue)
        print("\n".join(wrong) or f"{len(catalogue.recipes)} recipes are right")
        return 1 if wrong else 0
    else:
        recipe, run = prepared(catalogue, arguments)
        if arguments.command == "analysis":
            print(recipe.architecture, run.flags["split"], run.flags["seq_length"])
            indexes = [entry.get("index_path") for entry in recipe.metrics.values()]
            print("\n".join(index for index in indexes if index))
        elif arguments.command == "write":
            write_run_files(run, Path(arguments.save))
        else:
            print(f"{recipe.title}\nCost: {cost_line(recipe)}\n")
            print(run.command("ds_config.json"))
            print(f"\nds_config.json:\n{run.json_text()}", end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after an error."""
    return run_command(lambda words: carry_out(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
