"""Download files from a list of mirrors, with checksums and short time limits."""

import contextlib
import importlib.util
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .dataset import Unavailable

PATIENCE = 4.0  # seconds for a mirror's first answer, and for each further piece of a file
PIECE = 1024  # bytes
LARGEST = 1 << 30  # bytes: no file of a data set is as long
SLOWEST, AFTER = 20_000, 20.0  # bytes a second, on the average, after so many seconds


class _Unfit(Exception):
    """What a mirror sends cannot be the file, or takes too long; the message is for people."""


def fetch(files: Mapping[str, str], mirrors: Sequence[str], folder: Path) -> None:
    """Complete `folder` with `files`, given as {name: SHA-256}, from the first mirror that works.

    A mirror is the URL to which a file's name is appended. Files that are in the folder with the
    right checksum stay; a file appears there only whole and checked.

    Raises Unavailable, naming what failed, if the folder cannot be completed.
    """
    import requests

    failures = []
    for mirror in mirrors:
        host = urlsplit(mirror).netloc
        try:
            _fetch_from(mirror, files, folder)
        except requests.HTTPError as error:
            failures.append(
                f"{host}: HTTP status {getattr(error.response, 'status_code', 'unknown')}"
            )
        except (requests.Timeout, TimeoutError):
            failures.append(f"{host}: no answer within {PATIENCE:g} s")
        except requests.exceptions.ChunkedEncodingError:
            failures.append(f"{host}: the connection broke off")
        except requests.RequestException:
            failures.append(f"{host}: no connection")
        except ValueError:
            failures.append(f"{host}: wrong checksum")
        except _Unfit as reason:
            failures.append(f"{host}: {reason}")
        except OSError:
            raise Unavailable(f"{folder} cannot be written") from None
        else:
            print(f"downloaded from {host} into {folder}", file=sys.stderr)
            return
    raise Unavailable("; ".join(failures))


def _fetch_from(mirror: str, files: Mapping[str, str], folder: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    _await_answer(mirror + next(iter(files)))
    for name, sha256 in files.items():
        pooch.retrieve(
            mirror + name, f"sha256:{sha256}", fname=name, path=folder, downloader=_download
        )


def _download(url: str, path: str, _: Any) -> None:
    """Write what is at the URL, for pooch; a file that cannot be it is not read to its end."""
    import requests

    began, size = time.monotonic(), 0
    with (
        requests.get(url, stream=True, timeout=PATIENCE) as response,
        open(path, "wb") as file,
        _progress(response.headers.get("content-length")) as advance,
    ):
        response.raise_for_status()
        for piece in response.iter_content(PIECE):
            file.write(piece)
            size += len(piece)
            advance(len(piece))
            seconds = time.monotonic() - began
            if size > LARGEST:
                raise _Unfit(f"more than {LARGEST >> 20} MiB")
            if seconds > AFTER and size < SLOWEST * seconds:
                raise _Unfit(f"slower than {SLOWEST // 1000} kB/s")


@contextlib.contextmanager
def _progress(length: str | None) -> Iterator[Callable[[int], Any]]:
    """A function that advances a bar by so many bytes, where there is a terminal and tqdm."""
    terminal = sys.stderr is not None and sys.stderr.isatty()  # a daemon may have none
    if not terminal or importlib.util.find_spec("tqdm") is None:
        yield lambda size: None
        return
    from tqdm import tqdm

    total = int(length) if length and length.isdecimal() else None
    with tqdm(total=total, unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update


def _await_answer(url: str) -> None:
    """Return once the server of `url` answers a HEAD request; TimeoutError after PATIENCE.

    In a thread, because the time limit of requests covers neither the look-up of the host's name
    nor the sum over its addresses, of which mirrors have a dozen: on a network that drops packets
    the user would wait for a minute.
    """
    import requests

    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            requests.head(url, timeout=PATIENCE)
        except requests.RequestException as error:
            answers.put(error)
        else:
            answers.put(None)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
