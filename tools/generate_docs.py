"""Writes docs/config.md and docs/migration.md from what the commands read: dataclasses and tables; and
what tests proved of layer classes into docs/random_ltd.md, and of combinations into docs/orders.md.

With --check nothing is written: the exit code says whether the pages are current.
"""

import argparse
import dataclasses
import inspect
import json
import sys
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from megatron.command import run_command

from data_efficiency.config.json_objects import JSON_OBJECTS, json_keys
from data_efficiency.field_docs import field_docs
from data_efficiency.json_section import FOUND, Section
from megatron.arguments import flag_name
from megatron.config import CONFIG_GROUPS, RUN_KINDS, FilesConfig, Stage
from megatron.migration import MIGRATIONS, OTHER_DEFAULTS, Fate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "config.md"

INTRODUCTION = """\
# Configuration reference

Made by `tools/generate_docs.py` from the fields of `megatron/config/` and `data_efficiency/config/`:
change those, then run `make docs`. A run is described by the flags of `pretrain_gpt.py` or
`pretrain_bert.py`, or by a run file (`--config FILE.toml`), which flags override: a flag's group is the
file's table, and `--hidden-size` is `hidden_size` in it. The table `[data_efficiency]` has the keys of the section
of DeepSpeed's JSON file, `[engine]` those of other sections, `[deepspeed]` sections that count with `--deepspeed`
only. There, "auto" is what follows from the run: `index_path` from `--difficulty`, `max_difficulty` of lengths and
`max_value` from `--seq-length`, `total_layer_num`, `random_ltd_layer_num` and `random_ltd_layer_id` (all but the first
and the last) from `--num-layers`. A file that DeepSpeed reads goes in as it is by `--deepspeed_config FILE.json`: what
it says of a setting is the setting.
"""

MIGRATION_PAGE = "migration.md"
MIGRATION_INTRODUCTION = """\
# Coming from Megatron-DeepSpeed

Made by `tools/generate_docs.py` from `megatron/migration/tables.py`, which the commands read as well: change that, then run
`make docs`.

- **Command lines.** Those of Megatron-DeepSpeed can be given as they are. What is done with each flag that is not ours is told in a
  line when the command starts; what nothing here is like is refused, all of it in one error, with the reason and what to do instead.
  A published BERT command line decays by tokens and warms up by steps: the warm-up lasts for the tokens of so many first steps.
  Where `--load` and `--save` are one folder, it may be empty yet. Command lines of our own are read as ever.
- **The JSON file** is read as it is; `optimizer` and `scheduler` are flags. Its difficulty indexes are read by the paths in
  it once their metric says whose samples they number (`"trust_order": true` or `"shuffle_index"`, [analysis.md](analysis.md));
  `tools/analyze_data.py import --format deepspeed` takes them over for good.
- **Corpora** (`.bin`, `.idx`) are read as they are. Samples are windows of the corpus in its order, not of an index built for a number of
  samples: no `index-cache` is written, and the number of a sample does not depend on the length of the run.
- **Checkpoints.** `tools/convert_checkpoint.py --input FOLDER --output runs/gpt --to megatron` takes the folder that holds `latest` (or one step's
  folder) of a GPT without pipeline and tensor parallelism and makes a run of the same step; `--to huggingface` makes a folder for
  `from_pretrained`. Give `--vocab-file` and `--merge-file`, or `--tokenizer-file`, so that the tokenizer comes along. A converted
  checkpoint is a model to evaluate, finetune or export: optimizer and place in the data are not taken over.
- **A launch script** becomes a run file: `python tools/migrate.py old.sh [ARGUMENT ...] > run.toml`, with `--set NAME=VALUE` for its environment. bash reads
  the script, and nothing is started or written. What became of each flag stands above the settings, and what has no place here is
  told. A JSON file that the script would write first is named: give it by `--deepspeed_config`.
- **Scripts.** `examples_deepspeed/data_efficiency/` has those of the tutorial under their names; a run is a run file instead of
  27 positional arguments.
"""

MIGRATION_DEFAULTS = """\
A command line with a flag of the first table, and without `--config`, has those defaults of Megatron-DeepSpeed that change a run; they are
told when it starts. `--vocab-size` is the tokenizer's then.
"""

LAYERS_PAGE = "random_ltd.md"
LAYERS_BEGIN = (
    "<!-- made by tools/generate_docs.py from tests/data_efficiency/routing/zoo.json -->\n"
)
TABLE_END = "<!-- end -->\n"
ZOO = Path(__file__).resolve().parents[1] / "tests" / "data_efficiency" / "routing" / "zoo.json"
"""Classes of transformers, and what the tests found of each."""

STAGES_INTRODUCTION = """\
## [[stages]]

Parts of a pretraining run one after the other, in its run file: two tables or more ([orders.md](orders.md#stages)). They stand for the
schedules in `[data_efficiency]` that change where a stage begins; `--print-json` shows those.
"""

