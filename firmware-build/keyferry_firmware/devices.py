"""The list of devices to provision: a CSV file with a line for each, checked before use.

Columns, in any order, named in the first line:

name             the device's name; always
files            a folder that ``keyferry device add NAME --out`` made, in place of all up to token
realm, host      the manager's realm, and where devices reach it
carrier          mqtt or sip: what the device speaks; empty or absent for mqtt
mqtt_port, est_port, sip_port   the manager's ports; empty or absent for the usual ones
root             file with the realm's root certificate, DER: the one thing that a device trusts
factory_key, factory_certificate   files with a factory identity, DER; or instead of both
token            the one-time enrolment token: the device makes its key itself
trust            who vouches for its peers' keys: ca (the default), owner, pinned; also with files
owner            file with the owner's public key, PEM, for owner; also with files
ntp              an NTP server that may be asked for the time, HOST or HOST:PORT; also with files
wifi_ssid, wifi_password   the network that it joins; an open one has no password

Paths are relative to the list. Secrets are in no message: a problem names the line and the column.
"""

import csv
import io
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)

from keyferry_core.errors import DecodeError
from keyferry_core.names import check_name, check_realm
from keyferry_firmware.problems import FirmwareProblem

COLUMNS = (
    *("name", "files", "realm", "host", "carrier", "mqtt_port", "est_port", "sip_port", "root"),
    *("factory_key", "factory_certificate", "token", "trust", "owner", "ntp"),
    *("wifi_ssid", "wifi_password"),
)
# Who must vouch for a peer's key (device/keyferry_agent/config.py).
TRUST = ("ca", "owner", "pinned")
# What stands in the folder of the column ``files`` instead.
_IN_FILES = COLUMNS[2 : COLUMNS.index("token") + 1]
_CARRIERS = ("mqtt", "sip")
_SECRET = ("token", "wifi_password")
_MOST_BYTES = 4 << 20
_MOST_DEVICES = 10_000
# The agent's own limits (device/keyferry_agent/config.py).
_LARGEST = {
    "config.json": 4096,
    "root.der": 2048,
    "factory.crt": 2048,
    "factory.key": 512,
    "token": 256,
    "owner.pub": 65,
}


@dataclass(frozen=True)
class Device:
    """One device: its name, its files, and what may be said of them."""

    name: str
    realm: str
    files: dict[str, bytes]
    credential: str  # "factory" or "token"
    token: str  # for its label; "" with a factory identity


