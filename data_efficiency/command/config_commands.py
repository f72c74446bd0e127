"""The commands `schema` and `migrate`: the JSON file for editors, and DeepSpeed's JSON file in today's words."""

import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from data_efficiency.config import Config, load_config, read_json, section_of
from data_efficiency.config.schema import config_schema
from data_efficiency.files.remote import location
from data_efficiency.files.result_folder import MANIFEST_FILE

logger = logging.getLogger(__name__)

SCHEMA_TEXT = "print the JSON schema of the JSON file, for editors"
MIGRATE_TEXT = "print DeepSpeed's JSON file as it is understood here, and say what is different"


def add_to(commands: Any) -> None:
    """Add the commands to the subparsers of a parser; each leaves what it does as `action`."""
    parser: ArgumentParser = commands.add_parser(
        "schema", help=SCHEMA_TEXT, description=SCHEMA_TEXT
    )
    parser.set_defaults(action=print_schema)
    parser = commands.add_parser("migrate", help=MIGRATE_TEXT, description=MIGRATE_TEXT)
    parser.add_argument("json", metavar="CONFIG.json", help="JSON file in DeepSpeed's form")
    parser.set_defaults(action=migrate)


def print_schema(arguments: Namespace) -> None:
    """Print the schema of the JSON file."""
    print(json.dumps(config_schema(), indent=2))


def migrate(arguments: Namespace) -> None:
    """Print a file as it is understood, and what is different on stderr.

    Raises:
        ConfigError: with all that is not understood.
    """
    written = read_json(arguments.json)
    config = load_config(written)
    new = {key: value for key, value in written.items() if key != "curriculum_learning"}
    if "data_efficiency" in written or config.data_efficiency.has_curriculum:
        new["data_efficiency"] = section_of(config.data_efficiency)
    for note in notes(config, written, new):
        logger.warning("note: %s", note)
    print(json.dumps(new, indent=2))


def notes(config: Config, written: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each thing that a user of the file must know."""
    if written.get("curriculum_learning"):
        yield (
            "curriculum_learning at the top level, which DeepSpeed 0.19.8 removed, is the metric seqlen_truncate "
            "now; the loader truncates, so that the model need not"
        )
    for selection in config.data_efficiency.selections:
        path = location(selection.index_path)
        if (path / MANIFEST_FILE).is_file():
            continue
        order = selection.shuffle_index or selection.trust_order
        yield (
            f"metric {selection.name} reads {path}: "
            + (
                ""
                if order
                else "say trust_order or shuffle_index where that is DeepSpeed's index, "
            )
            + "or make an index of ours of it once: data-efficiency import --format deepspeed"
        )
    left_out = sorted(
        _leaves(written.get("data_efficiency") or {}) - _leaves(new.get("data_efficiency") or {})
    )
    renamed = {"index_to_sample_path"}
    unused = [path for path in left_out if path.rpartition(".")[2] not in renamed]
    if unused:
        yield f"not used, and left out: {', '.join(unused)}"


def _leaves(content: Any, path: str = "data_efficiency") -> set[str]:
    """Dotted paths of all keys whose value is no object."""
    if not isinstance(content, Mapping):
        return {path}
    return {leaf for key, value in content.items() for leaf in _leaves(value, f"{path}.{key}")}
