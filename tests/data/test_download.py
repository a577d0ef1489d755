import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minivat.data import cifar10, download, load, mnist, svhn
from minivat.data.dataset import Unavailable
from tests.cifar_files import accept_small_files, write_cifar10, write_svhn
from tests.mnist_files import write_mnist

FILES = {"a.gz": b"the first file " * 1000, "b.gz": b"the second file " * 1000}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def serve():
    """Start a server on this machine: serve(respond) -> (URL, requested names).

    `respond` gets the request handler and the file's name, and answers a GET.
    """
    servers = []

    def start(respond):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(200)
                self.end_headers()

            def do_GET(self):
                asked.append(self.path[1:])
                respond(self, self.path[1:])

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(handler, content, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def whole(handler, name):
    send(handler, FILES[name])


def altered(handler, name):
    send(handler, FILES[name].replace(b"file", b"fake"))


def partial(handler, name):
    send(handler, FILES[name][:5000], len(FILES[name]))


def absent(handler, name):
    handler.send_error(404)


def altered_second(handler, name):
    (whole if name == "a.gz" else altered)(handler, name)


def endless(handler, name):
    with contextlib.suppress(OSError):
        send(handler, FILES[name], 10_000_000_000)
        while True:
            handler.wfile.write(FILES[name])


def trickling(handler, name):
    with contextlib.suppress(OSError):
        send(handler, b"", len(FILES[name]))
        while True:
            handler.wfile.write(b"x" * 1024)
            time.sleep(0.1)


def page(handler, name):
    send(handler, b"<html>please sign in</html>")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_all_files_come_from_the_first_mirror(serve, cache, capsys):
    (url, asked), (other, other_asked) = serve(whole), serve(whole)
    download.fetch(SUMS, [url, other], cache)
    assert contents(cache) == FILES
    assert asked == list(FILES)
    assert other_asked == []
    assert capsys.readouterr().err == f"downloaded from {url[7:-1]} into {cache}\n"


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (altered, "wrong checksum"),
        (partial, "the connection broke off"),
        (absent, "HTTP status 404"),
        (page, "wrong checksum"),
        (endless, "more than 1 MiB"),
        (trickling, "slower than 20 kB/s"),
    ],
)
def test_a_bad_mirror_leaves_nothing_and_the_next_one_serves(
    respond, reason, serve, cache, monkeypatch
):
    monkeypatch.setattr(download, "LARGEST", 1 << 20)
    monkeypatch.setattr(download, "AFTER", 0.3)
    url, asked = serve(respond)
    with pytest.raises(Unavailable, match=f"^{url[7:-1]}: {reason}$"):
        download.fetch(SUMS, [url], cache)
    assert asked == ["a.gz"]
    assert contents(cache) == {}
    download.fetch(SUMS, [url, serve(whole)[0]], cache)
    assert contents(cache) == FILES


def test_a_dead_mirror_is_passed_over(serve, cache, dead):
    download.fetch(SUMS, [dead, serve(whole)[0]], cache)
    assert contents(cache) == FILES


@pytest.fixture
def dead(serve):
    """The URL of a port at which nobody listens any more."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}/"


def test_files_that_came_whole_are_not_asked_for_again(serve, cache):
    (bad, _), (good, asked) = serve(altered_second), serve(whole)
    download.fetch(SUMS, [bad, good], cache)
    assert contents(cache) == FILES
    assert asked == ["b.gz"]


def test_a_mirror_that_never_answers_is_given_up(serve, cache, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    released = threading.Event()
    url, _ = serve(lambda handler, name: released.wait())
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match=r"no answer within 0\.1 s"):
            download.fetch(SUMS, [url], cache)
    finally:
        released.set()
    assert time.monotonic() - began < 5
    assert contents(cache) == {}


def test_a_name_look_up_that_hangs_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    released = threading.Event()
    monkeypatch.setattr("requests.head", lambda *args, **options: released.wait())
    try:
        with pytest.raises(Unavailable, match=r"example\.org: no answer within 0\.1 s"):
            download.fetch(SUMS, ["https://example.org/"], cache)
    finally:
        released.set()


def test_each_mirrors_failure_is_named(serve, cache, dead):
    (first, _), (second, _) = serve(altered), serve(absent)
    with pytest.raises(Unavailable) as caught:
        download.fetch(SUMS, [first, second, dead], cache)
    assert str(caught.value) == (
        f"{first[7:-1]}: wrong checksum; {second[7:-1]}: HTTP status 404;"
        f" {dead[7:-1]}: no connection"
    )


def test_a_folder_that_cannot_be_made_is_named(serve, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / "file" / "cache"
    with pytest.raises(Unavailable, match=f"^{folder} cannot be written$"):
        download.fetch(SUMS, [serve(whole)[0]], folder)


def test_load_downloads_into_the_cache_once(serve, cache, tmp_path, monkeypatch):
    write_mnist(tmp_path / "source", train=30, test=20)
    files = contents(tmp_path / "source")
    sums = {name: hashlib.sha256(files[name]).hexdigest() for name in mnist.FILES}
    url, asked = serve(lambda handler, name: send(handler, files[name]))
    monkeypatch.setattr(mnist, "MIRRORS", (url,))
    monkeypatch.setattr(mnist, "FILES", sums)
    dataset = load("auto")
    assert dataset.name == "mnist"
    assert dataset.checksums == sums
    assert contents(cache / "mnist") == files
    load("mnist")
    assert asked == list(sums)


def test_of_cifar10_the_archive_is_downloaded(serve, cache, tmp_path, monkeypatch):
    accept_small_files(monkeypatch)
    write_cifar10(tmp_path / "source", "tar")
    files = contents(tmp_path / "source")
    url, asked = serve(lambda handler, name: send(handler, files[name]))
    monkeypatch.setattr(cifar10, "MIRRORS", (url,))
    (name,) = cifar10.DOWNLOADS
    monkeypatch.setattr(cifar10, "DOWNLOADS", {name: hashlib.sha256(files[name]).hexdigest()})
    first, again = load("cifar10"), load("cifar10")
    assert first.checksums == again.checksums
    assert contents(cache / "cifar10") == files
    assert asked == [name]


def test_of_svhn_both_files_are_downloaded(serve, cache, tmp_path, monkeypatch):
    accept_small_files(monkeypatch)
    write_svhn(tmp_path / "source")
    files = contents(tmp_path / "source")
    sums = {name: hashlib.sha256(files[name]).hexdigest() for name in svhn.FILES}
    url, asked = serve(lambda handler, name: send(handler, files[name]))
    monkeypatch.setattr(svhn, "MIRRORS", (url,))
    monkeypatch.setattr(svhn, "FILES", sums)
    assert load("svhn").checksums == sums
    assert load("svhn").original
    assert contents(cache / "svhn") == files
    assert asked == list(sums)
