"""The tables beside the parsers of the commands that read them."""

import argparse

import pytest

from megatron.arguments import make_parser
from megatron.migration import (
    ANALYSIS,
    EVALUATION,
    MIGRATIONS,
    OTHER_DEFAULTS,
    PREPROCESSING,
    PRETRAINING,
)
from tools import analyze_data, evaluate_gpt, preprocess_data


def known_flags(parser):
    return {
        flag
        for action in parser._actions
        for flag in (
            *action.option_strings,
            *(
                flag
                for sub in getattr(action, "choices", None) or {}
                if isinstance(action, argparse._SubParsersAction)
                for flag in known_flags(action.choices[sub])
            ),
        )
    }


def parser_of(parse, monkeypatch):
    made = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda self, *_: made.append(self) or self
    )
    parse([])
    return made[0]


@pytest.mark.parametrize(
    ("migration", "parse"),
    [
        (PRETRAINING, None),
        (PREPROCESSING, preprocess_data.parse_arguments),
        (ANALYSIS, analyze_data.parse_arguments),
        (EVALUATION, evaluate_gpt.parse_arguments),
    ],
)
def test_theirs_are_not_ours_and_what_they_become_is(migration, parse, monkeypatch):
    assert migration in MIGRATIONS.values()
    ours = known_flags(make_parser("") if parse is None else parser_of(parse, monkeypatch))
    names = [name for name, _ in migration.fates()]
    assert len(names) == len(set(names))
    assert not ours & set(names)
    for _, fate in migration.fates():
        assert not fate.becomes or fate.becomes.split()[0] in ours
        assert fate.reason
        assert fate.holds_with is None or fate.instead


def test_other_defaults_are_flags_of_ours():
    assert OTHER_DEFAULTS.keys() <= known_flags(make_parser(""))
