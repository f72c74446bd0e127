"""Plain prose from wiki markup.

Good enough for a training corpus, not a wiki renderer: templates that only decorate a text are
replaced by the text, all others, and tables, pictures, references and link collections, go.
"""

import calendar
import html
from collections.abc import Callable
from operator import itemgetter

import regex  # type: ignore[import-untyped]

_DROPPED_SECTION = regex.compile(
    "bibliography|citations|external links|external sources|footnotes|further reading|gallery|"
    "in-line notes and references|notes|notes and references|references|references and notes|"
    "references and sources|related information|see also|sources|works cited"
)
_COMMENT = regex.compile(r"<!--.*?-->", regex.DOTALL)
_REFERENCE = regex.compile(r"<ref\b[^<>]*?/\s*>|<ref\b[^<>]*>.*?</ref\s*>", regex.DOTALL | regex.I)
_DROPPED_TAG = regex.compile(
    r"<(gallery|timeline|imagemap|source|syntaxhighlight|score|hiero|references)\b[^<>]*>"
    r".*?</\1\s*>",
    regex.DOTALL | regex.I,
)
_MATH = regex.compile(r"<math\b[^<>]*>(.*?)</math\s*>", regex.DOTALL | regex.I)
_TAG = regex.compile(r"</?[a-z][^<>]*>", regex.I)
_BREAK = regex.compile(r"<br\b[^<>]*>", regex.I)
_MEDIA_LINK = regex.compile(
    r"\[\[\s*(?:File|Image|Media|Category)\s*:"
    r"(?:[^\[\]]++|(?P<nested>\[(?:[^\[\]]++|(?&nested))*+\]))*+\]\]",
    regex.I,
)
_LINK = regex.compile(r"\[\[(?:[^\[\]|]*+\|)?([^\[\]]*+)\]\]")
_EXTERNAL_LINK = regex.compile(r"\[(?:https?:|ftp:)?//[^\s\]]*+\s*+([^\[\]]*+)\]", regex.I)
_BARE_ADDRESS = regex.compile(r"\bhttps?://\S+")
_INNERMOST_TEMPLATE = regex.compile(r"\{\{([^{}]*+)\}\}")
_TEMPLATE = regex.compile(r"(?P<template>\{\{(?:[^{}]++|\{(?!\{)|\}(?!\})|(?&template))*+\}\})")
_TABLE = regex.compile(r"(?P<table>\{\|(?:[^{|]++|\{(?!\|)|\|(?!\})|(?&table))*+\|\})")
_TABLE_LINE = regex.compile(r"^\s*(?:\{\||\||!).*$", regex.MULTILINE)
_EMPHASIS = regex.compile(r"'{2,5}")
_MAGIC_WORD = regex.compile(r"__[A-Z]+__")
_HEADING = regex.compile(r"^(=+)\s*(.*?)\s*\1\s*$")
_LIST_MARK = regex.compile(r"^[*#:;]+\s*")
_LEADING_MARK = regex.compile(r"^(?:[.,;:)]\s+)+")
_RULE = regex.compile(r"^-{4,}")
_INVISIBLE = regex.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_EMPTY_BRACKETS = regex.compile(r"\s*(?:\((?:[\s,;:]|or|and)*\)|\[\s*\]|⟨\s*⟩)")
_BRACKET_START = regex.compile(r"\(\s*(?:[,;:]\s*)*")
_BRACKET_END = regex.compile(r"(?:\s*[,;])*\s*\)")
_SPACE_BEFORE_MARK = regex.compile(r"\s+([,.;:!?])(?=\s|$|[\"')])")
_REPEATED_COMMA = regex.compile(r"([,;])(?:\s*[,;])+")
_SPACES = regex.compile(r"[ \t]+")
_UNITS = {"km2": "km²", "m2": "m²", "m3": "m³", "sqmi": "sq mi", "C": "°C", "F": "°F", "K": "K"}
_RANGE_WORDS = {"to": "to", "-": "–", "–": "–", "and": "and", "or": "or", "by": "by", "x": "by"}


def clean_article(markup: str) -> str:
    r"""Paragraphs and headings of an article, one a line, with blank lines around headings.

    >>> clean_article("'''Water''' ({{IPA|x}}) is [[liquid|wet]].<ref>A</ref>\n== Notes ==\n* x")
    'Water is wet.'
    """
    text = _COMMENT.sub("", markup)
    text = _DROPPED_TAG.sub("", _REFERENCE.sub("", text))
    text = _MATH.sub(lambda match: "" if "\\" in match[1] else match[1], text)
    text = _MEDIA_LINK.sub("", text)
    text = _EXTERNAL_LINK.sub(r"\1", _LINK.sub(r"\1", text))
    num_expanded = 1
    while num_expanded:
        text, num_expanded = _INNERMOST_TEMPLATE.subn(_expand_template, text)
    text = _TABLE.sub("", _TEMPLATE.sub("", text))
    text = _TAG.sub("", _BREAK.sub(" ", _TABLE_LINE.sub("", text)))
    text = _EMPHASIS.sub("", _MAGIC_WORD.sub("", _BARE_ADDRESS.sub("", text)))
    return tidy("\n".join(_prose_lines(html.unescape(text).split("\n"))))


