"""A browser and curl, a gateway, a manager and a device: MicroPython on both ends, and a gateway
on CPython."""

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from keyferry_hil import bench
from keyferry_hil.free_port import free_port
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from support.linux_device import LinuxDevice
from support.trail import audited

PROGRAMS = {"gateway": bench.GATEWAY, "destination": bench.DESTINATION}
PATIENCE = 60.0
POLICY = """
[[allow]]
from = ["gw-1 for alice", "gw-1 for bob"]
to = "pump-7"
what = ["session", "message"]

[[allow]]
from = "gw-1 for alice"
to = "valve-2"

[[allow]]
from = "gw-1"
to = "*"
"""

pytestmark = pytest.mark.needs("curl", "openssl")
on_both = pytest.mark.parametrize("runtime", ["micropython", "cpython"])


@pytest.fixture(scope="module")
def applications(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Application]:
    return {
        name: Application.build(program, tmp_path_factory.mktemp(name))
        for name, (program, _) in PROGRAMS.items()
    }


class Plant:
    """A manager, the gateway gw-1, and pump-7 behind it. alice and carol have tokens, bob a
    certificate; carol has no rule at the manager."""

    def __init__(
        self, stage: Stage, applications: dict[str, Application], runtime: str = "micropython"
    ) -> None:
        self.stage = stage
        self.runtime = runtime  # of the gateway
        self.applications = applications
        self.port = free_port()
        self.root = stage.folder / "gateway.pem"
        self.tokens = {name: secrets.token_urlsafe(32) for name in ("alice", "carol")}
        self.gateway: VirtualDevice
        self.pump: VirtualDevice

    async def build(self, ports: list[int]) -> None:
        await self.stage.make_home()
        (self.stage.home / "policy.toml").write_text(POLICY)
        await self.stage.serve()
        table = {
            "listen": f"127.0.0.1:{self.port}",
            "hosts": ["localhost", "127.0.0.1"],
            "third_parties": {
                "alice": {
                    "token": hashlib.sha256(self.tokens["alice"].encode()).hexdigest(),
                    "to": ["pump-7", "valve-2"],
                    "ports": [f"pump-7:{port}" for port in (*ports, 9)],
                },
                "bob": {"certificate": "bob.crt", "to": ["pump-7"]},
                "carol": {
                    "token": hashlib.sha256(self.tokens["carol"].encode()).hexdigest(),
                    "to": ["pump-7"],
                },
            },
        }
        files = {
            "gateway.json": json.dumps(table).encode(),
            "bob.crt": (self.stage.folder / "bob.crt").read_bytes(),
        }
        self.gateway = await self.device("gw-1", "gateway", files)
        peers = {"third_parties": ["gw-1 for alice", "gw-1 for carol"]}
        self.pump = await self.device(
            "pump-7",
            "destination",
            {"ports.json": json.dumps(ports).encode()},
            peers,
        )
        home = ("--home", str(self.stage.home))
        await self.stage.keyferry("device", "add", "valve-2", "--token", *home)
        await self.stage.keyferry("policy", "apply", *home)
        await self.stage._rules_in_force(devices=3)
        await asyncio.gather(self.gateway.start(), self.pump.start())
        await self.gateway.wait_for("ready", timeout=PATIENCE)
        await self.pump.wait_for("ready", timeout=PATIENCE)
        assert not [e for e in self.gateway.events if e["event"] == "link-up"], "no link unasked"
        made = self.gateway.files()["gateway.crt"]
        await self.run("openssl", "x509", "-inform", "DER", "-out", str(self.root), input=made)

    async def device(
        self,
        name: str,
        application: str,
        more: dict[str, bytes],
        settings: dict[str, object] | None = None,
    ) -> VirtualDevice:
        files = self.stage.folder / "devices" / name
        await self.stage.keyferry(
            *("device", "add", name, "--factory", "--out", str(files)),
            *("--home", str(self.stage.home)),
            *("--mqtt-port", str(self.stage.ready["mqtt_port"])),
            *("--est-port", str(self.stage.ready["est_port"])),
        )
        flash = {path.name: path.read_bytes() for path in files.iterdir()} | more
        shutil.rmtree(files)
        config = json.loads(flash["config.json"]) | (settings or {})
        flash["config.json"] = json.dumps(config).encode()
        made = self.applications[application]
        heap = PROGRAMS[application][1]
        if application == "gateway" and self.runtime == "cpython":
            device = LinuxDevice(name, self.stage.folder / f"{name}.files")
        else:
            device = VirtualDevice(name, self.stage.folder / f"{name}.flash", made, heap=heap)
        device.format(flash)
        self.stage.devices.append(device)
        return device

    async def run(self, *line: str, input: bytes = b"") -> bytes:
        process = await asyncio.create_subprocess_exec(
            *line,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, problem = await process.communicate(input)
        assert process.returncode == 0, problem.decode()
        return output

    async def curl(self, path: str, *options: str, who: str = "") -> tuple[int, str]:
        """Status and body of a GET by the third party ``who``."""
        header = ("-H", f"Authorization: Bearer {self.tokens[who]}") if who else ()
        output = await self.run(
            *("curl", "-sS", "--max-time", "90", "--cacert", str(self.root), *header, *options),
            *("-w", "\n%{http_code}", f"https://localhost:{self.port}{path}"),
        )
        body, _, status = output.decode().rpartition("\n")
        return int(status), body


Scene = Callable[[Plant], Awaitable[None]]


def play(
    applications: dict[str, Application],
    scene: Scene,
    ports: tuple[int, ...] = (),
    runtime: str = "micropython",
) -> None:
    async def main() -> None:
        async with Stage() as stage:
            plant = Plant(stage, applications, runtime)
            folder = stage.folder
            await plant.run(
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=bob", "-days", "9"),
                *("-keyout", str(folder / "bob.key"), "-out", str(folder / "bob.pem")),
            )
            await plant.run(
                *("openssl", "x509", "-in", str(folder / "bob.pem"), "-outform", "DER"),
                *("-out", str(folder / "bob.crt")),
            )
            await plant.build(list(ports))
            try:
                await scene(plant)
            except BaseException:
                for device in stage.devices:
                    print(device.name, *map(str, device.events[-20:]), *device.console, sep="\n  ")
                raise

    asyncio.run(main())


@on_both
def test_requests_and_refusals(applications: dict[str, Application], runtime: str) -> None:
    async def scene(plant: Plant) -> None:
        status, body = await plant.curl("/v1/destinations")
        assert (status, json.loads(body)["error"]) == (401, "bad-credentials")
        status, body = await plant.curl("/v1/destinations", who="alice")
        assert (status, json.loads(body)) == (
            200,
            {"third_party": "alice", "destinations": ["pump-7", "valve-2"]},
        )
        assert not [e for e in plant.gateway.events if e["event"] == "link-up"]
        status, body = await plant.curl("/v1/pump-7/data/status", who="alice")
        assert (status, json.loads(body)) == (
            200,
            {"pressure": 4.2, "asking": "gw-1 for alice"},
        )
        status, body = await plant.curl("/v1/pump-7/data/large", who="alice")
        assert (status, body) == (200, "\0" * 4000)
        assert (await plant.curl("/v1/pump-7/data/nothing", who="alice"))[0] == 404
        # one session for all of them, known to both and to the manager
        accepted = [e for e in plant.pump.events if e["event"] == "accepted"]
        assert [e["third_party"] for e in accepted] == ["alice"]
        async with asyncio.timeout(PATIENCE):  # the manager writes it down in batches
            while True:
                found = await plant.stage.keyferry("sessions", "--home", str(plant.stage.home))
                sessions = [s for s in found if s["state"] == "established"]
                if sessions:
                    break
                await asyncio.sleep(0.2)
        assert [s["on_behalf_of"] for s in sessions] == ["alice"]

        # refused at the gateway: not in bob's table; known there by his certificate
        cert = ("--cert", str(plant.stage.folder / "bob.pem"))
        bob = (*cert, "--key", str(plant.stage.folder / "bob.key"))
        status, body = await plant.curl("/v1/destinations", *bob)
        assert json.loads(body)["third_party"] == "bob"
        assert (await plant.curl("/v1/valve-2/data/status", *bob))[0] == 403
        denied = await plant.gateway.wait_for("third-party-denied")
        assert (denied["third_party"], denied["destination"]) == ("bob", "valve-2")
        # refused at the manager: carol has no rule there, though gw-1 itself has one
        assert (await plant.curl("/v1/pump-7/data/status", who="carol"))[0] == 403
        refused = await plant.gateway.wait_for("third-party-refused")
        assert (refused["third_party"], refused["error"]) == ("carol", "access-denied")
        (entry,) = await audited(plant.stage, "access-denied")
        assert entry["fields"]["on_behalf_of"] == "carol"
        assert entry["detail"] == "no rule gw-1 for carol -> pump-7"
        # refused at the peer: bob has a rule, and pump-7 does not take him
        assert (await plant.curl("/v1/pump-7/data/status", *bob))[0] == 403
        told = await plant.pump.wait_for("third-party-refused")
        assert told["third_party"] == "gw-1 for bob"
        # valve-2 is permitted everywhere, and not there
        status, body = await plant.curl("/v1/valve-2/data/status", who="alice")
        assert (status, json.loads(body)["error"]) == (503, "peer-offline")

    play(applications, scene, runtime=runtime)


@on_both
def test_streams_are_bounded_and_end_on_both_sides(
    applications: dict[str, Application], runtime: str
) -> None:
    async def scene(plant: Plant) -> None:
        status, body = await plant.curl("/v1/pump-7/events/few", who="alice")
        assert status == 200
        assert body == "".join(f'data: {{"number": {n}}}\n\n' for n in range(5))
        status, body = await plant.curl("/v1/pump-7/events/bad", who="alice")
        assert (status, json.loads(body)["error"]) == (500, "internal")

        # a reader that reads nothing holds up the device, whose memory stays as it is
        reader = await asyncio.create_subprocess_exec(
            *("curl", "-sSN", "--limit-rate", "1", "--cacert", str(plant.root)),
            *("-H", f"Authorization: Bearer {plant.tokens['alice']}"),
            f"https://localhost:{plant.port}/v1/pump-7/events/endless",
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            # and others are served meanwhile, in the same session
            for _ in range(3):
                assert (await plant.curl("/v1/pump-7/data/status", who="alice"))[0] == 200
        finally:
            reader.kill()
            await reader.communicate()
        over = await plant.pump.wait_for("stream-over", path="endless", timeout=PATIENCE)
        assert over["sent"] > 4
        assert (await plant.curl("/v1/pump-7/data/status", who="alice"))[0] == 200
        assert len([e for e in plant.pump.events if e["event"] == "accepted"]) == 1

    play(applications, scene, runtime=runtime)


@on_both
def test_opaque_tls_goes_through_end_to_end(
    applications: dict[str, Application], runtime: str
) -> None:
    port = free_port()

    async def scene(plant: Plant) -> None:
        folder = plant.stage.folder
        await plant.run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=pump-7", "-days", "9"),
            *("-addext", "subjectAltName=DNS:pump-7"),
            *("-keyout", str(folder / "own.key"), "-out", str(folder / "own.pem")),
        )
        server = await asyncio.create_subprocess_exec(
            *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-WWW", "-quiet"),
            *("-cert", str(folder / "own.pem"), "-key", str(folder / "own.key")),
            cwd=folder,
        )
        (folder / "secret.txt").write_text("nobody on the way reads this\n" * 100)

        async def through(who: str, to: str) -> tuple[int, str]:
            # exit status, and what was written
            process = await asyncio.create_subprocess_exec(
                *("curl", "-sS", "--max-time", "60", "--cacert", str(folder / "own.pem")),
                *("--proxy-cacert", str(plant.root), "--proxy", f"https://localhost:{plant.port}"),
                *("--proxy-user", f"{who}:{plant.tokens.get(who, 'x')}"),
                *("-w", "%{http_connect}", f"https://{to}/secret.txt"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
            return process.returncode or 0, output.decode()

        try:
            done, text = await through("alice", f"pump-7:{port}")
            assert done == 0
            assert text == "nobody on the way reads this\n" * 100 + "200"
            # nobody known; not permitted here; permitted here and not allowed there
            assert (await through("mallory", f"pump-7:{port}"))[1] == "407"
            assert (await through("carol", f"pump-7:{port}"))[1] == "403"
            assert (await through("alice", "pump-7:9"))[1] == "403"
        finally:
            server.terminate()
            await server.wait()

    play(applications, scene, (port,), runtime)


@on_both
def test_strangers_are_bounded(applications: dict[str, Application], runtime: str) -> None:
    async def scene(plant: Plant) -> None:
        # whoever only connects makes room for those who say something
        idle = [await asyncio.open_connection("127.0.0.1", plant.port) for _ in range(12)]
        assert (await plant.curl("/v1/destinations", who="alice"))[0] == 200
        for _, writer in idle:
            writer.close()
        status, body = await plant.curl("/v1/destinations", "-H", f"X-Long: {'x' * 8000}")
        assert (status, json.loads(body)["error"]) == (400, "malformed")
        assert (await plant.curl("/v1/destinations", "-d", "body", who="alice"))[0] in (400, 413)
        assert (await plant.curl("/v1/pump-7/data/a%20b", who="alice"))[0] == 400
        site = ("-H", "Sec-Fetch-Site: cross-site")
        assert (await plant.curl("/v1/destinations", *site, who="alice"))[0] == 403
        for _ in range(5):
            wrong = ("-H", "Authorization: Bearer wrong")
            assert (await plant.curl("/v1/destinations", *wrong))[0] == 401
        assert (await plant.curl("/v1/destinations", who="alice"))[0] == 429

    play(applications, scene, runtime=runtime)


@on_both
@pytest.mark.needs("chromium", "chromedriver")
def test_the_page_in_a_browser_on_a_phone(
    applications: dict[str, Application], tmp_path: Path, runtime: str
) -> None:
    async def scene(plant: Plant) -> None:
        pin = await spki(plant)
        await asyncio.to_thread(drive, plant.port, plant.tokens["alice"], pin, tmp_path)
        assert len([e for e in plant.pump.events if e["event"] == "accepted"]) == 1
        over = await plant.pump.wait_for("stream-over", path="endless", timeout=PATIENCE)
        assert over["sent"] > 1

    play(applications, scene, runtime=runtime)


async def spki(plant: Plant) -> str:
    """The SHA-256 of the gateway's public key, base64: the one key that the browser may take."""
    key = await plant.run("openssl", "x509", "-in", str(plant.root), "-noout", "-pubkey")
    der = await plant.run("openssl", "pkey", "-pubin", "-outform", "DER", input=key)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def drive(port: int, token: str, pin: str, folder: Path) -> None:
    """What a person does on the page. Its screenshot is ``gateway.png``, also in the folder that
    KEYFERRY_SCREENSHOTS names."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        f"--ignore-certificate-errors-spki-list={pin}",
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wait = WebDriverWait(browser, PATIENCE)

        def element(name: str) -> WebElement:
            return browser.find_element(By.ID, name)

        browser.get(f"https://localhost:{port}/")
        wait.until(lambda _: element("token").is_displayed())
        element("token").send_keys("not a token", Keys.ENTER)
        wait.until(lambda _: "bad-credentials" in element("state").text)
        assert element("state").get_attribute("class") == "bad"
        element("token").send_keys(token, Keys.ENTER)
        wait.until(lambda _: element("list").is_displayed())
        buttons = element("list").find_elements(By.TAG_NAME, "button")
        assert [button.text for button in buttons] == ["pump-7", "valve-2"]
        assert element("who").text == "alice"
        buttons[0].click()
        element("get").click()
        wait.until(lambda _: '"pressure": 4.2' in element("out").text)
        element("path").clear()
        element("path").send_keys("ticks")
        element("watch").click()
        wait.until(lambda _: '{"number": 4}' in element("out").text)
        wait.until(lambda _: element("state").text == "The stream has ended.")
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390, "nothing to scroll sideways"
        for button in browser.find_elements(By.TAG_NAME, "button"):
            assert not button.is_displayed() or button.size["height"] >= 40, "for a thumb"
        picture = browser.get_screenshot_as_png()
        for place in (folder, Path(os.environ.get("KEYFERRY_SCREENSHOTS", folder))):
            (place / "gateway.png").write_bytes(picture)
        element("path").clear()
        element("path").send_keys("endless")
        element("watch").click()
        wait.until(lambda _: "xxx" in element("out").text)
        element("halt").click()
        wait.until(lambda _: element("state").text == "Stopped.")
        buttons[1].click()
        element("get").click()
        wait.until(lambda _: "peer-offline" in element("state").text)
        said = [entry["message"] for entry in browser.get_log("browser")]
        # what the server refused is said; the page's own policy was never broken
        assert all("status of" in message for message in said), said
    finally:
        browser.quit()


def test_the_demo_shows_it() -> None:
    command = [sys.executable, "-m", "keyferry_manager", "demo", "--gateway", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    held = [line["held"] for line in lines if line["event"] == "check"]
    assert len(held) == 6
    assert all(held)
