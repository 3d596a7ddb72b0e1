"""From the name of a model to a folder on this machine: a folder as it is, a Hugging Face hub id through its cache.

Only data is fetched: safetensors weights, configs and tokenizer files; no pickles and no code.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tracing.errors import ModelError

HUB_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

TOKENIZER_FILES: Final = ["*.json", "*.txt", "*.model", "*.jinja"]
WEIGHT_FILES: Final = ["*.safetensors"]
OTHER_COPIES: Final = ["*/*", "consolidated*"]
"""Subfolders (exports to other formats) and the original layout of weights that are there a second time."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are, and the name by which its user knows it."""

    folder: Path
    name: str
    fetched: bool = False
    """Whether the folder is one of the hub's cache."""


def find(model: str | Path, *, revision: str | None = None, weights: bool = True) -> Source:
    """The folder of a model: `model` itself, or what the hub's cache has (and fetches) for an id.

    Without `weights` only configs and tokenizer files are fetched. A `Path` is never looked up on the hub.
    Raises `ModelError` where there is neither such a folder nor such a model on the hub.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"The folder {folder.name!r} has no revisions, but revision={revision!r} was given.",
                remedy="Leave revision out, or give a hub id.",
            )
        return Source(folder, folder.name)
    if isinstance(model, Path) or not HUB_ID.fullmatch(model):
        return Source(folder, folder.name)  # reading its config says that it is missing
    patterns = [*TOKENIZER_FILES, *(WEIGHT_FILES if weights else [])]
    try:
        found = snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=OTHER_COPIES)
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise _unavailable(model, revision, error) from error
    return Source(Path(found), model, fetched=True)


def _unavailable(name: str, revision: str | None, error: Exception) -> ModelError:
    where = {"model": name, "revision": revision}
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"The model {name!r} is on the Hugging Face hub, but only for people who accepted its terms.",
            remedy="Accept them on its page, then log in: `hf auth login`.",
            where=where,
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(
            f"The model {name!r} has no revision {revision!r}.", remedy="Give a branch, tag or commit.", where=where
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"There is no model {name!r}: no such folder here, and no such model on the Hugging Face hub.",
            remedy="Check its name; for a private one log in: `hf auth login`.",
            where=where,
        )
    offline = "the hub is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    at = f" at revision {revision!r}" if revision else ""
    return ModelError(
        f"The model {name!r}{at} is not on this machine (no such folder, not in the hub's cache), and {offline}.",
        remedy="Go online once to fetch it, or give the folder that save_pretrained wrote.",
        where=where,
    )