def read(path: Path) -> list[Device]:
    """Every device of the list. FirmwareProblem names the line that is wrong."""
    rows = _rows(path)
    seen: dict[str, int] = {}
    found = []
    for line, row in rows:
        try:
            device = _device(path.parent, row)
        except _Wrong as wrong:
            raise FirmwareProblem(f"{path}, line {line}: {wrong}.") from None
        if device.name in seen:
            raise FirmwareProblem(
                f"{path}, line {line}: {device.name} is in line {seen[device.name]} already."
            )
        seen[device.name] = line
        found.append(device)
    if not found:
        raise FirmwareProblem(f"{path} lists no device.")
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open("rb") as file:
            others = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > _MOST_BYTES:
        raise FirmwareProblem(f"{path} has more than {_MOST_BYTES} bytes: split the list.")
    reader = csv.reader(io.StringIO(_text(path, data), newline=""), strict=True)
    rows = []
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                _check_header(path, header)
                if others and any(column in header for column in _SECRET):
                    raise FirmwareProblem(
                        f"{path} has secrets in it and can be read by others: chmod 600 {path}"
                    )
                continue
            if len(cells) != len(header):
                raise FirmwareProblem(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, and the first line has "
                    f"{len(header)}."
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
            if len(rows) > _MOST_DEVICES:
                raise FirmwareProblem(f"{path}: more than {_MOST_DEVICES} devices: split the list.")
    except csv.Error as error:
        raise FirmwareProblem(f"{path}, line {reader.line_num}: {error}.") from None
    return rows


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FirmwareProblem(f"{path}, line {line}: not UTF-8; save it as UTF-8.") from None


def _check_header(path: Path, header: list[str]) -> None:
    for column in header:
        if column not in COLUMNS:
            raise FirmwareProblem(
                f"{path}, line 1: {column!r} is no column; there are {', '.join(COLUMNS)}."
            )
        if header.count(column) > 1:
            raise FirmwareProblem(f"{path}, line 1: {column} is there twice.")
    if "name" not in header:
        raise FirmwareProblem(f"{path}, line 1: there is no column 'name'.")


class _Wrong(Exception):
    """What is wrong with a row, without its line."""


def _device(place: Path, row: dict[str, str]) -> Device:
    try:
        name = check_name(row["name"])
    except DecodeError as error:
        raise _Wrong(f"name: {error.detail.partition(': ')[2]}") from None
    if row.get("files"):
        given = next((column for column in _IN_FILES if row.get(column)), "")
        if given:
            raise _Wrong(f"give either files or {given}")
        files = _made_by_manager(place / row["files"])
    else:
        files = _from_cells(place, row, name)
    realm = _check_config(files["config.json"], name)
    _set_trust(place, row, files)
    _set_ntp(row.get("ntp", ""), files)
    _check_root(files["root.der"])
    has = [key for key in ("factory.key", "factory.crt", "token") if key in files]
    if has == ["token"]:
        credential = "token"
        token = _check_token(files["token"])
    elif has == ["factory.key", "factory.crt"]:
        credential, token = "factory", ""
        _check_factory(files["factory.key"], files["factory.crt"])
    else:
        raise _Wrong("it needs either a token, or a factory key and its certificate")
    for key, data in files.items():
        if len(data) > _LARGEST[key]:
            raise _Wrong(f"{key} has more than {_LARGEST[key]} bytes")
    return Device(name, realm, {**files, **_wifi(row)}, credential, token)


def _read(path: Path, column: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max(_LARGEST.values()) + 1)
    except OSError as error:
        raise _Wrong(f"{column}: {path} cannot be read: {error.strerror}") from None


def _made_by_manager(folder: Path) -> dict[str, bytes]:
    files = {key: _read(folder / key, "files") for key in ("config.json", "root.der")}
    for key in ("factory.key", "factory.crt", "token", "owner.pub"):
        if (folder / key).exists():
            files[key] = _read(folder / key, "files")
    return files


def _from_cells(place: Path, row: dict[str, str], name: str) -> dict[str, bytes]:
    settings: dict[str, str | int] = {"name": name}
    for column in ("realm", "host"):
        if not row.get(column):
            raise _Wrong(f"{column} is missing")
        settings[column] = row[column]
    carrier = row.get("carrier", "")
    if carrier:
        if carrier not in _CARRIERS:
            raise _Wrong("carrier: expected mqtt or sip")
        settings["carrier"] = carrier
    if row.get("sip_port") and carrier != "sip":
        raise _Wrong("sip_port goes with the carrier sip")
    for column in ("mqtt_port", "est_port", "sip_port"):
        text = row.get(column, "")
        if text:
            if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
                raise _Wrong(f"{column}: expected 1 to 65535")
            settings[column] = int(text)
    if not row.get("root"):
        raise _Wrong("root is missing")
    files = {
        "config.json": json.dumps(settings, indent=2).encode() + b"\n",
        "root.der": _read(place / row["root"], "root"),
    }
    for column, key in (("factory_key", "factory.key"), ("factory_certificate", "factory.crt")):
        if row.get(column):
            files[key] = _read(place / row[column], column)
    if row.get("token"):
        files["token"] = row["token"].encode() + b"\n"
    return files


def _check_config(data: bytes, name: str) -> str:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _Wrong("config.json is not JSON of a device's settings")
    if value.get("name") != name:
        raise _Wrong("config.json is another device's")
    try:
        realm = check_realm(value.get("realm"))
    except DecodeError as error:
        raise _Wrong(f"realm: {error.detail.partition(': ')[2]}") from None
    host = value.get("host", realm)
    if not isinstance(host, str) or not 0 < len(host) <= 253 or not host.isascii():
        raise _Wrong("host: expected a host name or an IP address")
    return realm


def _set_trust(place: Path, row: dict[str, str], files: dict[str, bytes]) -> None:
    """Put mode and owner's key into ``files``, where the list has them; they go together."""
    settings = json.loads(files["config.json"])
    if row.get("owner"):
        files["owner.pub"] = _owner(place / row["owner"])
    mode = row.get("trust") or ("owner" if row.get("owner") else settings.get("trust", "ca"))
    if mode not in TRUST:
        raise _Wrong(f"trust: expected one of {', '.join(TRUST)}")
    if (mode == "owner") != ("owner.pub" in files):
        raise _Wrong("trust: owner goes with the owner's public key, in the column owner")
    if "owner.pub" in files and not _is_point(files["owner.pub"]):
        raise _Wrong("owner.pub is no public key on P-256")
    if settings.get("trust", "ca") != mode:
        settings["trust"] = mode
        files["config.json"] = json.dumps(settings, indent=2).encode() + b"\n"


def _set_ntp(server: str, files: dict[str, bytes]) -> None:
    if not server:
        return
    host, colon, port = server.partition(":")
    if ":" in port:  # an IPv6 address
        host, colon, port = server, "", ""
    digits = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not 0 < len(host) <= 253 or not host.isascii() or bool(colon) != digits:
        raise _Wrong("ntp: expected HOST or HOST:PORT")
    settings = json.loads(files["config.json"])
    settings["ntp"] = server
    files["config.json"] = json.dumps(settings, indent=2).encode() + b"\n"


def _owner(path: Path) -> bytes:
    try:
        key = load_pem_public_key(_read(path, "owner"))
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _Wrong("owner: expected a public key on P-256, PEM: owner.key.pub, say")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _is_point(data: bytes) -> bool:
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
    except ValueError:
        return False
    return len(data) == 65


def _check_root(data: bytes) -> None:
    try:
        x509.load_der_x509_certificate(data)
    except ValueError:
        raise _Wrong("root: this is no certificate in DER") from None


def _check_token(data: bytes) -> str:
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not 16 <= len(text) <= 128 or not text.isprintable() or " " in text:
        raise _Wrong("token: expected 16 to 128 characters without spaces")
    return text


def _check_factory(private: bytes, certificate: bytes) -> None:
    try:
        key = load_der_private_key(private, None)
        public = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, TypeError):
        raise _Wrong("factory_key, factory_certificate: expected DER, unencrypted") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _Wrong("factory_key: expected a key on P-256")
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise _Wrong("factory_certificate is not for factory_key")


def _wifi(row: dict[str, str]) -> dict[str, bytes]:
    ssid, password = row.get("wifi_ssid", ""), row.get("wifi_password", "")
    if not ssid:
        if password:
            raise _Wrong("wifi_password goes with wifi_ssid")
        return {}
    if len(ssid.encode()) > 32:
        raise _Wrong("wifi_ssid: at most 32 bytes")
    if password and not 8 <= len(password.encode()) <= 63:
        raise _Wrong("wifi_password: expected 8 to 63 characters")
    return {"wifi.json": json.dumps({"ssid": ssid, "password": password}).encode()}
