"""Per-device images: what is in them, who can read them, labels, and every wrong list."""

import csv
import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keyferry_agent import config
from keyferry_firmware import devices, images, labels
from keyferry_firmware.problems import FirmwareProblem
from support.command import command

TOKEN = "not-a-real-token-0123456789"
COLUMNS = ["name", "realm", "host", "root", "token", "wifi_ssid", "wifi_password"]
GOOD = ["pump-7", "plant.example", "192.0.2.1", "root.der", TOKEN, "plant", "correct horse"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manager's home with a factory device and a token device, and builds to put them on."""
    place = tmp_path_factory.mktemp("provision")
    home = ("--home", place / "home")
    command(place, "init", place / "home", "--realm", "plant.example", "--host", "192.0.2.1")
    command(place, "device", "add", "gauge-2", "--factory", "--out", place / "gauge-2", *home)
    command(place, "device", "add", "pump-7", "--token", "--out", place / "pump-7", *home)
    (place / "main.py").write_text("print('hello')\n")
    line = ("firmware", "build", "--app", place / "main.py", "--no-preflight", "--board")
    for board in ("virtual", "pico-w"):
        command(place, *line, board, "-o", place / board)
    return place


def listed(place: Path, name: str, *rows: list[str]) -> Path:
    path = place / name
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    path.chmod(0o600)
    return path


def folder(place: Path, tmp_path: Path) -> Path:
    (tmp_path / "root.der").write_bytes((place / "gauge-2" / "root.der").read_bytes())
    for name in ("factory.key", "factory.crt"):
        (tmp_path / name).write_bytes((place / "gauge-2" / name).read_bytes())
    return tmp_path


def provision(place: Path, path: Path, out: Path, board: str = "virtual", **options: Any) -> Any:
    line = ("firmware", "provision", "--devices", path, "--image", place / board, "-o", out)
    return command(place, *line, **options)


def test_an_owners_key_goes_onto_the_device(place: Path, tmp_path: Path) -> None:
    folder(place, tmp_path)
    command(place, "owner", "new", tmp_path / "owner.key")
    for column, row in (
        (["name", "files", "owner"], ["gauge-2", str(place / "gauge-2"), "owner.key.pub"]),
        ([*COLUMNS, "trust", "owner"], [*GOOD, "owner", "owner.key.pub"]),
    ):
        (found,) = devices.read(listed(tmp_path, f"{row[0]}.csv", column, row))
        assert len(found.files["owner.pub"]) == 65
        assert json.loads(found.files["config.json"])["trust"] == "owner"
    (found,) = devices.read(listed(tmp_path, "ca.csv", [*COLUMNS, "trust"], [*GOOD, "ca"]))
    assert "owner.pub" not in found.files
    assert "trust" not in json.loads(found.files["config.json"])
    # what device add wrote
    place_of = ("--factory", "--out", tmp_path / "rtu-1", "--home", place / "home")
    command(place, "device", "add", "rtu-1", *place_of, "--owner", tmp_path / "owner.key.pub")
    config = json.loads((tmp_path / "rtu-1" / "config.json").read_text())
    assert config["trust"] == "owner"
    (found,) = devices.read(listed(tmp_path, "add.csv", ["name", "files"], ["rtu-1", "rtu-1"]))
    assert found.files["owner.pub"] == (tmp_path / "rtu-1" / "owner.pub").read_bytes()
    for more, why in (
        (["owner", ""], "owner goes with"),
        (["ca", "owner.key.pub"], "owner goes with"),
        (["all", ""], "expected one of ca, owner, pinned"),
        (["owner", "owner.key"], "expected a public key"),
        (["owner", "none.pub"], "cannot be read"),
    ):
        path = listed(tmp_path, "bad.csv", [*COLUMNS, "trust", "owner"], [*GOOD, *more])
        with pytest.raises(FirmwareProblem, match=f"line 2: .*{why}"):
            devices.read(path)
    for line in (("--trust", "owner"), ("--trust", "ca", "--owner", tmp_path / "owner.key.pub")):
        command(place, "device", "add", "rtu-2", *place_of, *line, code=2)
    command(
        place, "device", "add", "rtu-2", "--token", "--owner", tmp_path / "x", *place_of[3:], code=2
    )


@pytest.mark.parametrize("board", ["virtual", "pico-w"])
def test_each_device_gets_its_own_and_only_the_owner_reads_it(
    place: Path, tmp_path: Path, board: str
) -> None:
    path = listed(place, "by-folder.csv", ["name", "files"], ["gauge-2", "gauge-2"], ["pump-7"] * 2)
    provision(place, path, tmp_path / "out", board)
    for file in [tmp_path / "out", *(tmp_path / "out").rglob("*")]:
        mode = 0o700 if file.is_dir() else 0o600
        assert stat.S_IMODE(file.stat().st_mode) == mode, file
    shared = images.read_littlefs((place / board / "littlefs.img").read_bytes())
    for name in ("gauge-2", "pump-7"):
        image = (tmp_path / "out" / name / "littlefs.img").read_bytes()
        own = {file.name: file.read_bytes() for file in (place / name).iterdir()}
        assert images.read_littlefs(image) == {**shared, **own}
        assert len(image) == (place / board / "littlefs.img").stat().st_size
        assert (tmp_path / "out" / name / "device.uf2").exists() == (board == "pico-w")
    log = (tmp_path / "out" / "provisioned.json").read_text()
    token = (place / "pump-7" / "token").read_text().strip()
    private = (place / "gauge-2" / "factory.key").read_bytes()
    assert token not in log
    assert private.hex() not in log
    assert [(item["name"], item["credential"]) for item in json.loads(log)["devices"]] == [
        ("gauge-2", "factory"),
        ("pump-7", "token"),
    ]
    assert not (tmp_path / "out" / "gauge-2" / "label.png").exists()


def test_a_list_with_everything_in_it(place: Path, tmp_path: Path) -> None:
    where = folder(place, tmp_path)
    columns = [*COLUMNS, "factory_key", "factory_certificate", "mqtt_port"]
    factory = ["gauge-2", "plant.example", "192.0.2.1", "root.der", "", "", ""]
    path = listed(
        *(where, "list.csv", columns),
        *([*GOOD, "", "", "1883"], [], [*factory, "factory.key", "factory.crt", ""]),
    )
    said = provision(place, path, tmp_path / "out")
    assert TOKEN not in said.output
    assert "correct horse" not in said.output
    files = images.read_littlefs((tmp_path / "out" / "pump-7" / "littlefs.img").read_bytes())
    assert json.loads(files["wifi.json"]) == {"ssid": "plant", "password": "correct horse"}
    assert files["token"].decode().strip() == TOKEN
    assert json.loads(files["config.json"]) == {
        "name": "pump-7",
        "realm": "plant.example",
        "host": "192.0.2.1",
        "mqtt_port": 1883,
    }
    log = (tmp_path / "out" / "provisioned.json").read_text()
    assert TOKEN not in log
    assert "correct horse" not in log


def test_devices_on_either_carrier(place: Path, tmp_path: Path) -> None:
    where = folder(place, tmp_path)
    on_sip = changed("name", "valve-2")
    rows = [[*GOOD, "sip", "5071"], [*on_sip, "sip", ""], [*changed("name", "gauge-3"), "mqtt", ""]]
    rows += [[*changed("name", "gauge-4"), "", ""]]
    path = listed(where, "list.csv", [*COLUMNS, "carrier", "sip_port"], *rows)
    settings = {}
    for device in devices.read(path):
        settings[device.name] = json.loads(device.files["config.json"])
        # what the agent makes of it
        (tmp_path / "config.json").write_bytes(device.files["config.json"])
        read = config.load(str(tmp_path))
        assert (read.carrier, read.sip_port) == (
            settings[device.name].get("carrier", "mqtt"),
            settings[device.name].get("sip_port", 5061),
        )
    known = {"realm": "plant.example", "host": "192.0.2.1"}
    assert settings == {
        "pump-7": {"name": "pump-7", **known, "carrier": "sip", "sip_port": 5071},
        "valve-2": {"name": "valve-2", **known, "carrier": "sip"},
        "gauge-3": {"name": "gauge-3", **known, "carrier": "mqtt"},
        "gauge-4": {"name": "gauge-4", **known},
    }


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["udp", ""], "line 2: carrier: expected mqtt or sip"),
        (["SIP", ""], "line 2: carrier: expected mqtt or sip"),
        (["sip", "0"], "line 2: sip_port: expected 1 to 65535"),
        (["sip", "70000"], "line 2: sip_port: expected 1 to 65535"),
        (["mqtt", "5061"], "line 2: sip_port goes with the carrier sip"),
        (["", "5061"], "line 2: sip_port goes with the carrier sip"),
    ],
)
def test_a_carrier_that_cannot_be(place: Path, tmp_path: Path, cells: list[str], said: str) -> None:
    where = folder(place, tmp_path)
    path = listed(where, "list.csv", [*COLUMNS, "carrier", "sip_port"], [*GOOD, *cells])
    with pytest.raises(FirmwareProblem, match=re.escape(said)):
        devices.read(path)


