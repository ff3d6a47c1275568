"""What is to be flashed: a build that is whole and signed, and devices' own file systems."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyferry_firmware import images, provision, record, release, rom
from keyferry_firmware.problems import FirmwareProblem

_LARGEST_LOG = 16 << 20
_WHOLE = {"esp32": "firmware.bin", "rp2": "firmware.uf2"}


@dataclass(frozen=True)
class Image:
    """A build in memory, every byte as its record says: what was checked is what is flashed."""

    board: str
    family: str
    chip: int  # esp32: chip id; rp2: UF2's family id
    rom: bytes  # sealed
    filesystem: bytes  # LittleFS with the boot code only
    whole: bytes | None  # the one file to flash; None of a build without a base image
    files_offset: int
    files_size: int
    program: int
    signed_by: str  # the name of the release key, "" when nobody asked

    @property
    def digest(self) -> str:
        """SHA-256 of the ROMFS image, which the boot code compares, hexadecimal."""
        return self.rom[32 : rom.HEAD].hex()


def load(folder: Path, public: bytes | None) -> Image:
    """The build in ``folder``. FirmwareProblem when it is not whole, or not signed by ``public``.

    ``public`` is a release key as release.public_key gives it; None checks no signature.
    """
    if public is not None:
        release.verify(folder, public)
    built, filesystem = provision.read_build(folder)
    hashes = {item["path"]: item["sha256"] for item in built["files"]}
    board, place = built["board"], built["flash"]["files"]
    family = board.get("family")
    if family not in (*_WHOLE, "process"):
        raise FirmwareProblem(f"{folder} is for no family of boards known here; build it again.")

    def read(name: str) -> bytes:
        data = (folder / name).read_bytes()
        if record.digest(data) != hashes.get(name):
            raise FirmwareProblem(f"{folder / name} changed while it was read; try again.")
        return data

    sealed = read(record.ROM)
    rom.unseal(sealed)
    whole = _WHOLE.get(family, "")
    return Image(
        board["name"],
        family,
        board["chip"],
        sealed,
        filesystem,
        read(whole) if whole in hashes else None,
        place["offset"],
        place["size"],
        board["program"],
        "" if public is None else release.name_of(public),
    )


def provisioned(folder: Path, image: Image) -> dict[str, bytes]:
    """``{device: LittleFS image}`` of what ``keyferry firmware provision`` made for this build."""
    path = folder / provision.LOG
    broken = FirmwareProblem(f"{path} is no list of provisioned devices; provision them again.")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_LOG + 1)
        value: Any = json.loads(data) if len(data) <= _LARGEST_LOG else None
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise broken from None
    if not isinstance(value, dict) or not isinstance(value.get("devices"), list):
        raise broken
    if value.get("board") != image.board:
        raise FirmwareProblem(
            f"{folder} is for {value.get('board')}, and the build for {image.board}: provision "
            "the devices with this build."
        )
    if value.get("application") != record.digest(image.rom):
        raise FirmwareProblem(
            f"{folder} was made with another build: provision the devices with this one."
        )
    found = {}
    for item in value["devices"]:
        name = item.get("name") if isinstance(item, dict) else None
        # a name that could leave the folder is none that provisioning writes
        if not isinstance(name, str) or Path(name).name != name:
            raise broken
        place = folder / name / record.FILES
        try:
            own = place.read_bytes()
        except OSError as error:
            raise FirmwareProblem(f"{place} cannot be read: {error.strerror}.") from None
        if len(own) != image.files_size:
            raise FirmwareProblem(f"{place} is cut short or changed; provision the devices again.")
        found[name] = own
    return found


def files_of(filesystem: bytes) -> dict[str, bytes]:
    """The files in a LittleFS image; FirmwareProblem when it is broken."""
    from littlefs import LittleFSError

    try:
        return images.read_littlefs(filesystem)
    except (LittleFSError, ValueError):
        raise FirmwareProblem("a device's file system is broken; provision it again.") from None
