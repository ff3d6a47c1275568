"""``keyferry demo --gateway``: a gateway and a device behind it, and the curl lines to try it."""

import asyncio
import http.client
import json
import shlex
import shutil
import ssl
from pathlib import Path

from keyferry_hil import bench
from keyferry_hil.free_port import free_port
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.screen import Screen
from keyferry_manager.cli.demo.stage import Stage

GATEWAY, DESTINATION, PARTY = "gw-1", "pump-7", "alice"
_SECONDS = 60
_POLICY = f"""
[[allow]]
from = "{GATEWAY} for {PARTY}"
to = "{DESTINATION}"
what = ["session", "message"]
"""


async def play(keep: bool, as_json: bool) -> bool:
    """Run it; whether every check held. It stays until Ctrl-C with ``keep``."""
    screen = Screen(as_json)
    async with Stage() as stage:
        with screen.phase("A manager, a gateway and a device behind it"):
            port, token = await _set_up(stage, screen)
        authority = stage.folder / "gateway.pem"
        header = stage.folder / "alice.header"
        header.touch(0o600)
        header.write_text(f"Authorization: Bearer {token}\n")
        with screen.phase(f"{PARTY} comes in with a token, and has no agent"):
            await asyncio.to_thread(_try, screen, port, authority, token)
            sessions = await stage.keyferry("sessions", "--home", str(stage.home))
            named = [item["on_behalf_of"] for item in sessions]
            screen.check("the manager knows for whom the session is", named == [PARTY])
        if keep:
            _show(screen, port, authority, header)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass  # Ctrl-C is how it ends
    return screen.held


async def _set_up(stage: Stage, screen: Screen) -> tuple[int, str]:
    """The port of the gateway, and the token of the third party."""
    await stage.make_home()
    (stage.home / "policy.toml").write_text(_POLICY)
    await stage.serve()
    home = ("--home", str(stage.home))
    folders = {name: stage.folder / "devices" / name for name in (GATEWAY, DESTINATION)}
    for name, folder in folders.items():
        await stage.keyferry(
            *("device", "add", name, "--factory", "--out", str(folder), *home),
            *("--mqtt-port", str(stage.ready["mqtt_port"])),
            *("--est-port", str(stage.ready["est_port"])),
        )
    await stage.keyferry("policy", "apply", *home)
    await stage._rules_in_force(devices=2)
    added = await stage.keyferry(
        *("gateway", "add", str(folders[GATEWAY]), PARTY, "--to", DESTINATION),
        *("--host", "localhost", "--host", "127.0.0.1"),
    )
    port = free_port()
    _edit(folders[GATEWAY] / "gateway.json", listen=f"127.0.0.1:{port}")
    _edit(folders[DESTINATION] / "config.json", third_parties=[f"{GATEWAY} for {PARTY}"])
    screen.say("host", f"policy: {GATEWAY} for {PARTY} may ask for {DESTINATION}")
    gateway, destination = await asyncio.gather(
        _board(stage, GATEWAY, *bench.GATEWAY), _board(stage, DESTINATION, *bench.DESTINATION)
    )
    await gateway.wait_for("ready", timeout=_SECONDS)
    await destination.wait_for("ready", timeout=_SECONDS)
    certificate = ssl.DER_cert_to_PEM_cert(gateway.files()["gateway.crt"])
    (stage.folder / "gateway.pem").write_text(certificate)
    screen.say(GATEWAY, f"made its own HTTPS key and listens on https://localhost:{port}/")
    linked = [event for event in gateway.events if event["event"] == "link-up"]
    screen.check("the gateway has no link to the manager yet", not linked)
    return port, added["token"]


async def _board(stage: Stage, name: str, program: Path, heap: str) -> VirtualDevice:
    place = stage.folder / "application" / name
    place.mkdir(parents=True)
    application = await asyncio.to_thread(Application.build, program, place)
    device = VirtualDevice(name, stage.folder / f"{name}.flash", application, heap=heap)
    files = stage.folder / "devices" / name
    device.format({path.name: path.read_bytes() for path in files.iterdir()})
    shutil.rmtree(files)
    stage.devices.append(device)
    await device.start()
    return device


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _try(screen: Screen, port: int, authority: Path, token: str) -> None:
    status, body = _get(port, authority, "/v1/destinations", token)
    found = json.loads(body)["destinations"] if status == 200 else []
    screen.say(PARTY, f"GET /v1/destinations: {found}")
    screen.check("the gateway lists what is permitted", found == [DESTINATION])
    status, body = _get(port, authority, f"/v1/{DESTINATION}/data/status", token)
    screen.say(PARTY, f"GET /v1/{DESTINATION}/data/status: {body.decode()}")
    screen.check(f"{DESTINATION} answers", status == 200 and b"pressure" in body)
    status, body = _get(port, authority, f"/v1/{DESTINATION}/events/few", token)
    events = body.count(b"data: ")
    screen.say(PARTY, f"GET /v1/{DESTINATION}/events/few: {events} events")
    screen.check(f"{DESTINATION} streams", status == 200 and events == 5)
    status, _ = _get(port, authority, f"/v1/{DESTINATION}/data/status", "wrong")
    screen.check("a wrong token is refused", status == 401)


def _get(port: int, authority: Path, path: str, token: str) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(authority))
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # MicroPython says no goodbye
    connection = http.client.HTTPSConnection("localhost", port, timeout=_SECONDS, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _show(screen: Screen, port: int, authority: Path, header: Path) -> None:
    base = f"https://localhost:{port}"
    curl = f"curl --cacert {shlex.quote(str(authority))} -H @{shlex.quote(str(header))}"
    screen.say("host", "try it from another terminal:")
    for line in (
        f"{curl} {base}/v1/destinations",
        f"{curl} {base}/v1/{DESTINATION}/data/status",
        f"{curl} -N {base}/v1/{DESTINATION}/events/ticks",
    ):
        print("  " + line, flush=True)
    screen.say("host", f"or {base}/ in a browser; the token is in {header}")
    screen.say("host", "Ctrl-C ends it")
