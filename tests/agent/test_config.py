# heap: 512k
"""What a device is told at provisioning, and how it says that something is wrong with it."""

from keyferry_agent import config
from support.agent_kit import Folder
from support.portable import raises

GOOD = {"name": "pump-7", "realm": "plant.example", "host": "192.0.2.1"}


def test_defaults():
    found = config.parse({"name": "pump-7", "realm": "plant.example"})
    assert found.folder == "/"
    assert found.host == "plant.example"
    assert (found.mqtt_port, found.est_port, found.keep_alive) == (8883, 8443, 60)
    assert found.addresses == []
    assert found.profile == "cert"


def test_values():
    values = dict(GOOD)
    values["mqtt_port"] = 1
    values["est_port"] = 65535
    values["addresses"] = ["10.0.0.1:7000"]
    values["keep_alive"] = 5
    values["profile"] = "rpk"
    found = config.parse(values, "/x/")
    assert (found.name, found.realm, found.host) == ("pump-7", "plant.example", "192.0.2.1")
    assert (found.mqtt_port, found.est_port, found.keep_alive) == (1, 65535, 5)
    assert found.profile == "rpk"
    assert found.addresses == ["10.0.0.1:7000"]
    assert found.folder == "/x/"


def test_what_is_wrong_is_named():
    for key, value in (
        ("name", None),
        ("name", "Pump 7"),
        ("name", "manager"),
        ("name", 7),
        ("realm", ""),
        ("realm", "plant_example"),
        ("host", ""),
        ("host", 5),
        ("host", "x" * 254),
        ("mqtt_port", 0),
        ("mqtt_port", 65536),
        ("mqtt_port", "8883"),
        ("est_port", True),
        ("est_port", 1.5),
        ("keep_alive", 4),
        ("max_sessions", 0),
        ("receive_queue", 257),
        ("addresses", "10.0.0.1:7000"),
        ("addresses", [1]),
        ("addresses", [""]),
        ("addresses", ["x"] * 5),
        ("profile", "x5chain"),
        ("profile", 1),
        ("profile", None),
        ("typo", 1),
    ):
        values = dict(GOOD)
        values[key] = value
        error = raises(config.ConfigError, config.parse, values)
        assert error.name == "bad-argument"
        assert error.detail.startswith("config.json: " + key + ":"), error.detail
    for values in (None, [], "x", 1):
        raises(config.ConfigError, config.parse, values)


def test_the_file():
    with Folder() as folder:
        assert "missing" in raises(config.ConfigError, config.load, folder.path).detail
        for data in (b"", b"{", b"\xff", b"[]", b"nonsense", b'{"name": 1}'):
            folder.write("config.json", data)
            raises(config.ConfigError, config.load, folder.path)
        folder.write("config.json", b" " * 5000)
        assert "4096" in raises(config.ConfigError, config.load, folder.path).detail
        folder.write("config.json", b'{"name": "pump-7", "realm": "plant.example"}')
        for path in (folder.path, folder.path + "/"):
            found = config.load(path)
            assert found.name == "pump-7"
            assert found.folder == folder.path + "/"


def test_files_beside_it():
    with Folder() as folder:
        folder.write("config.json", b'{"name": "pump-7", "realm": "plant.example"}')
        found = config.load(folder.path)
        assert "root.der" in raises(config.ConfigError, config.root, found).detail
        folder.write("root.der", b"")
        raises(config.ConfigError, config.root, found)
        folder.write("root.der", b"root")
        assert config.root(found) == b"root"
        assert config.factory(found) is None
        folder.write("factory.crt", b"certificate")
        assert "factory.key" in raises(config.ConfigError, config.factory, found).detail
        folder.write("factory.key", b"key")
        assert config.factory(found) == (b"certificate", b"key")
        assert config.token(found) is None
        config.remove_token(found)
        for data in (b"", b" \n", b"\xff"):
            folder.write("token", data)
            raises(config.ConfigError, config.token, found)
        folder.write("token", b" abc \n")
        assert config.token(found) == "abc"
        config.remove_token(found)
        assert config.token(found) is None
        assert "token" not in folder.names()
