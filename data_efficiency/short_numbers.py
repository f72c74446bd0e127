"""Numbers for the eye: short counts and times."""

PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_count(number: float) -> str:
    """A number in at most five characters and a prefix, three digits shown.

    >>> [format_count(number) for number in (0, 12, 999.96, 1234, 56_789, 1.3e12)]
    ['0', '12', '1k', '1.23k', '56.8k', '1.3T']
    """
    for size, prefix in PREFIXES:
        # 999.5 of one prefix would be printed as 1000: it takes the next.
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{prefix}"
    return f"{number:.3g}"


def format_seconds(seconds: float) -> str:
    """A time span in the two largest units that matter.

    >>> [format_seconds(seconds) for seconds in (0.4, 59.7, 61, 7_325, 200_000)]
    ['0s', '1m 00s', '1m 01s', '2h 02m', '2d 07h']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02d}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02d}h"
