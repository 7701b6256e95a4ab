"""Fetches start checkpoints, the base model and the official data: behind scripts/download.sh."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # httpx's in huggingface_hub 1.x, httpx2's in 2.x
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import enable_progress_bars, validate_repo_id
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from gym_command.command import run_command
from gym_dialogue.errors import InputError
from gym_dialogue.released import DATA_DIR, RELEASED_DIR
from gym_policy.models.unpack import unpack

_EVALUATE = "bash scripts/eval_ood.sh {}"
_START = "bash scripts/train_rl_{}.sh paper --model={{}}"
KNOWN = {
    "gp_l_init": ("tianzhechu/GP-L-Init", _START.format("gp_l")),
    "gp_vl_init": ("tianzhechu/GP-VL-Init", _START.format("gp_vl")),
    "virl_l_init": ("tianzhechu/VIRL-L-Init", _START.format("virl_l")),
    "virl_vl_init": ("tianzhechu/VIRL-VL-Init", _START.format("virl_vl")),
    "gp_l_rl20": ("tianzhechu/GP-L-RL20", "bash scripts/eval_ood.sh {} paper"),
    "base": (
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "bash scripts/train_sft_gp_l.sh paper --model={}",
    ),
    "data": (
        "tianzhechu/SFTvsRL_Data",
        "python -m gym_dialogue.wording {}/SFT_Data/gp-l/data.json --task=gp_l "
        "--out gp_l_wording.json",
    ),
}
"""Short name -> repository, and what uses it next."""

_LEFT_OUT = "original/"  # Meta's second copy of a Llama's weights
_LARGE = 10**9  # bytes
_PATIENCE = 10.0  # seconds until a hub that does not answer counts as unreachable


@dataclass
class Config:
    """Fetch models and data from the hub, and check what arrived."""

    names: list[str] = field(default_factory=list)
    """Short names (gp_l_init, gp_vl_init, virl_l_init, virl_vl_init, gp_l_rl20, base, data), or
    OWNER/NAME of any model on the hub."""
    local_dir: str | None = None
    """Each repository goes to a directory of its own in this one. None: models to the hub's cache
    (under HF_HOME), where --model=OWNER/NAME finds them, and the data to data/, where the `paper`
    settings look for it."""


@dataclass
class _Repo:
    id: str
    type: str
    launcher: str
    place: Path | None  # None: the hub's cache
    files: list[RepoFile] = field(default_factory=list)
    missing: int = 0  # bytes


def main(config: Config, endpoint: str | None = None) -> None:
    """Run the command. `endpoint` is the hub's address, that of HF_ENDPOINT by default."""
    enable_progress_bars()
    api = HfApi(endpoint=endpoint)
    repos = [_find(name, config.local_dir) for name in config.names]
    if not repos:
        raise InputError(f"nothing to fetch: name some of {', '.join(KNOWN)}, or OWNER/NAME")
    token = get_token()
    if token and not (token.isascii() and token.isprintable()):  # an error would show it
        raise InputError("the token (HF_TOKEN, or of hf auth login) is none: it has odd characters")
    for repo in repos:
        _explain(_list, api, repo)
    for place in dict.fromkeys(_place_of(repo) for repo in repos):
        _check_space([repo for repo in repos if _place_of(repo) == place], place)
    for repo in repos:
        directory = _explain(_fetch, api, repo)
        _check_files(repo, directory)
        _check_shards(repo, directory)
        for archive in _archives(repo, directory):
            if unpack(archive):
                print(f"{archive}: unpacked")
        print(f"{repo.id}: complete, every file checked, in\n{directory}")
        for command in _next_steps(repo, directory):
            print(f"  {command}")


