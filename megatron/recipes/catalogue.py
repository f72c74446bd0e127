"""The shipped recipes and models, by name."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from data_efficiency import ConfigError


class Catalogue:
    """A folder with families of run files, each in a subfolder with `pretraining.toml`: `recipes/*.toml`,
    and `models/*.toml` that they build on. A file's stem is its name, unique over all families.
    """

    def __init__(self, folder: Path) -> None:
        families = [path.parent for path in sorted(folder.glob("*/pretraining.toml"))]
        self.recipes = _by_name(path for each in families for path in each.glob("recipes/*.toml"))
        """Name -> path, sorted by path."""
        self.models = _by_name(path for each in families for path in each.glob("models/*.toml"))
        self.finetuning = _by_name(folder.glob("*_finetuning/recipes/*.toml"))
        """Recipes of finetuning, likewise."""

    def path(self, name: str, kind: str = "run file") -> Path:
        """The file of a shipped recipe (or model), or of your own: a path that ends in .toml.

        Raises:
            ConfigError: for an unknown name, with those near it.
        """
        known = self.models if kind == "model" else {**self.recipes, **self.finetuning}
        if name in known:
            return known[name]
        if name.endswith(".toml"):
            if Path(name).is_file():
                return Path(name)
            raise ConfigError(f"{name!r} is no {kind}: there is no such file")
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:3]
        raise ConfigError(
            f"{name!r} is no {kind}: near it are {', '.join(near)}; `--config list` shows all, and your "
            "own is named by its path, which ends in .toml"
        )

    def listing(self, family: str) -> str:
        """Name, title and published result of each recipe of a family (the name of its folder)."""
        lines = []
        for name, path in {**self.recipes, **self.finetuning}.items():
            if path.parents[1].name == family:
                comment = leading_comment(path)
                result = remark(comment, "Result")
                lines.append(f"{name}  {comment[0]}" + (f"\n    {result}" if result else ""))
        return "\n".join(lines)


def leading_comment(path: Path) -> list[str]:
    """The lines of a file's leading comment without their marks."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return lines


def remark(comment: Iterable[str], name: str) -> str | None:
    """A comment's text after `name:`, with the indented lines below it; None if not there.

    Example:
        >>> comment = ("Title", "Source: one", "  and two", "Cost: 3")
        >>> remark(comment, "Source"), remark(comment, "Result")
        ('one and two', None)
    """
    found: list[str] = []
    for line in comment:
        if found and line.startswith("  "):
            found.append(line.strip())
        elif found:
            break
        elif line.startswith(f"{name}:"):
            found.append(line.removeprefix(f"{name}:").strip())
    return " ".join(found) or None


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    return {path.stem: path for path in sorted(paths)}


SHIPPED = Catalogue(Path(__file__).resolve().parents[2] / "examples_deepspeed" / "data_efficiency")
