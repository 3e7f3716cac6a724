"""Upload of an exported folder to the Hugging Face hub."""

from pathlib import Path

from alpaca.errors import RunFailed, UserError


def require_token(name: str) -> None:
    """Raise `UserError` where nobody is logged in, before anything is merged."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            f"--push-to-hub {name}: no token of the Hugging Face hub; run `hf auth login` or set HF_TOKEN, or "
            "leave it out"
        )


def upload(folder: Path, name: str) -> str:
    """Upload `folder` to the repository `name`, made private where it is new; returns its address.

    Raises:
        RunFailed: the hub refused or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        repository = api.create_repo(name, private=True, exist_ok=True).repo_id
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise RunFailed(
            f"--push-to-hub {name}: {reason[:300]}; the exported model is in {folder}, upload it with "
            f"`hf upload {name} {folder}`"
        ) from error
    return f"{api.endpoint}/{repository}"