COMBINATIONS_PAGE = "orders.md"
COMBINATIONS_BEGIN = (
    "<!-- made by tools/generate_docs.py from tests/end_to_end/combinations.json -->\n"
)
COMBINATIONS = Path(__file__).resolve().parents[1] / "tests" / "end_to_end" / "combinations.json"
"""What is chosen, cut and averaged -> what the tests refuse beside it, and why; all else they train."""
COMBINATION_TITLES = {
    "random_ltd": "random-LTD",
    "fsdp": "`--fsdp 3`, 2 processes",
    "zero": "`--deepspeed`, ZeRO 2, 2 processes",
    "bert": "`pretrain_bert.py`",
}

FINETUNING_INTRODUCTION = """\
## Finetuning

Run files and flags of the finetuning programs ([finetuning.md](finetuning.md), [glue.md](glue.md)) are of the same form;
`architecture` in the file says which. Settings with the meaning and the default that they have above are not listed
again: `--config`, `--deepspeed_config`, `--print-json`, {shared}.
"""

JSON_INTRODUCTION = """\
## The JSON file

Unknown keys in these sections are errors that name the nearest key. `METRIC` stands for
`data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.<name>`, `RANDOM_LTD` for
`data_efficiency.data_routing.random_ltd`, `LAYER_DROPOUT` and `TOKEN_SUPERPOSITION` for `layer_dropout` and
`token_superposition` beside it ([routes.md](routes.md)). All that is missing or wrong is told in one error. A key whose default is "auto" is said by
the model when it is converted; "auto" for the end of a length is the length of the data's rows, where they all have one.

`data-efficiency schema > schema.json` gives editors the same as a JSON schema, and `data-efficiency migrate ds_config.json` prints a file
of DeepSpeed as it is understood. In Python, `DataEfficiencyConfig.of(Curriculum(...), RandomLTD(...), LayerDropout(...))` goes wherever a file
goes, and `data_efficiency.config.section_of` writes it as the file's section.
"""


def render_page() -> str:
    """The whole page as Markdown."""
    groups = {"Files": FilesConfig, **{f"[{k}]": v for k, v in RUN_KINDS["gpt"].groups.items()}}
    rows = [row for where, keys, names in JSON_OBJECTS for row in json_rows(where, keys, names)]
    table = render_table(("key", "values", "default", "meaning"), rows)
    parts = [INTRODUCTION, *(render_group(*each) for each in groups.items()), render_stages()]
    parts += [*render_finetuning(), JSON_INTRODUCTION]
    return "\n".join(parts) + "\n" + table


def render_migration() -> str:
    """The page about Megatron-DeepSpeed's flags as Markdown."""
    parts = [MIGRATION_INTRODUCTION]
    for command, migration in MIGRATIONS.items():
        rows = [
            (" ".join(f"`{flag.rstrip('=*')}`" for flag in flags.split()), *_here(fate))
            for flags, fate in migration.entries()
        ]
        parts.append(f"## {command}\n\n{render_table(('flags there', 'here', 'why'), rows)}")
    defaults = {
        flag_name(f.name): f.default for group in CONFIG_GROUPS for f in dataclasses.fields(group)
    }
    rows = [
        (f"`{flag}`", theirs, describe_default(defaults[flag]))
        for flag, theirs in OTHER_DEFAULTS.items()
    ]
    table = render_table(("flag", "there", "here"), rows)
    parts.append(f"## Other defaults\n\n{MIGRATION_DEFAULTS}\n{table}")
    return "\n".join(parts)


def _here(fate: Fate) -> tuple[str, str]:
    if fate.becomes:
        return f"`{fate.becomes.replace('{}', 'VALUE')}`", fate.reason
    if fate.holds_with is None:
        return "holds anyway", fate.reason
    refused = f"refused; instead: {fate.instead}"
    if fate.holds_with:
        values = ", ".join(f"`{value}`" for value in fate.holds_with.split())
        return f"{values} holds anyway, others are {refused}", fate.reason
    return refused, fate.reason


