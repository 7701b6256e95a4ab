"""Unpacks a downloaded zip beside itself: safely, and whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from gym_dialogue.errors import InputError

MAX_MEMBER = 2 * 2**30
"""Bytes of one file: far above any panorama or list of routes."""

_LEFT_OUT = ("__MACOSX", ".DS_Store")  # what some archivers add
_RELEASED = {"street_views", "route_infos.json", "gps_pano_mapping.pkl", "data.json"}
"""What stands at the top of the released archives."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpack(archive: Path) -> bool:
    """Unpack a zip into the folder of its name, unless that is there: False then. What its paths
    begin with is left out, up to a folder of its own name or the one that holds `street_views` and
    the like.

    It is unpacked beside its place and then moved there, so that an interrupted unpacking is done
    again. Raises InputError, and leaves nothing, for a member that does not belong into the folder
    (an absolute path, one with `..`, a link, a name that comes twice, one that is huge), for a
    damaged archive, and for a disk that is too small.
    """
    folder = archive.with_suffix("")
    if folder.is_dir():
        return False
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        _remove(partial)
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive)
            total = sum(info.file_size for info in members.values())
            free = shutil.disk_usage(archive.parent).free
            if total > free:
                sizes = (tqdm.format_sizeof(size, "B") for size in (total, free))
                raise InputError("{}: unpacks to {}, but {} are free".format(archive, *sizes))
            _write(opened, members, partial, archive.name)
        os.replace(partial, folder)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(
            f"{archive}: is damaged ({error}); remove it and run this again"
        ) from error
    except OSError as error:
        raise InputError(f"{archive}: cannot be unpacked: {error.strerror or error}") from error
    finally:
        _remove(partial)
    return True


def _remove(partial: Path) -> None:
    """Remove what an unpacking left, or a file or a link in its place; not what a link leads to."""
    if partial.is_symlink() or partial.is_file():
        partial.unlink()
    else:
        shutil.rmtree(partial, ignore_errors=True)


def _members(opened: zipfile.ZipFile, archive: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return the files to write, by their path in the folder."""
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in opened.infolist():
        path = _safe_path(info, archive)
        if info.is_dir() or path.parts[0] in _LEFT_OUT or path.name in _LEFT_OUT:
            continue
        if path in files:
            raise _refused(archive, info, "comes twice")
        files[path] = info
    for path, info in files.items():
        if any(parent in files for parent in path.parents):
            raise _refused(archive, info, "lies in what is a file as well")
    if not files:
        raise InputError(f"{archive}: holds no file")
    top = _top(files, archive.stem)
    return {path.relative_to(top): info for path, info in files.items()}


def _top(files: Collection[PurePosixPath], name: str) -> PurePosixPath:
    """Return the folder whose content is that of the archive called `name`. A folder that holds all
    files is not enough: `street_views` may be the only one, and its name is a part of it.
    """
    shared = PurePosixPath(os.path.commonpath([path.parent for path in files]) or ".")
    for folder in (shared, *shared.parents):
        inside = {path.relative_to(folder).parts[0] for path in files}
        if inside & _RELEASED or folder.name.lower() == name.lower():
            return folder
    return PurePosixPath(".")


def _safe_path(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    # As stored: zipfile itself cuts a name at a NUL, and on Windows turns backslashes.
    name, mode = info.orig_filename, info.external_attr >> 16
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _refused(archive, info, "leads out of the folder")
    if any(character in name for character in "\\:\0"):
        raise _refused(archive, info, "has a name that another system could read as another place")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(archive, info, "is a link or a device, not a file")
    if info.flag_bits & 1:
        raise _refused(archive, info, "is encrypted")
    if info.file_size > MAX_MEMBER:
        raise _refused(archive, info, f"has {info.file_size:,} bytes; at most {MAX_MEMBER:,}")
    return path


def _refused(archive: Path, info: zipfile.ZipInfo, why: str) -> InputError:
    return InputError(f"{archive}: refused: member {info.orig_filename!r} {why}")


def _write(
    opened: zipfile.ZipFile,
    members: dict[PurePosixPath, zipfile.ZipInfo],
    place: Path,
    label: str,
) -> None:
    for path, info in tqdm(members.items(), f"Unpacking {label}", unit="file", disable=None):
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(info) as source, open(target, "xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)  # never more than the size it declares
