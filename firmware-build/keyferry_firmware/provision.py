"""Per-device file systems: the boot code of a build, and one device's own files.

The shared image stays as it is; what makes a device itself is in its LittleFS image alone, which
only the owner of the folder can read.
"""

import json
from pathlib import Path
from typing import Any

from littlefs import LittleFSError

from keyferry_firmware import images, labels, record, rp2
from keyferry_firmware.devices import Device
from keyferry_firmware.problems import FirmwareProblem

LOG = "provisioned.json"


def read_build(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The record of a build, and its file system; both whole."""
    built = record.read(folder)
    wrong = record.compare(built, folder, record.BESIDES)
    if wrong:
        raise FirmwareProblem(f"{folder} is not what was built: {'; '.join(wrong)}.")
    board, flash = built["board"], built.get("flash")
    place = flash.get("files") if isinstance(flash, dict) else None
    numbers = (
        *(board.get("program"), board.get("chip")),
        *((place.get("offset"), place.get("size")) if isinstance(place, dict) else (None, None)),
    )
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise FirmwareProblem(f"{folder} has no layout in its record; build it again.")
    return built, (folder / record.FILES).read_bytes()


def provision(built: dict[str, Any], filesystem: bytes, devices: list[Device]) -> dict[str, bytes]:
    """``{"NAME/littlefs.img": image, …}``, labels for those with a token, and the log."""
    board, place = built["board"], built["flash"]["files"]
    boot = images.read_littlefs(filesystem)
    files: dict[str, bytes] = {}
    made = []
    for device in devices:
        try:
            image = images.littlefs(
                {**boot, **device.files}, place["size"], program=board["program"]
            )
        except LittleFSError:
            raise FirmwareProblem(
                f"{device.name}: its files do not fit the {place['size']} bytes that "
                f"{board['name']} has for them."
            ) from None
        own = {f"{device.name}/littlefs.img": image}
        if board["family"] == "rp2":
            own[f"{device.name}/device.uf2"] = rp2.write(board["chip"], {place["offset"]: image})
        if device.token:
            own[f"{device.name}/label.png"] = labels.png(_claim(device))
        files.update(own)
        made.append(
            {
                "name": device.name,
                "realm": device.realm,
                "credential": device.credential,
                "wifi": "wifi.json" in device.files,
                "files": {name: len(data) for name, data in sorted(own.items())},
            }
        )
    claims = [(device.name, device.realm, _claim(device)) for device in devices if device.token]
    if claims:
        files["labels.pdf"] = labels.sheet(claims)
    rom = next(item["sha256"] for item in built["files"] if item["path"] == record.ROM)
    log = {
        "board": board["name"],
        "flash_offset": place["offset"],
        "application": rom,
        "devices": made,
    }
    files[LOG] = json.dumps(log, indent=1).encode() + b"\n"
    return files


def _claim(device: Device) -> str:
    """What a label's code says: whoever holds it may enrol as this device, once."""
    return f"keyferry:{device.name}@{device.realm}?token={device.token}"
