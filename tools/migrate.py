"""Turns a launch script of Megatron-DeepSpeed into a run file, and says what it could not take over.

python tools/migrate.py old.sh [ARGUMENT ...] > run.toml
python tools/migrate.py --set DATA_HOME=data --output run.toml old.sh 2048 1.3
python pretrain_gpt.py --config run.toml

The script is read by bash with its arguments, and starts nothing: no program that writes can be reached, and no
file is opened for writing. What each of its flags became stands above the settings.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency import files
from megatron.arguments import make_parser, parse_run_config
from megatron.config import RUN_KINDS, Architecture, FilesConfig
from megatron.migration import pretraining_translation, started_by, training_command
from megatron.recipes import write_run_file

JSON_FLAG = "--deepspeed_config"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the script's environment, of which it sees nothing else",
    )
    add("--output", type=Path, metavar="FILE", help="of the run file; else it is printed")
    add("script", type=Path, metavar="SCRIPT.sh", help="starts the training")
    add("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="of the script")
    return parser.parse_args(argv)


def migrate(arguments: argparse.Namespace) -> None:
    """Write the run file of a script, and print what is left to do."""
    variables = dict(_pairs(arguments.set))
    command = training_command(started_by(arguments.script, arguments.arguments, variables))
    if command is None:
        raise ValueError(
            f"{arguments.script} starts no pretrain_gpt.py or pretrain_bert.py that is seen: give its arguments "
            "behind it and its environment by --set, or a script with the command alone"
        )
    program, words = command
    text, problems = run_file_of(program, words, arguments.output)
    if arguments.output is None:
        print(text, end="")
    else:
        files.refuse_writing_over([arguments.output], [arguments.script])
        files.write_file(arguments.output, text)
    for problem in problems:
        print(f"not taken over: {problem}", file=sys.stderr)


def _pairs(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"--set is {text!r}: write NAME=VALUE")
        yield name, value


def run_file_of(program: str, words: Sequence[str], output: Path | None) -> tuple[str, list[str]]:
    """The run file of a command line of Megatron-DeepSpeed, and what could not be taken over.

    Raises:
        ValueError: if what is left describes no run.
    """
    architecture: Architecture = "bert" if program == "pretrain_bert.py" else "gpt"
    found = pretraining_translation(words, is_bert=architecture == "bert")
    ours, unknown = _known(found.words, architecture)
    ours, without = _without_missing_json(ours)
    problems = [*found.problems, *unknown, *without]
    config = parse_run_config(__doc__ or "", ours, architecture=architecture)
    text = write_run_file(config, f"python {program} --config {output or 'run.toml'}")
    first, _, rest = text.partition("\n")
    remarks = [f"# {told}" for told in found.told]
    remarks += [f"# NOT TAKEN OVER: {problem}" for problem in problems]
    return "\n".join([first, *(" ".join(line.split()) for line in remarks), rest]), problems


def _known(words: Sequence[str], architecture: Architecture) -> tuple[list[str], list[str]]:
    """The flags that there are, with their values, and the others, a sentence each."""
    groups = {"files": FilesConfig, **RUN_KINDS[architecture].groups}
    _, unknown = make_parser("", groups).parse_known_args(list(words))
    strange = {word.partition("=")[0] for word in unknown if word.startswith("-")}
    known: list[str] = []
    others: list[list[str]] = []
    is_known = True
    for word in words:
        if word.startswith("--"):
            is_known = word.partition("=")[0] not in strange
            if not is_known:
                others.append([])
        if is_known:
            known.append(word)
        else:
            others[-1].append(word)
    return known, [f"{' '.join(flag)}: there is no such flag" for flag in others]


def _without_missing_json(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without a JSON file that is not there, as scripts write it when they start, and a sentence about it."""
    given = list(words)
    for place, word in enumerate(given):
        if word == JSON_FLAG and place + 1 < len(given) and not Path(given[place + 1]).is_file():
            path = given[place + 1]
            del given[place : place + 2]
            return given, [
                f"{JSON_FLAG} {path}: there is no such file here; give it beside --config, or write its "
                "data_efficiency section into the run file"
            ]
    return given, []


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 where there is a run file, also if not all was taken over; 1 after an error."""
    return run_command(lambda words: migrate(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