def require(name: str, endpoint: str | None = None) -> None:
    """Raises InputError, within seconds and saying what to do, where a model's hub name is neither
    in the cache nor to be had. (The libraries that load it would first retry for a minute.)
    """
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise InputError(f"checkpoint {name}: no such directory") from error
    cached = (try_to_load_from_cache(name, file) for file in ("config.json", "adapter_config.json"))
    if any(isinstance(file, str) for file in cached):
        return
    repo = _Repo(name, "model", _EVALUATE, None)
    _explain(lambda api, repo: api.repo_info(repo.id, timeout=_PATIENCE), HfApi(endpoint), repo)


def _find(name: str, local_dir: str | None) -> _Repo:
    if name not in KNOWN and name.count("/") != 1:
        raise InputError(f"{name}: must be one of {', '.join(KNOWN)}, or a model's OWNER/NAME")
    repo_id, launcher = KNOWN.get(name, (name, _EVALUATE))
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise InputError(f"{name}: is no name of the hub: {error}") from error
    if local_dir is None and name == "data":
        local_dir = str(DATA_DIR)
    place = Path(local_dir).expanduser() / repo_id.split("/")[1] if local_dir else None
    return _Repo(repo_id, "dataset" if name == "data" else "model", launcher, place)


def _place_of(repo: _Repo) -> Path:
    """Return where a repository's directory goes."""
    return (repo.place.parent if repo.place else Path(constants.HF_HUB_CACHE)).absolute()


def _archives(repo: _Repo, directory: Path) -> list[Path]:
    """Return the zips of a data set."""
    zips = [file.path for file in repo.files if file.path.endswith(".zip")]
    return [directory / path for path in zips] if repo.type == "dataset" else []


def _next_steps(repo: _Repo, directory: Path) -> list[str]:
    """Return what to run next; of data elsewhere first what puts it where the `paper` settings
    look.
    """
    steps = [repo.launcher.format(shlex.quote(str(directory)))]
    if repo.type == "dataset" and directory.resolve() != RELEASED_DIR.resolve():
        source = shlex.quote(str(directory.resolve()))
        steps.insert(0, f"mkdir -p {DATA_DIR} && ln -sfn {source} {RELEASED_DIR}")
    return steps


def _list(api: HfApi, repo: _Repo) -> None:
    """Ask the hub for a repository's files, and see how much of them is not here yet.

    The first request has a time limit and is sent once, so that a missing network shows at once;
    those that follow keep the library's patience.
    """
    info = api.repo_info(repo.id, repo_type=repo.type, timeout=_PATIENCE)
    if getattr(info, "gated", False):
        api.auth_check(repo.id, repo_type=repo.type)
    tree = api.list_repo_tree(repo.id, recursive=True, revision=info.sha, repo_type=repo.type)
    repo.files = [f for f in tree if isinstance(f, RepoFile) and not f.path.startswith(_LEFT_OUT)]
    for file in repo.files:
        cached = try_to_load_from_cache(repo.id, file.path, revision=info.sha, repo_type=repo.type)
        here = str(repo.place / file.path) if repo.place else cached
        if not isinstance(here, str) or not Path(here).is_file():
            repo.missing += file.size


def _check_space(repos: list[_Repo], place: Path) -> None:
    for repo in repos:
        size = tqdm.format_sizeof(sum(file.size for file in repo.files), "B")
        print(f"{repo.id}: {len(repo.files)} files, {size}")
    missing = sum(repo.missing for repo in repos)
    exists = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(exists).free
    needs = f"{tqdm.format_sizeof(missing, 'B')} to fetch, {tqdm.format_sizeof(free, 'B')} free"
    if missing > free:
        raise InputError(
            f"{place}: {needs}: free some, or name another place with --local_dir=DIR or HF_HOME"
        )
    print(f"{place}: {needs}", flush=True)


def _fetch(api: HfApi, repo: _Repo) -> Path:
    """Download what is not here yet. The library begins a file again that another process left
    unfinished, so large ones come one after the other: an interruption costs one of them at most.
    """
    options = {"repo_type": repo.type, "local_dir": repo.place, "endpoint": api.endpoint}
    large = [file.path for file in repo.files if file.size > _LARGE]
    try:
        if large:
            snapshot_download(repo.id, allow_patterns=large, max_workers=1, **options)
        return Path(snapshot_download(repo.id, ignore_patterns=[_LEFT_OUT + "*"], **options))
    except RuntimeError as error:  # hf_xet has no other for a network or a disk that fails
        raise OSError(str(error)) from error


