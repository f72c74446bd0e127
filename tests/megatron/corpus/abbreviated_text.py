"""Text in which only "dr.", "approx." and "vol." are abbreviations, and as much of it as is wanted."""

NOUNS = [
    "lake",
    "bird",
    "stone",
    "river",
    "house",
    "tree",
    "road",
    "ship",
    "cloud",
    "field",
    "garden",
    "window",
    "table",
    "letter",
    "winter",
    "summer",
    "island",
    "forest",
    "bridge",
    "market",
]


def sentences(number):
    """Three sentences; each noun stands within and at the end of some."""
    one, two, three = (NOUNS[(number * step + step) % len(NOUNS)] for step in (1, 3, 7))
    return [
        f"Dr. Low saw approx. ten {one}s and no {two}.",
        f"The {two} of vol. two was behind a {three}!",
        f"We told Dr. Low of approx. every {three} and {one}.",
    ]


def text(first, last):
    """The sentences of numbers first..last-1 as one text."""
    return " ".join(sentence for number in range(first, last) for sentence in sentences(number))
