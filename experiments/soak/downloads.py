"""Mirrors that answer badly, on this machine: one line, nothing left, and the next one serves."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from experiments.soak.promise import Promise
from minivat.data import Unavailable, download

COUNT = 20
BYTES = 1 << 20  # of a file
PROMISED = 10_000_000_000  # bytes, by a mirror that lies

Respond = Callable[[BaseHTTPRequestHandler, bytes, random.Random], None]


def promises(count: int, seed: int, folder: Path) -> list[Promise]:
    """One for each kind of mirror, and for two processes at once."""
    good_is_next = "the next one serves, and what it has sent is not left"
    return [
        *(
            Promise(
                f"a mirror that {text} is given up in one line; {good_is_next}",
                "a server on 127.0.0.1, two files of 1 MiB",
                functools.partial(given_up, respond, folder / str(place), seed),
                count,
            )
            for place, (text, respond) in enumerate(MIRRORS.items())
        ),
        Promise(
            "two processes that download into one folder both find the files whole",
            "a server on 127.0.0.1, started at once",
            functools.partial(both, folder / "both", seed),
            count,
        ),
    ]


def given_up(respond: Respond, folder: Path, seed: int, number: int) -> str:
    """A download from that mirror alone, then with a good one behind it."""
    draw = random.Random(f"{seed} {number}")
    files = {name: draw.randbytes(BYTES) for name in "ab"}
    sums, place = checksums(files), folder / str(number)
    with serving(files, functools.partial(respond, draw=draw)) as bad, serving(files) as good:
        began = time.monotonic()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                download.fetch(sums, [bad], place)
            return "accepted"
        except Unavailable as error:
            if len(str(error).splitlines()) != 1:
                return f"not one line: {error}"
        if (seconds := time.monotonic() - began) > 2 * download.AFTER:
            return f"given up after {seconds:.0f} s"
        if place.exists() and any(place.iterdir()):
            return f"left behind: {[path.name for path in place.iterdir()]}"
        with contextlib.redirect_stderr(io.StringIO()):
            download.fetch(sums, [bad, good], place)
    return compared(files, place)


def both(folder: Path, seed: int, number: int) -> str:
    """Two processes that fetch the same files."""
    files = {name: random.Random(f"{seed} {number} {name}").randbytes(BYTES) for name in "ab"}
    place, context = folder / str(number), multiprocessing.get_context("spawn")
    with serving(files) as url:
        arguments = (checksums(files), [url], place)
        processes = [context.Process(target=download.fetch, args=arguments) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    codes = [process.exitcode for process in processes]
    return compared(files, place) if codes == [0, 0] else f"exit codes {codes}"


def compared(files: Mapping[str, bytes], folder: Path) -> str:
    """ "" where the folder holds these files and nothing else."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return "" if found == files else f"the folder holds {sorted(found)}, or other contents"


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@contextlib.contextmanager
def serving(
    files: Mapping[str, bytes],
    respond: Callable[[BaseHTTPRequestHandler, bytes], None] | None = None,
) -> Iterator[str]:
    """The URL of a server of these files; respond: how it sends one, by default as it should."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # the client has gone
                (respond or send)(self, files[self.path[1:]])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# Ways to send a file -----------------------------------------------------------------------------


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    """As it should be; length: what the header says, where that is not true."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def cut_off(handler: BaseHTTPRequestHandler, content: bytes, draw: random.Random) -> None:
    """A part of it, and the connection ends."""
    send(handler, content[: draw.randrange(len(content))], len(content))
    handler.close_connection = True


def slow(handler: BaseHTTPRequestHandler, content: bytes, draw: random.Random) -> None:
    """5 kB a second."""
    send(handler, b"", len(content))
    for start in range(0, len(content), 512):
        handler.wfile.write(content[start : start + 512])
        time.sleep(0.1)


def stuck(handler: BaseHTTPRequestHandler, content: bytes, draw: random.Random) -> None:
    """A part of it, then nothing."""
    send(handler, content[: draw.randrange(len(content))], len(content))
    time.sleep(2 * download.PATIENCE)


def page(handler: BaseHTTPRequestHandler, content: bytes, draw: random.Random) -> None:
    """What a hotel answers."""
    send(handler, b"<html>please sign in</html>")


def wrong(handler: BaseHTTPRequestHandler, content: bytes, draw: random.Random) -> None:
    """One bit is another."""
    at = draw.randrange(len(content))
    send(handler, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def endless(handler: BaseHTTPRequestHandler, content: bytes, draw: random.Random) -> None:
    """Again and again."""
    send(handler, content, PROMISED)
    while True:
        handler.wfile.write(content)


MIRRORS: dict[str, Respond] = {
    "cuts off": cut_off,
    "is slow": slow,
    "stops in the middle": stuck,
    "sends a page of HTML with status 200": page,
    "sends another file": wrong,
    "sends 10 GB": endless,
}