def json_rows(where: str, keys: type, names: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """A row for each field that is a key; with `names`, for those alone.

    Raises:
        ValueError: A field has no docstring below it.
    """
    for key in json_keys(keys, names):
        kind, default = describe_type(key.hint), describe_default(key.default)
        if kind == "switch":
            kind, default = "`true`, `false`", "`true`" if key.default else "`false`"
        elif kind == "object":
            default = ""
        elif FOUND in key.rules:
            default = '"auto"'
        yield f"`{where}.{key.key}`" if where else f"`{key.key}`", kind, default, key.doc


def render_stages() -> str:
    """What a stage of a run may say, as Markdown."""
    rows = [*json_rows("", Stage, {})]
    return STAGES_INTRODUCTION + "\n" + render_table(("key", "values", "default", "meaning"), rows)


def render_finetuning() -> Iterator[str]:
    """What the finetuning programs have beside the settings of pretraining."""
    above = {(f.name, f.default) for group in CONFIG_GROUPS for f in dataclasses.fields(group)}
    kinds = {name: kind for name, kind in RUN_KINDS.items() if name.endswith("finetuning")}
    groups: dict[type, str] = {}
    for architecture, kind in kinds.items():
        for table, group in kind.groups.items():
            groups[group] = f"{groups.get(group, f'[{table}] of')} {architecture},"
    shared = {(f.name, f.default) for group in groups for f in dataclasses.fields(group)} & above
    flags = ", ".join(f"`{flag_name(name)}`" for name in sorted(name for name, _ in shared))
    yield FINETUNING_INTRODUCTION.format(shared=flags)
    for group, heading in groups.items():
        if not {(f.name, f.default) for f in dataclasses.fields(group)} <= above:
            yield render_group(f"#{heading.rstrip(',')}", group, above)


def render_group(heading: str, group: type, above: Collection[tuple[str, object]] = ()) -> str:
    """Heading, first sentence and flag table of one settings class.

    Args:
        above: names and defaults of fields that are not repeated.

    Raises:
        ValueError: A field has no docstring below it.
    """
    hints = get_type_hints(group)
    docs = field_docs(group)
    rows = []
    for field in dataclasses.fields(group):
        if not docs.get(field.name):
            raise ValueError(f"{group.__name__}.{field.name} has no docstring below it: write one")
        if (field.name, field.default) in above:
            continue
        kind = describe_type(hints[field.name])
        flag = flag_name(field.name)
        if kind == "switch":
            flag += f" / --no-{flag.removeprefix('--')}"
        rows.append((f"`{flag}`", kind, describe_default(field.default), docs[field.name]))
    table = render_table(("flag", "values", "default", "meaning"), rows)
    level = "###" if heading.startswith("#") else "##"
    return f"{level} {heading.removeprefix('#')}\n\n{inspect.getdoc(group)}\n\n{table}"


def render_layers(page: str) -> str:
    """The page with its tables of layer classes made anew."""
    classes: dict[str, set[str]] = {}
    for entry in json.loads(ZOO.read_text(encoding="utf-8")).values():
        outcome = f"refused: {entry['why']}" if "why" in entry else entry["outcome"]
        classes.setdefault(outcome, set()).add(f"`{entry['layer']}`")
    cells = {outcome: ", ".join(sorted(names)) for outcome, names in classes.items()}
    rows = [
        ("a tested preset, nothing to prove", cells.pop("preset")),
        ("proved at the first training forward", cells.pop("proved")),
        *sorted(cells.items()),
    ]
    return _with_table(page, LAYERS_BEGIN, ("outcome", "layer classes of transformers"), rows)


def render_combinations(page: str) -> str:
    """The page with its table of combinations made anew."""
    rows = []
    for row in json.loads(COMBINATIONS.read_text(encoding="utf-8")).values():
        cells = (f"refused: {row[key]}" if key in row else "runs" for key in COMBINATION_TITLES)
        rows.append((row["title"], *cells))
    headings = ("", *COMBINATION_TITLES.values())
    return _with_table(page, COMBINATIONS_BEGIN, headings, rows)


def _with_table(
    page: str, begin: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """The page with a table between the line that begins it and the next end."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(TABLE_END)
    return before + begin + render_table(headings, rows) + TABLE_END + after


def describe_type(hint: Any) -> str:
    """What one may write after a flag, or as the value of a key."""
    if get_origin(hint) in (Union, types.UnionType):
        return describe_type(next(part for part in get_args(hint) if part is not type(None)))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is tuple:
        [part, *_] = get_args(hint)
        if part is int:
            return "list of whole numbers"
        is_choice = get_origin(part) is Literal
        return f"one or more of {describe_type(part)}" if is_choice else "one or more texts"
    return {
        bool: "switch",
        int: "whole number",
        float: "number",
        str: "text",
        Section: "object",
        Any: "any",
    }[hint]


def describe_default(default: object) -> str:
    """A default as the reader would write it."""
    if default is dataclasses.MISSING:
        return "required"
    if default in (None, ()):
        return "not given"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{default}`"


def render_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def write_or_check(argv: Sequence[str], page: Path) -> int:
    """0 when the page is written or current, 1 when --check finds it stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args(argv).check
    pages = {
        page: render_page(),
        page.with_name(MIGRATION_PAGE): render_migration(),
        **{
            page.with_name(name): render(PAGE.with_name(name).read_text(encoding="utf-8"))
            for name, render in (
                (LAYERS_PAGE, render_layers),
                (COMBINATIONS_PAGE, render_combinations),
            )
        },
    }
    if not check:
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, text in pages.items():
            path.write_text(text, encoding="utf-8")
        return 0
    for path, text in pages.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"error: {path.name} is not current: run `make docs`", file=sys.stderr)
            return 1
    return 0


def main(argv: Sequence[str] | None = None, page: Path = PAGE) -> int:
    """Exit code: 0 when the page is written or current, 1 when --check finds it stale."""
    return run_command(lambda words: write_or_check(words, page), argv)


if __name__ == "__main__":
    raise SystemExit(main())
