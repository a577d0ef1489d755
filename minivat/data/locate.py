"""Where a data set's files are looked for: a given folder, MINIVAT_DATA, the user's cache."""

import os
from collections.abc import Collection
from pathlib import Path

from minivat.data.dataset import DataError, Unavailable

VARIABLE = "MINIVAT_DATA"


def locate(name: str, files: Collection[str], data_dir: str | Path | None = None) -> Path | None:
    """The folder that holds all of `files`, or None where no place holds any of them.

    `data_dir`, if given, is the only place searched. Otherwise they are MINIVAT_DATA and the
    user's cache, in this order. A place may hold the files in a folder `name` or directly.

    Raises DataError where `data_dir` lacks the files, or where a place other than the cache (which
    a download completes) holds some of them only.
    """
    if data_dir is not None:
        folder = _folder_in(data_dir, name, files)
        if folder is None:
            raise DataError(f"data_dir {data_dir}: holds neither {name}/ nor {', '.join(files)}")
        return folder
    if os.environ.get(VARIABLE):
        folder = _folder_in(os.environ[VARIABLE], name, files)
        if folder is not None:
            return folder
    cache = cache_folder(name)
    return None if missing_from(cache, files) else cache


def cache_folder(name: str) -> Path:
    """The folder for downloaded files of the data set `name`, below the user's cache.

    Raises Unavailable where pooch, which knows that place and downloads into it, is not installed.
    """
    try:
        import pooch
    except ImportError:
        raise Unavailable("a download needs pooch: pip install pooch") from None
    return Path(pooch.os_cache("minivat"), name)


def missing_from(folder: Path, files: Collection[str]) -> list[str]:
    """Those of `files` that are not in `folder`."""
    return [file for file in files if not os.path.exists(folder / file)]


def _folder_in(place: str | Path, name: str, files: Collection[str]) -> Path | None:
    """`place`/`name` or `place` itself, the first that holds the files."""
    root = Path(os.path.expanduser(place))
    for folder in (root / name, root):
        missing = missing_from(folder, files)
        if not missing:
            return folder
        if len(missing) < len(files):
            raise DataError(f"{folder}: lacks {', '.join(missing)}")
    return None
