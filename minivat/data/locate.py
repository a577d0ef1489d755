"""Where a data set's files are looked for: a given folder, MINIVAT_DATA, the user's cache."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from . import download
from .dataset import DataError, Unavailable

VARIABLE = "MINIVAT_DATA"

# the names under which a folder may hold a file: its own and, say, that of an archive with it
Forms = Callable[[str], Sequence[str]]


def as_it_is(file: str) -> Sequence[str]:
    """The file's own name only."""
    return (file,)


def locate_or_fetch(
    title: str,
    name: str,
    files: Collection[str],
    data_dir: str | Path | None,
    downloads: Mapping[str, str],
    mirrors: Sequence[str],
    forms: Forms = as_it_is,
) -> Path:
    """The folder that `locate` finds, or else the cache with `downloads` in it, {name: SHA-256}.

    Raises DataError as `locate`, and Unavailable, with the data set's `title`, where the files are
    neither there nor to be had from any of the `mirrors`.
    """
    folder = locate(name, files, data_dir, forms)
    if folder is None:
        folder = cache_folder(name)
        try:
            download.fetch(downloads, mirrors, folder)
        except Unavailable as failure:
            place = os.environ.get(VARIABLE) or "not set"
            raise Unavailable(
                f"{title} is neither in {VARIABLE} ({place}) nor in {folder},"
                f" and cannot be downloaded ({failure})"
            ) from None
    return folder


def locate(
    name: str,
    files: Collection[str],
    data_dir: str | Path | None = None,
    forms: Forms = as_it_is,
) -> Path | None:
    """The folder that holds all of `files`, or None where no place holds any of them.

    `data_dir`, if given, is the only place searched. Otherwise they are MINIVAT_DATA and the
    user's cache, in this order. A place may hold the files in a folder `name` or directly, each
    in any of its `forms`.

    Raises DataError where `data_dir` lacks the files, or where a place other than the cache (which
    a download completes) holds some of them only.
    """
    if data_dir is not None:
        folder = _folder_in(data_dir, name, files, forms)
        if folder is None:
            raise DataError(f"data_dir must hold {name}/ or {', '.join(files)}, got {data_dir}")
        return folder
    if os.environ.get(VARIABLE):
        folder = _folder_in(os.environ[VARIABLE], name, files, forms)
        if folder is not None:
            return folder
    cache = cache_folder(name)
    return None if missing_from(cache, files, forms) else cache


def cache_folder(name: str) -> Path:
    """The folder for downloaded files of the data set `name`, below the user's cache.

    Raises Unavailable where pooch, which knows that place and downloads into it, is not installed.
    """
    try:
        import pooch
    except ModuleNotFoundError:
        raise Unavailable("a download needs pooch: pip install pooch") from None
    return Path(pooch.os_cache("minivat"), name)


def missing_from(folder: Path, files: Collection[str], forms: Forms = as_it_is) -> list[str]:
    """Those of `files` that are in `folder` in none of their `forms`."""
    return [
        file for file in files if not any(os.path.exists(folder / form) for form in forms(file))
    ]


def _folder_in(place: str | Path, name: str, files: Collection[str], forms: Forms) -> Path | None:
    """`place`/`name` or `place` itself, the first that holds the files."""
    root = Path(os.path.expanduser(place))
    for folder in (root / name, root):
        missing = missing_from(folder, files, forms)
        if not missing:
            return folder
        if len(missing) < len(files):
            raise DataError(f"{folder}: lacks {', '.join(missing)}")
    return None