def test_an_ntp_server_goes_into_the_configuration(place: Path, tmp_path: Path) -> None:
    where = folder(place, tmp_path)
    servers = ("time.example", "192.0.2.9:1123", "2001:db8::9", "")
    rows = [[*changed("name", f"pump-{n}"), server] for n, server in enumerate(servers)]
    for device, server in zip(
        devices.read(listed(where, "list.csv", [*COLUMNS, "ntp"], *rows)), servers, strict=True
    ):
        assert json.loads(device.files["config.json"]).get("ntp", "") == server
        (tmp_path / "config.json").write_bytes(device.files["config.json"])
        assert (config.load(str(tmp_path)).ntp is None) == (not server)
    given = listed(place, "files.csv", ["name", "files", "ntp"], ["pump-7", "pump-7", "a.example"])
    [device] = devices.read(given)
    assert json.loads(device.files["config.json"])["ntp"] == "a.example"
    for wrong in (":123", "a:", "a:0", "a:65536", "a:x", "é", "x" * 254):
        path = listed(where, "list.csv", [*COLUMNS, "ntp"], [*GOOD, wrong])
        with pytest.raises(FirmwareProblem, match="line 2: ntp: expected HOST or HOST:PORT"):
            devices.read(path)


def test_a_carrier_beside_files_is_refused(place: Path) -> None:
    path = listed(*(place, "both.csv", ["name", "files", "carrier"]), ["gauge-2", "gauge-2", "sip"])
    with pytest.raises(FirmwareProblem, match="line 2: give either files or carrier"):
        devices.read(path)


