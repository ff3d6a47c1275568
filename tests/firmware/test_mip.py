"""A build's package.json, installed by MicroPython's own mip from a server on loopback."""

import os
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from keyferry_firmware import boards, build, output, record
from keyferry_hil import interpreter

pytestmark = pytest.mark.timeout(300)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_mip_installs_a_build_and_it_runs(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "from keyferry_core import cbor\nprint(cbor.encode([1, 2]))\n"
    )
    made = build.build(boards.load("virtual"), tmp_path / "main.py")
    output.write_folder(tmp_path / "out", made.files)
    library = tmp_path / "lib"
    serve = partial(Quiet, directory=str(tmp_path / "out"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/package.json"
            code = f"import mip\nmip.install({url!r}, target={str(library)!r})\n"
            done = run(code, ".frozen")
        finally:
            server.shutdown()
            thread.join()
    assert "Done" in done, done
    installed = {
        path.relative_to(library).as_posix(): path.read_bytes()
        for path in library.rglob("*")
        if path.is_file()
    }
    prefix = record.BYTECODE + "/"
    assert installed == {
        name.removeprefix(prefix): data
        for name, data in made.files.items()
        if name.startswith(prefix)
    }
    assert run("import main", f"{library}:.frozen").strip() == "b'\\x82\\x01\\x02'"


def run(code: str, path: str) -> str:
    done = subprocess.run(
        [*interpreter.command(), "-X", "heapsize=1m", "-c", code],
        env={**os.environ, "MICROPYPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr
