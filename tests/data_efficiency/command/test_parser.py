from pathlib import Path

import pytest

from data_efficiency.command.parser import command_parser


def tool_parser():
    parser = command_parser("A tool.")
    parser.may_be_empty = ("--prompt",)
    parser.may_be_negative = ("--difference",)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--input", nargs="+")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seq-length", type=int)
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--share", type=float)
    parser.add_argument("--top", type=int)
    parser.add_argument("--difference", type=float)
    parser.add_argument("--by-length", action="store_true")
    parser.add_argument("--prompt")
    inner = parser.add_subparsers().add_parser("run")
    inner.add_argument("--save")
    inner.add_argument("--workers", type=int, default=1)
    return parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", ""], "--output has an empty value"),
        (["--output="], "--output has an empty value"),
        (["--input", "a", ""], "--input has an empty value"),
        (["--input", " "], "--input has an empty value"),
        (["--top", "-5"], "--top is -5: must be at least 0"),
        (["--limit", "0"], "--limit is 0: must be at least 1"),
        (["--difference", "nan"], "--difference is nan: must be a finite number"),
        (["--share", "nan"], "--share is nan: must be at least 0"),
        (["--share", "inf"], "--share is inf: must be at least 0"),
        (["--device", "nope"], "--device is nope: this machine has none"),
        (["--device", "cuda:99"], "--device is cuda:99: this machine has none"),
        (["--seed", str(2**63)], "--seed is 9223372036854775808: must be from -2"),
        (["--seq-length", "0"], "--seq-length is 0: must be at least 1"),
        (["run", "--save", ""], "--save has an empty value"),
        (["run", "--workers", "0"], "--workers is 0: must be at least 1"),
    ],
)
def test_no_tool_takes_an_empty_text_or_a_number_that_cannot_be(words, message):
    with pytest.raises(ValueError, match=message):
        tool_parser().parse_args(words)


def test_what_a_tool_takes():
    words = ["--output", ".", "--seed", "-1", "--prompt", "", "--top", "0", "run", "--save", "x"]
    found = tool_parser().parse_args(["--difference", "-0.5", *words])
    assert (found.output, found.seed, found.prompt, found.top) == (Path(), -1, "", 0)
    assert found.difference == -0.5