def changed(column: str, value: str) -> list[str]:
    row = list(GOOD)
    row[COLUMNS.index(column)] = value
    return row


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GOOD, GOOD], "line 3: pump-7 is in line 2 already"),
        ([GOOD, changed("name", "Pump 7")], "line 3: name: "),
        ([GOOD, [], GOOD[:-1]], "line 4: 6 cells, and the first line has 7"),
        ([changed("realm", "")], "line 2: realm is missing"),
        ([changed("realm", "-")], "line 2: realm: "),
        ([changed("host", "")], "line 2: host is missing"),
        ([changed("host", "é")], "line 2: host: expected"),
        ([changed("root", "none.der")], "line 2: root: "),
        ([changed("root", "list.csv")], "line 2: root: this is no certificate in DER"),
        ([changed("token", "short")], "line 2: token: expected 16 to 128"),
        ([changed("token", "")], "line 2: it needs either a token, or a factory key"),
        ([changed("wifi_ssid", "")], "line 2: wifi_password goes with wifi_ssid"),
        ([changed("wifi_ssid", "x" * 33)], "line 2: wifi_ssid: at most 32 bytes"),
        ([changed("wifi_password", "short")], "line 2: wifi_password: expected 8 to 63"),
        ([], "lists no device"),
    ],
)
def test_a_broken_line_is_named_and_nothing_is_made(
    place: Path, tmp_path: Path, rows: list[list[str]], said: str
) -> None:
    path = listed(folder(place, tmp_path), "list.csv", COLUMNS, *rows)
    output = provision(place, path, tmp_path / "out", code=1).output
    assert said in output
    assert "correct horse" not in output
    assert TOKEN not in output
    assert {item.name for item in tmp_path.iterdir()} <= {
        *("list.csv", "root.der", "factory.key", "factory.crt")
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "lists no device"),
        (b"nom\nx\n", "line 1: 'nom' is no column"),
        (b"name,name\nx,y\n", "line 1: name is there twice"),
        (b"files\nx\n", "line 1: there is no column 'name'"),
        (b"name,files\ngauge-2,\xff\n", "line 2: not UTF-8"),
        (b'name,files\ngauge-2,"gau', "line 2: "),
        (b"name,files\n" + b"x" * 200_000, "line 2: "),
        (b"name,files\nother,gauge-2\n", "line 2: config.json is another device's"),
        (b"name,files\ngauge-2,nowhere\n", "line 2: files: "),
        (b"name,files,host\ngauge-2,gauge-2,h\n", "line 2: give either files or host"),
        (b"name," * 3 + b"\n", "line 1: name is there twice"),
    ],
)
def test_a_broken_file_is_named(place: Path, data: bytes, said: str) -> None:
    path = place / "broken.csv"
    path.write_bytes(data)
    with pytest.raises(FirmwareProblem) as caught:
        devices.read(path)
    assert said in str(caught.value)


