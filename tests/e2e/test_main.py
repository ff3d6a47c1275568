"""device/main.py as it stands, on a virtual board: it enrols and sends back what it gets."""

import asyncio
from pathlib import Path

from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import HEAP, Stage

MAIN = Path(__file__).parent.parent.parent / "device" / "main.py"
PATIENCE = 60.0


def test_the_program_that_ships_echoes_records(tmp_path: Path) -> None:
    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            await stage.allow("gauge-2", "pump-7")
            a = await stage.add_device("gauge-2")
            files = (await stage.add_device("pump-7")).files()
            application = await asyncio.to_thread(Application.build, MAIN, tmp_path)
            b = VirtualDevice("pump-7", tmp_path / "flash", application, heap=HEAP)
            b.format(files)
            async with b:
                await a.start()
                await a.wait_for("ready", timeout=PATIENCE)
                await b.wait_for("registered", timeout=PATIENCE)
                await a.send(do="connect", to="pump-7")
                await a.wait_for("connected", timeout=PATIENCE)
                await a.send(do="send", to="pump-7", count=3)
                sent = 0
                for _ in range(3):
                    record = await a.wait_for("record-sent", after=sent, timeout=PATIENCE)
                    sent = a.events.index(record) + 1
                    await a.wait_for("record-received", data=record["data"], timeout=PATIENCE)
                await a.send(do="close", to="pump-7")
                ended = await b.wait_for("echo-ended", timeout=PATIENCE)
                assert ended["reason"] == "session-closed"

    asyncio.run(main())
