"""The Hugging Face hub: the metadata of a model's card, and a folder's way there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def card_metadata(
    *,
    license: str | None,
    languages: Sequence[str],
    datasets: Sequence[str],
    pipeline: str,
    tags: Sequence[str],
) -> str:
    """The YAML at the head of a card; what is not given is left out."""
    text: str = (
        _huggingface_hub()
        .ModelCardData(
            license=license,
            language=list(languages) or None,
            datasets=list(datasets) or None,
            library_name="transformers",
            pipeline_tag=pipeline,
            tags=list(tags),
        )
        .to_yaml()
    )
    return text


def push_to_hub(folder: Path, repository: str, *, private: bool) -> str:
    """The address of a model's repository, made if it is not there, after a folder was uploaded to it.

    The token is the one of `hf auth login`, or HF_TOKEN.

    Raises:
        ValueError: if the hub cannot be reached or refuses; the folder stays as it is.
    """
    hub = _huggingface_hub()
    api = hub.HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message=f"Upload {folder.name}"
        )
    # Its own errors are OSErrors and ValueErrors, those of its client neither.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{folder} is complete, but was not pushed to {repository} on {api.endpoint}: {reason}; "
            f"once that is mended: hf upload {repository} {folder}"
        ) from error
    return str(made)


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - heavy and optional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a card needs huggingface_hub, which comes with transformers: pip install "
            "'data-efficiency[huggingface]'"
        ) from error
    return huggingface_hub
