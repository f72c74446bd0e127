import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.corpus import wiki_markup
from megatron.corpus.wiki_markup import clean_article, tidy


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(wiki_markup).failed == 0


@pytest.mark.parametrize(
    ("markup", "prose"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("a [[link]], [[page|label]] and [[a#b|c]]s", "a link, label and cs"),
        (
            "see [http://x.org the site] or [http://x.org] or http://x.org now",
            "see the site or or now",
        ),
        ("a<!-- no\nno -->b", "ab"),
        ('x<ref name="a/b">y [[z]]</ref>, z<ref name=q />.<REF>r</REF>', "x, z."),
        ("[[File:a.jpg|thumb|a [[b|c]] {{d|e}} [http://f g]]]Text", "Text"),
        ("Text\n[[Category:A| ]]\n[[category:B]]", "Text"),
        ("{{Infobox|a={{b|c={{d}}}}|e=[[f]]\n|g=h}}\nText", "Text"),
        ("a\n{| class=x\n! h || {{a|b}}\n|-\n| c\n{|\n| nested\n|}\n| d\n|}\nb", "a\n\nb"),
        ("a\n{| never closed\n|-\n| cell\n! head\nb", "a\n\nb"),
        ("a {x} {{b|{y}|{{c}}}} d", "a {x} d"),
        ("runs {{convert|5|to|10|km2|sqmi|abbr=on}} wide", "runs 5 to 10 km² wide"),
        ("at {{convert|1,300|mi|km}}", "at 1,300 mi"),
        ("{{lang|el|ἀρχή}} ({{lang-fr|début}}, {{transl|el|arkhē}})", "ἀρχή (début, arkhē)"),
        ("{{nowrap|[[a|b c]]}}{{spaced ndash}}{{frac|1|2|3}} {{chem|H|2|O}}", "b c – 1 2/3 H2O"),
        ("{{As of|2010|6}} and {{as of|2009}}", "As of June 2010 and As of 2009"),
        ("{{quote|text=Be {{small|very}} brief.|author=A}}", "Be very brief."),
        ("Tom{{'s}} ({{IPAc-en|x}}; {{respell|y}}) cat", "Tom's cat"),
        ("a<br />b<br>c <sub>2</sub> <span class=x>d</span>", "a b c 2 d"),
        (
            "<math>p = 1</math>, <math>\\frac a b</math> and <gallery>\nA.jpg\n</gallery>b",
            "p = 1, and b",
        ),
        ("* one\n** two\n:three\n; four\n----\n# five", "one\ntwo\nthree\nfour\nfive"),
        ("a &ndash; b&nbsp;c &lt;d&gt; __NOTOC__", "a – b c <d>"),
        ("{{cite book|t}}. First.", "First."),
    ],
)
def test_markup_becomes_prose(markup, prose):
    assert [line for line in clean_article(markup).split("\n") if line] == [
        line for line in prose.split("\n") if line
    ]


def test_headings_stand_apart_and_empty_or_dropped_sections_go():
    markup = (
        "Lead.\n== One ==\n=== Nothing ===\n{{x}}\n=== Some ===\nText.\n== See also ==\n* [[a]]\n"
        "=== Deeper ===\n* b\n==Two==\nMore.\n== References ==\n{{reflist}}\n"
    )
    assert clean_article(markup) == "Lead.\n\nOne\n\nSome\n\nText.\n\nTwo\n\nMore."


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("a ( ) b", "a b"),
        ("Aniline () is", "Aniline is"),
        ("Cerreto (, also, Italian: x; 9 July)", "Cerreto (also, Italian: x; 9 July)"),
        ("x (y, ) z ( ; , ) .", "x (y) z."),
        ("film , also", "film, also"),
        ("a, , b", "a, b"),
        ("a\xa0 b\u200b\n\n\n c ", "a b\n\nc"),
        ("the .NET platform", "the .NET platform"),
    ],
)
def test_what_removals_leave_behind_goes(text, tidied):
    assert tidy(text) == tidied


@settings(max_examples=100, deadline=1000)
@given(
    st.lists(st.sampled_from([*"{}[]()|=<>/'\nab, ", "{{", "}}", "{|", "|}", "[[", "]]", "ref"]))
)
def test_unbalanced_markup_neither_hangs_nor_leaves_templates(pieces):
    cleaned = clean_article("".join(pieces))
    assert cleaned == cleaned.strip()
    assert "{{}}" not in cleaned


def test_deep_and_long_markup_is_quick():
    assert clean_article("{{a|" * 300 + "}}" * 300 + "b") == "b"
    assert clean_article("[[File:" + "[[a" * 300 + "x" * 300)
    assert clean_article("{|\n" * 300 + "b")
