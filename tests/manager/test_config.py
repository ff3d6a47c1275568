"""keyferry.toml: what is written can be read, and what is wrong is named."""

import dataclasses
import re
from pathlib import Path

import pytest

from keyferry_manager.config import Config, check_host, template
from keyferry_manager.problems import ConfigProblem

HOME = Path("/somewhere")


def problem(text: str) -> str:
    with pytest.raises(ConfigProblem) as caught:
        Config.parse(text, HOME)
    return str(caught.value)


def test_the_template_says_the_defaults():
    from_template = Config.parse(template("plant.example"), HOME)
    assert from_template == Config(home=HOME, realm="plant.example")
    assert from_template == Config.parse('realm = "plant.example"', HOME)


def test_every_setting_stands_in_the_template_with_a_comment():
    lines = template("plant.example").splitlines()
    for key in Config.known_keys():
        name = key.rpartition(".")[2]
        at = [n for n, line in enumerate(lines) if line.startswith(name + " = ")]
        assert at, key
        assert all(lines[n - 1].startswith("#") for n in at), key


def test_changed_settings_come_back():
    changed = {"mqtt_port": 0, "server_names": ("kf.plant.example", "192.0.2.7", "2001:db8::7")}
    config = Config.parse(template("plant.example", **changed), HOME)
    assert config.mqtt_port == 0
    assert config.server_names == changed["server_names"]
    with pytest.raises(TypeError, match="no such setting"):
        template("plant.example", mqqt_port=1)


def test_each_number_is_bounded():
    for item in dataclasses.fields(Config):
        if not isinstance(item.default, int):
            continue
        section, key = item.metadata["key"].split(".")
        low, high = item.metadata["low"], item.metadata["high"]
        assert low <= item.default <= high
        for wrong in (low - 1, high + 1, "true", '"7"', "1.5"):
            text = problem(f'realm = "a.b"\n[{section}]\n{key} = {wrong}')
            assert f"{section}.{key} must be a whole number from {low} to {high}" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "realm is missing"),
        ("realm = 7", "realm is not a domain name"),
        ('realm = "Plant.Example"', "realm is not a domain name"),
        ('realm = "a.b"\nport = 1', "port is not a setting"),
        ('realm = "a.b"\n[listn]\nport = 1', "[listn] is not a setting; did you mean [listen]?"),
        ('realm = "a.b"\n[listen]\nmqtt_prt = 1', "did you mean listen.mqtt_port?"),
        ('realm = "a.b"\n[listen]\nhost = "no host"', "listen.host: 'no host' is neither"),
        ('realm = "a.b"\n[relay]\nroute_check = "lax"', "must be one of strict, report, off"),
        ('realm = "a.b"\n[log]\nlevel = 3', "log.level must be a text in quotes"),
        ('realm = "a.b"\n[certificates]\nserver_names = "x"', "must be a list of texts"),
        ('realm = "a.b"\n[certificates]\nserver_names = ["A"]', "'A' is neither"),
        ("realm = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, expected: str):
    assert expected in problem(text)


def test_a_missing_or_unreadable_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigProblem, match=re.escape(f"keyferry init {tmp_path}")):
        Config.load(tmp_path)
    (tmp_path / "keyferry.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigProblem, match="cannot be read"):
        Config.load(tmp_path)


def test_where_devices_connect_to():
    def host(**changes: object) -> str:
        return Config(home=HOME, realm="plant.example", **changes).device_host

    assert host() == "plant.example"
    assert host(listen_host="::") == "plant.example"
    assert host(listen_host="192.0.2.1") == "192.0.2.1"
    assert host(public_host="kf.plant.example") == "kf.plant.example"


def test_the_database_is_beside_the_file_unless_said_otherwise():
    config = Config(home=HOME, realm="a.b")
    assert config.database_url == "sqlite:////somewhere/keyferry.db"
    url = "postgresql://kf@db/kf"
    assert dataclasses.replace(config, database=url).database_url == url


def test_hosts():
    for good in ("192.0.2.1", "2001:db8::1", "kf.plant.example", "localhost"):
        assert check_host(good, "x") == good
    for bad in ("", "KF.example", "a b", "http://a", "-a", "a" * 200, "1.2.3.4:5", "a..b"):
        with pytest.raises(ConfigProblem):
            check_host(bad, "x")
