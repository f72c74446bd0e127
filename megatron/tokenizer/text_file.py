"""Text files of tokenizers, with errors that name them."""

from pathlib import Path


def read_text(path: Path) -> str:
    """Content of a file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such tokenizer file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a tokenizer file (not UTF-8 text)") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror})") from None
