"""A device from the list to the link: built, provisioned, and enrolled at a real manager."""

import asyncio
import json
import shutil
from pathlib import Path

from keyferry_hil import bench
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from support.command import command


def test_a_provisioned_token_device_enrols(tmp_path: Path) -> None:
    line = ("firmware", "build", "--board", "virtual", "--app", bench.APPLICATION)
    command(tmp_path, *line, "--no-preflight", "-o", tmp_path / "image")

    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            await stage.keyferry(
                *("device", "add", "pump-7", "--token", "--out", str(tmp_path / "pump-7")),
                *("--home", str(stage.home), "--mqtt-port", str(stage.ready["mqtt_port"])),
                *("--est-port", str(stage.ready["est_port"])),
            )
            (tmp_path / "list.csv").write_text("name,files\npump-7,pump-7\n")
            await stage.keyferry(
                *("firmware", "provision", "--devices", str(tmp_path / "list.csv")),
                *("--image", str(tmp_path / "image"), "-o", str(tmp_path / "devices")),
            )
            flash = tmp_path / "flash"
            shutil.copy(tmp_path / "devices" / "pump-7" / "littlefs.img", flash)
            device = VirtualDevice("pump-7", flash, Application.built(tmp_path / "image"))
            async with device:
                await device.wait_for("ready", timeout=60)
            assert "token" not in device.files(), "it is used up"
            listed = await stage.keyferry("device", "list", "--home", str(stage.home))
            assert [item["state"] for item in listed] == ["enrolled"]

    asyncio.run(main())
    log = json.loads((tmp_path / "devices" / "provisioned.json").read_text())
    assert [item["name"] for item in log["devices"]] == ["pump-7"]
