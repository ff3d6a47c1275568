"""A private PostgreSQL, gone after the test: no network port, no user but the one who runs it."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from support.system_parts import find


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a cluster, give the URL of its database, and remove it all at the end."""
    program = find("postgres")
    assert program is not None, "mark the test with needs('postgres')"
    programs = Path(program).resolve().parent
    # PostgreSQL refuses to run as root; Debian's package makes this user.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="kf-pg-"))
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-A", "trust", "-U", "keyferry", "--no-sync"]
        subprocess.run([*initdb, "-E", "UTF8"], check=True, capture_output=True, user=user, cwd="/")
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [program, "-D", data, *options, "-c", "fsync=off"],
                stdout=log,
                stderr=log,
                user=user,
                cwd="/",
            )
        try:
            _wait(programs, folder, server)
            yield f"postgresql://keyferry@/postgres?host={quote(str(folder), safe='')}"
        finally:
            server.terminate()  # as "smart shutdown", and nobody is connected any more
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    command = [programs / "pg_isready", "-h", folder, "-U", "keyferry", "-d", "postgres", "-t", "1"]
    for _ in range(100):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        if server.poll() is not None:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.1)
    raise RuntimeError("PostgreSQL did not start:\n" + (folder / "log").read_text())
