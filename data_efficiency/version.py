"""The version of the installed package; pyproject.toml says it, nobody else."""

from importlib.metadata import version

__version__ = version("data-efficiency")
