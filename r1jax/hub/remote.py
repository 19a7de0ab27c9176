"""A model by its id on the Hugging Face Hub: `org/name`, or `org/name@revision`.

The library's own settings hold: HF_HOME (where the cache is), HF_ENDPOINT (a mirror), HF_TOKEN and
HF_HUB_OFFLINE. Its cache is safe for any number of processes: a file is written under another name
and moved into place, and a lock keeps two from fetching the same one. So every process of a pod may
ask: on a host the first fetches and the others wait, and hosts that share HF_HOME fetch once.
"""

import re
from pathlib import Path

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from r1jax.checks import InputError, check
from r1jax.hub.files import INDEX, no_weights

READ = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    INDEX,
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
]
# A pattern's * matches slashes, too: folders hold other formats (original/, onnx/) of the weights,
# and Mistral's consolidated files the same weights under names that are not Transformers'.
UNREAD = ["*/*", "consolidated*.safetensors"]

_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_PART}(?:/{_PART})*))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


def is_hub_id(text: str | Path) -> bool:
    """Whether it has the form of an id, and nothing on this machine has that path."""
    return _ID.fullmatch(str(text)) is not None and not Path(text).exists()


def fetch(name: str) -> Path:
    """The local folder of a model's snapshot, named after its commit; downloads what is not there.

    A branch (the default one, without a revision) means its newest commit, or, where the Hub cannot
    be asked, the one cached last; a commit that is cached is opened without asking. Raises
    InputError for a model that is not there, that may not be read or cannot be reached, and for a
    repository without config.json or *.safetensors.
    """
    repo, revision = _parts(name)
    try:
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=READ, ignore_patterns=UNREAD)
        )
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(f"{name}: no such directory; on the Hub: {_reason(error, repo)}") from None
    except HFValidationError as error:
        raise InputError(f"{name}: no such directory, and not a Hub id: {error}") from None
    check((folder / "config.json").is_file(), f"{name}: the repository has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise InputError(no_weights(f"{name} ({folder})", _listed(repo, folder.name)))
    return folder


def pinned(name: str, folder: Path) -> str:
    """The id of just what `fetch(name)`, which returned `folder`, found: with its commit."""
    return f"{_parts(name)[0]}@{folder.name}"


def names_pin(name: str, pin: str) -> bool:
    """Whether `name` is an id of what `pin` names with its commit. Without a revision it is, of any
    commit: a run goes on from where it began, though the repository has moved on since."""
    if not is_hub_id(name):
        return False
    (repo, revision), (of, _, commit) = _parts(name), pin.partition("@")
    if repo != of or not _COMMIT.fullmatch(commit):
        return False
    return revision is None or pinned(name, fetch(name)) == pin


def _parts(name: str) -> tuple[str, str | None]:
    found = _ID.fullmatch(name)
    assert found, name
    return found["repo"], found["revision"]


def _listed(repo: str, commit: str) -> list[str]:
    """Every file of the repository, as far as the cache knows."""
    try:
        return [file.path for file in get_cached_repo_tree(repo, revision=commit)]
    except CachedRepoTreeNotFoundError:  # fetched by an older version of the library
        return []


def _reason(error: Exception, repo: str) -> str:
    """In one line. What made the library look for a local copy is the cause of its not finding
    one."""
    at = constants.ENDPOINT
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} does not hold all of it"
    if isinstance(error, RevisionNotFoundError):
        return f"{at}/{repo} has no such revision"
    if not isinstance(error, HfHubHTTPError):
        said = " ".join(str(error).split())
        return f"{at} cannot be reached ({type(error).__name__}: {said})"
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"access to {at}/{repo} is restricted (HTTP {status}): ask for it on that page, and "
            "set HF_TOKEN to a token of the account that has it"
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return (
            f"{at}/{repo} does not exist, or is private and HF_TOKEN is not set to a token that "
            f"may read it (HTTP {status})"
        )
    return f"{at} answered HTTP {status}: try again later"
