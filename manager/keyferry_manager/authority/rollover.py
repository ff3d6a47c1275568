"""A CA rolls over: the steps on the files of a home. ``keyferry ca rollover`` decides when.

``start`` makes the next root and issuing CA in a folder of their own; ``switch`` lets them sign;
``finish`` drops the old ones. Each is whole or not at all: a folder counts only from the moment
that ``rollover.json`` names it. Times are Unix seconds.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry_manager.authority import files, passes
from keyferry_manager.authority.chain import CA_FOLDER
from keyferry_manager.authority.generations import Generation, State
from keyferry_manager.authority.local import in_token, make_ca
from keyferry_manager.authority.token import token_key
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem, Conflict

# What is left of a new CA that was being made when the power went.
_UNFINISHED = ".next"


@contextmanager
def exclusive(config: Config) -> Iterator[None]:
    """One change of a home's CAs at a time, in all processes. Conflict when another is at it."""
    descriptor = os.open(_own(config), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("another command is changing this CA: try again.") from None
        yield
    finally:
        os.close(descriptor)


def start(config: Config, now: float) -> State:
    """Make the next root and issuing CA beside the present ones, and certify the roots by each
    other (RFC 4210, section 4.4). Needs the present root's key in its file."""
    ca = _own(config)
    state = State.load(ca)
    _expect(state, None, "finished")
    _remove_old_keys(ca, state)
    present = Generation.load(ca, state.current)
    key_file = present.folder / "root.key"
    if not key_file.exists():
        raise AuthorityProblem(
            f"{key_file} is not there: put the root's key back for as long as 'start' takes."
        )
    old = _issuer(present.root, files.load_key(key_file))
    name = str(max(1, int(state.current or 1)) + 1)
    folder, made = ca / name, ca / _UNFINISHED
    for leftover in (made, folder):  # nothing refers to either yet
        shutil.rmtree(leftover, ignore_errors=True)
    made.mkdir(mode=0o700)
    new = make_ca(made, "root", passes.ROOT, config.realm, None, now)
    key = None
    if config.authority == "pkcs11":
        key = token_key(in_token(config, name), make=True)
    make_ca(made, "issuing", passes.ISSUING, config.realm, new, now, key)
    for which, subject, issuer in (("new-with-old", new, old), ("old-with-new", old, new)):
        certificate = _cross(config, subject, issuer, now)
        files.write_new(made / f"{which}.pem", files.certificate_pem(certificate))
    files.write_new(made / "old-root.pem", files.certificate_pem(present.root))
    files.sync_directory(made)
    os.rename(made, folder)
    files.sync_directory(ca)
    state = State(state.current, name, "started", int(now))
    state.save(ca)
    return state


def abort(config: Config) -> None:
    """Forget the next CA, as long as it has signed nothing."""
    ca = _own(config)
    state = State.load(ca)
    _expect(state, "started")
    assert state.other is not None
    before = State(state.current, None, "finished", state.since) if state.current else State()
    if state.current:
        before.save(ca)
    else:
        (ca / "rollover.json").unlink()
        files.sync_directory(ca)
    shutil.rmtree(ca / state.other, ignore_errors=True)


def switch(config: Config, now: float) -> State:
    """Let the next CA sign. What the old one signed is believed on."""
    ca = _own(config)
    state = State.load(ca)
    _expect(state, "started")
    assert state.other is not None
    _check_key(config, Generation.load(ca, state.other))
    state = State(state.other, state.current, "switched", int(now))
    state.save(ca)
    return state


def finish(config: Config, now: float) -> State:
    """Believe the old CA no more, and remove its keys: whoever found them could still fool a
    device that knows no other."""
    ca = _own(config)
    state = State.load(ca)
    _remove_old_keys(ca, state)
    _expect(state, "switched")
    state = State(state.current, None, "finished", int(now))
    state.save(ca)
    _remove_old_keys(ca, state)
    return state


def _remove_old_keys(ca: Path, state: State) -> None:
    """Once a roll-over is finished: also those that one left behind whose power went."""
    if state.phase != "finished":
        return
    folders = [ca, *(path for path in ca.iterdir() if path.is_dir())]
    for folder in folders:
        if folder == ca / state.current:
            continue
        found = [folder / which for which in ("issuing.key", "root.key")]
        if any(path.exists() for path in found):
            for path in found:
                path.unlink(missing_ok=True)
            files.sync_directory(folder)


def _cross(
    config: Config, subject: passes.Issuer, issuer: passes.Issuer, now: float
) -> x509.Certificate:
    assert subject.certificate is not None
    key = subject.key.public_key()
    draft = passes.modify(passes.CROSS, subject.certificate.subject, (), key, issuer, now)
    return passes.issue(draft, issuer, config.realm, now)


def _own(config: Config) -> Path:
    if config.authority == "est":
        raise AuthorityProblem(
            f"this manager's CA stands apart, at {config.est_url}: it has no key to roll over."
        )
    return config.home / CA_FOLDER


def _expect(state: State, *phases: str | None) -> None:
    if state.phase in phases:
        return
    now = {
        None: "no roll-over has begun: 'keyferry ca rollover start' begins one",
        "started": "a roll-over has started: 'keyferry ca rollover switch' goes on with it, "
        "'abort' takes it back",
        "switched": "the new CA signs already: 'keyferry ca rollover finish' ends it",
        "finished": "the last roll-over is finished: 'keyferry ca rollover start' begins another",
    }
    raise Conflict(f"{now[state.phase]}.")


def _check_key(config: Config, generation: Generation) -> None:
    """The key that is to sign from now on is there, and the right one."""
    if config.authority == "pkcs11":
        key = token_key(in_token(config, generation.name))
    else:
        key = files.load_key(generation.folder / "issuing.key")
    if key.public_key() != generation.issuing.public_key():
        raise AuthorityProblem(
            f"{generation.folder} has another key than its certificate: restore it from a backup."
        )


def _issuer(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> passes.Issuer:
    if key.public_key() != certificate.public_key():
        raise AuthorityProblem("root.key is not the key of root.pem: restore both from one backup.")
    return passes.Issuer(key, certificate)
