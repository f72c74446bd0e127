"""The shipped recipes and models, by name."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from data_efficiency import ConfigError


class Catalogue:
    """A folder with a family of recipes in each subfolder.

    A family has `pretraining.toml` (what its recipes share), `models/*.toml` and `recipes/*.toml`. A file's
    stem is its name, unique over all families.
    """

    def __init__(self, folder: Path) -> None:
        self.recipes = _by_name(folder.glob("*/recipes/*.toml"))
        """Name -> path, sorted by path."""
        self.models = _by_name(folder.glob("*/models/*.toml"))
        self.families = {path.parent.name: path for path in folder.glob("*/pretraining.toml")}
        """Name of the family -> its pretraining.toml."""

    def recipe_path(self, name: str) -> Path:
        """The file of a shipped recipe, or of your own: a path that ends in .toml.

        Raises:
            ConfigError: for an unknown name, with those near it.
        """
        return _find(name, self.recipes, "recipe")

    def model_path(self, name: str) -> Path:
        """As `recipe_path`, for a model."""
        return _find(name, self.models, "model")


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    return {path.stem: path for path in sorted(paths)}


def _find(name: str, known: dict[str, Path], kind: str) -> Path:
    if name in known:
        return known[name]
    if name.endswith(".toml") and Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:3]
    raise ConfigError(
        f"{name!r} is no {kind}: near it are {', '.join(near)}; `tools/recipe.py list` shows all, and "
        "your own is named by its path, which ends in .toml"
    )