def _check_files(repo: _Repo, directory: Path) -> None:
    """Raises InputError that names the files which are not what the hub lists."""
    wrong = {}
    total = sum(file.size for file in repo.files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Checking", disable=None) as bar:
        for file in repo.files:
            path = directory / file.path
            size = path.stat().st_size if path.is_file() else None
            if size != file.size:
                wrong[path] = "missing" if size is None else f"{size} bytes, not {file.size}"
            elif _digest(path, file, bar) != (file.lfs.sha256 if file.lfs else file.blob_id):
                wrong[path] = "its checksum is not the hub's"
    if wrong:
        named = [f"{path.relative_to(directory)} ({why})" for path, why in wrong.items()]
        remove = [str(path.resolve()) for path in wrong if path.is_file()]
        raise InputError(
            f"{repo.id}: damaged: {', '.join(named[:3])}{' and more' if named[3:] else ''}; "
            f"run this again{f', after: rm {shlex.join(remove)}' if remove else ''}"
        )


def _digest(path: Path, file: RepoFile, bar: tqdm) -> str:
    """SHA-256 of a file in LFS; of any other git's name, SHA-1 with the size in front."""
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % file.size)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _check_shards(repo: _Repo, directory: Path) -> None:
    """Raises InputError if weights are not where an index says: so it was uploaded."""
    for index in directory.rglob("*.safetensors.index.json"):
        try:
            shard_of = json.loads(index.read_text())["weight_map"]
            for shard in sorted(set(shard_of.values())):
                with safe_open(index.parent / shard, "numpy") as weights:
                    lost = {w for w in shard_of if shard_of[w] == shard} - set(weights.keys())
                if lost:
                    raise ValueError(f"{shard} lacks {sorted(lost)[0]}")
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            raise InputError(
                f"{repo.id}: {index.name} does not fit the weights, as uploaded: {error}"
            ) from error


def _explain(step: Callable[[HfApi, _Repo], Any], api: HfApi, repo: _Repo) -> Any:
    """Take a step with a repository. Raises InputError that says what to do if it fails."""
    try:
        return step(api, repo)
    except (HTTPError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{repo.id}: {_reason(error, api.endpoint, repo)}") from error


def _reason(error: BaseException, endpoint: str, repo: _Repo) -> str:
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # "not in the cache either" hides why
    detail = " ".join(str(getattr(error, "server_message", None) or error).split())
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    log_in = "log in (hf auth login, or HF_TOKEN=...)"
    if isinstance(error, GatedRepoError):
        page = f"{endpoint}/{'datasets/' * (repo.type == 'dataset')}{repo.id}"
        return f"is gated: accept its licence at {page} and {log_in} with that account"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such {repo.type} at {endpoint}: check the name; if it is private, {log_in}"
    if status == 401:
        return f"needs a valid token: make one at {endpoint}/settings/tokens and {log_in}"
    if status:
        return f"{endpoint} answered {status} ({detail}); what was fetched is kept, try again later"
    if isinstance(error, json.JSONDecodeError):
        return f"{endpoint} does not answer like a hub: check HF_ENDPOINT and the proxy"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in detail:
        return "the disk is full: free some (hf cache prune drops unfinished files), run this again"
    if isinstance(error, HTTPError):
        return f"cannot reach {endpoint} ({detail}): check the network, HTTPS_PROXY and HF_ENDPOINT"
    return f"cannot be fetched: {detail}; what was fetched is kept, the same command goes on"


def _stop(*_: Any) -> None:
    """Ctrl-C, at once: by itself, the library first waits for the files that it is fetching."""
    print("\ninterrupted: the same command goes on from here", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _stop)
    run_command(main, Config)