def tidy(text: str) -> str:
    """The text without what removals leave behind: empty brackets, doubled spaces and blank lines.

    >>> tidy("A chair (  ; ) is a seat , (, also: bench) .")
    'A chair is a seat, (also: bench).'
    """
    text = _INVISIBLE.sub("", text.replace("\xa0", " ").replace("\u202f", " "))
    lines: list[str] = []
    for line in text.split("\n"):
        for pattern, replacement in (
            (_EMPTY_BRACKETS, ""),
            (_BRACKET_START, "("),
            (_BRACKET_END, ")"),
            (_REPEATED_COMMA, r"\1"),
            (_SPACE_BEFORE_MARK, r"\1"),
            (_SPACES, " "),
        ):
            line = pattern.sub(replacement, line)
        line = line.strip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip()


def _prose_lines(lines: list[str]) -> list[str]:
    """Lines without list marks and rules, without dropped sections and headings over nothing."""
    kept: list[str] = []
    pending: list[tuple[int, str]] = []
    dropped_level = 0
    for line in lines:
        heading = _HEADING.match(line)
        if heading:
            level, title = len(heading[1]), heading[2]
            if dropped_level and level > dropped_level:
                continue
            is_dropped = _DROPPED_SECTION.fullmatch(title.strip(" :").lower())
            dropped_level = level if is_dropped else 0
            pending = [one for one in pending if one[0] < level]
            if not dropped_level:
                pending.append((level, title))
            continue
        line = _LEADING_MARK.sub("", _LIST_MARK.sub("", _RULE.sub("", line)).strip())
        if dropped_level or not regex.search(r"\w", line):
            continue
        for _, title in pending:
            kept += ["", title, ""]
        pending = []
        kept.append(line)
    return kept


def _expand_template(match: regex.Match[str]) -> str:
    """What a template says in prose, or nothing."""
    name, *arguments = (part.strip() for part in match[1].split("|"))
    name = name.lower()
    positional = [
        argument.removeprefix("1=").removeprefix("text=").strip()
        for argument in arguments
        if not regex.match(r"(?!1=|text=)[\w\s-]+=", argument)
    ]
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    expand = _TEXT_TEMPLATES.get("nowrap" if name.startswith("lang-") else name)
    return expand(positional) if expand and positional else ""


def _converted(arguments: list[str]) -> str:
    """The quantity as the author gave it: "5|to|10|km|mi" is "5 to 10 km"."""
    words = []
    for argument in arguments:
        if regex.search(r"\d", argument) and argument not in _UNITS:
            words.append(argument)
        elif argument in _RANGE_WORDS:
            words.append(_RANGE_WORDS[argument])
        else:
            words.append(_UNITS.get(argument, argument))
            break
    return " ".join(words)


def _as_of(arguments: list[str]) -> str:
    """The date as prose: "2010|6|30" is "As of 30 June 2010"."""
    year, *rest = arguments
    if rest and rest[0].isdigit() and 1 <= int(rest[0]) <= 12:
        rest[0] = calendar.month_name[int(rest[0])]
    return " ".join(["As of", *reversed(rest), year])


_CONSTANTS = {
    **{"'s": "'s", "·": " ·", "nbsp": " ", "ndash": "–", "mdash": "—", "pipe": "|"},
    **{"spaced ndash": " – ", "snd": " – ", "-": "", "!": ""},
}
_FIRST_IS_TEXT = (
    "abbr|angbr|big|blockquote|cquote|flag|keypress|nihongo|nowrap|quote|small|smaller|sub|sup|val|"
    "vanchor|visible anchor"
)
_TEXT_TEMPLATES: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(_FIRST_IS_TEXT.split("|"), itemgetter(0)),
    **dict.fromkeys(("lang", "transl"), itemgetter(-1)),
    **dict.fromkeys(("convert", "cvt"), _converted),
    "as of": _as_of,
    "chem": "".join,
    "circa": lambda arguments: f"c. {arguments[0]}",
    "frac": lambda arguments: " ".join([*arguments[-3:-2], "/".join(arguments[-2:])]),
}