def test_a_factory_key_of_another_certificate_is_refused(place: Path, tmp_path: Path) -> None:
    where = folder(place, tmp_path)
    home = ("--home", place / "home")
    command(place, "device", "add", "other-1", "--factory", "--out", tmp_path / "other", *home)
    columns = ["name", "realm", "host", "root", "factory_key", "factory_certificate"]
    row = ["gauge-2", "plant.example", "h", "root.der", "factory.key", "other/factory.crt"]
    with pytest.raises(FirmwareProblem, match="line 2: factory_certificate is not for factory_key"):
        devices.read(listed(where, "list.csv", columns, row))
    row[4] = "root.der"
    with pytest.raises(FirmwareProblem, match="line 2: factory_key, factory_certificate: expected"):
        devices.read(listed(where, "list.csv", columns, row))


def test_a_list_of_secrets_is_for_its_owner_only(place: Path, tmp_path: Path) -> None:
    path = listed(folder(place, tmp_path), "list.csv", COLUMNS, GOOD)
    path.chmod(0o644)
    assert "chmod 600" in provision(place, path, tmp_path / "out", code=1).stderr
    path.chmod(0o600)
    provision(place, path, tmp_path / "out")
    assert "not overwritten" in provision(place, path, tmp_path / "out", code=1).stderr


def test_a_build_that_is_not_signed_by_the_key_is_not_taken(place: Path, tmp_path: Path) -> None:
    path = listed(place, "one.csv", ["name", "files"], ["gauge-2", "gauge-2"])
    command(place, "firmware", "key", "new", tmp_path / "key")
    line = ("firmware", "provision", "--devices", path, "--image", place / "virtual")
    said = command(place, *line, "--key", tmp_path / "key.pub", "-o", tmp_path / "out", code=1)
    assert "the build is not signed" in said.stderr
    assert not (tmp_path / "out").exists()


def codes_in(picture: Path) -> list[str]:
    """What another program reads in a picture."""
    done = subprocess.run(
        ["zbarimg", "--quiet", "--raw", str(picture)], capture_output=True, text=True, timeout=60
    )
    return sorted(done.stdout.split())


@pytest.mark.needs("zbarimg")
def test_a_label_is_read_by_another_program(place: Path, tmp_path: Path) -> None:
    path = listed(folder(place, tmp_path), "list.csv", COLUMNS, GOOD)
    provision(place, path, tmp_path / "out")
    expected = f"keyferry:pump-7@plant.example?token={TOKEN}"
    assert codes_in(tmp_path / "out" / "pump-7" / "label.png") == [expected]
    assert (tmp_path / "out" / "labels.pdf").read_bytes().startswith(b"%PDF-1.4")


@pytest.mark.needs("zbarimg", "pdftoppm")
def test_the_sheet_is_read_by_other_programs(tmp_path: Path) -> None:
    realm = "a-realm-with-a-long-name.plant.example"
    texts = [(f"pump-{n}", realm, f"keyferry:pump-{n}@{realm}?token={TOKEN}") for n in range(26)]
    (tmp_path / "labels.pdf").write_bytes(labels.sheet(texts))
    line = ["pdftoppm", "-r", "200", "-gray", "labels.pdf", "page"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == "", "no complaint about the file"
    pages = sorted(tmp_path.glob("page*.pgm"))
    assert len(pages) == 2
    found = codes_in(pages[0]) + codes_in(pages[1])
    assert sorted(found) == sorted(text for _, _, text in texts)
    assert re.search(rb"\(pump-25\) Tj", (tmp_path / "labels.pdf").read_bytes())
