"""Sends a directory to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gym_dialogue.errors import InputError, one_line


def check_repo_id(repo_id: str) -> None:
    """Raises InputError for what is no OWNER/NAME of the hub."""
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise InputError(f"push_to_hub={repo_id}: is no name of the hub: {error}") from error
    if repo_id.count("/") != 1:
        raise InputError(f"push_to_hub={repo_id}: must be OWNER/NAME")


def push_directory(
    directory: str | Path,
    repo_id: str,
    repo_type: Literal["model", "dataset"],
    private: bool = True,
    ignore: Sequence[str] = (),
    endpoint: str | None = None,
) -> str:
    """Upload a directory, but for what the patterns `ignore` match, as one commit to a repository,
    which is made if need be; return its address. `private` is for one that is made. `endpoint` is
    the hub's address, that of HF_ENDPOINT by default.

    Raises InputError for a name that is none, a token that is missing or may not write, and a hub
    that does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    check_repo_id(repo_id)
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=directory,
            repo_id=repo_id,
            repo_type=repo_type,
            ignore_patterns=list(ignore),
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = (
            f"log in with a token that may write there ({api.endpoint}/settings/tokens; "
            "hf auth login, or HF_TOKEN=...)"
            if status in (401, 403)
            else f"what was written is in {directory}"
        )
        detail = one_line(Exception(error.server_message or error))
        raise InputError(
            f"push_to_hub={repo_id}: {api.endpoint} answered {status} ({detail}); {remedy}"
        ) from error
    except (HTTPError, OSError) as error:
        raise InputError(
            f"push_to_hub={repo_id}: cannot reach {api.endpoint} ({one_line(error)}): check the "
            f"network, HTTPS_PROXY and HF_ENDPOINT; what was written is in {directory}"
        ) from error
    return f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
