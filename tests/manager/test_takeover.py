"""One device cannot take another's place, and costs it nothing by trying.

Found in a Python broker that was measured: a second valid certificate that gave the victim's
client identifier was let in as the victim and got its messages, and even a refused CONNECT dropped
the victim's subscription.
"""

import threading
import time

import pytest

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import signalling as sig
from keyferry_core.errors import code_of
from support.manager_kit import Home, until


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("takeover") / "home")
    home.allow("pump-7", "valve-2")
    return home


@pytest.fixture(scope="module")
def running(home):
    with home.running() as running:
        yield running


@pytest.fixture(scope="module")
def thief(home):
    return home.device("thief")


def attack(running, thief, clean_session):
    """Everything that a device with a good certificate can try under another's name."""
    with running.raw(thief) as client:
        code = client.connect("valve-2", clean_session=clean_session)
        assert code == mqtt.BAD_CLIENT_ID
        client.send(mqtt.subscribe(1, [("kf/d/valve-2", 1)]))
        client.send(mqtt.publish("kf/u/valve-2", b"x"))
        assert client.packet() is None, "a refused client got something"
    with running.raw(thief) as client:
        # Everything at once, without waiting for the answer.
        client.send(
            mqtt.connect("valve-2", 60, clean_session)
            + mqtt.subscribe(1, [("kf/d/valve-2", 1)])
            + mqtt.publish("kf/u/valve-2", b"x")
            + mqtt.DISCONNECT
        )
        assert client.packet() == (mqtt.TYPE_CONNACK, mqtt.BAD_CLIENT_ID, False)
        assert client.packet() is None
    with running.raw(thief) as client:
        assert client.connect("thief", clean_session=clean_session) == mqtt.ACCEPTED
        assert client.subscribe("kf/d/valve-2", 1) == mqtt.SUBSCRIBE_FAILED
        assert client.subscribe("kf/d/+", 1) == mqtt.SUBSCRIBE_FAILED
        client.send(mqtt.connect("valve-2", 60, clean_session))
        assert client.packet() is None


@pytest.mark.parametrize("clean_session", [True, False])
def test_before_the_victim_comes(running, thief, clean_session):
    attack(running, thief, clean_session)
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        pump.offer("valve-2")
        assert valve.receive(sig.CONNECT)[sig.FROM] == "pump-7"


@pytest.mark.parametrize("clean_session", [True, False])
def test_while_the_victim_is_here(running, thief, clean_session):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        address = running.links()["valve-2"]
        attack(running, thief, clean_session)
        assert running.links()["valve-2"] == address
        assert not valve.lost.is_set()
        assert valve.inbox.empty()
        assert pump.inbox.empty()
        pump.say("valve-2", session, b"after the attack")
        assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"after the attack"
        valve.say("pump-7", session, b"and back")
        assert pump.receive(sig.MESSAGE)[sig.RECORD] == b"and back"


@pytest.mark.parametrize("clean_session", [True, False])
def test_after_the_victim_left(running, thief, clean_session):
    with running.device("pump-7") as pump:
        valve = running.device("valve-2")
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        valve.drop()
        until(lambda: "valve-2" not in running.links())
        attack(running, thief, clean_session)
        pump.say("valve-2", session, b"for the victim alone")
        pump.refusal("peer-offline")
        again = running.device("valve-2")  # another instance: what was open is over
        assert pump.receive(sig.END)[sig.ERROR_CODE] == code_of("peer-restarted")
        pump.offer("valve-2")
        assert again.receive(sig.CONNECT)[sig.FROM] == "pump-7"
        again.close()


def test_a_storm_of_attempts_costs_the_victim_no_message(running, thief):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        stop = threading.Event()
        failures = []

        def storm():
            while not stop.is_set():
                try:
                    attack(running, thief, True)
                except Exception as error:
                    failures.append(error)
                    return

        thread = threading.Thread(target=storm)
        thread.start()
        for number in range(300):
            pump.say("valve-2", session, b"%d" % number)
            time.sleep(0.002)
        for number in range(300):
            assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"%d" % number
        stop.set()
        thread.join()
        assert failures == []
        assert pump.nothing()


def test_the_same_device_takes_over_and_the_old_link_is_told(running, home):
    credentials = home.device("valve-2")
    with running.raw(credentials) as old, running.raw(credentials) as new:
        assert old.connect("valve-2") == mqtt.ACCEPTED
        assert old.subscribe("kf/d/valve-2") == 0
        assert new.connect("valve-2") == mqtt.ACCEPTED
        assert old.message()[sig.ERROR_CODE] == code_of("replaced")
        assert old.packet() is None
        assert running.links()["valve-2"] == new.address
        new.send(mqtt.PINGREQ)
        assert new.packet() == (mqtt.TYPE_PINGRESP,)
    assert home.audit("link-replaced")[-1].name == "valve-2"


def test_a_renewed_certificate_takes_over_like_the_old_one(running, home):
    with running.raw(home.device("valve-2")) as old, running.raw(home.device("valve-2")) as new:
        assert old.connect("valve-2") == mqtt.ACCEPTED
        assert new.connect("valve-2") == mqtt.ACCEPTED
        assert old.closed()


def test_a_link_that_came_back_in_the_middle_goes_on_with_its_sessions(running, home):
    with running.device("pump-7") as pump:
        valve = running.device("valve-2")
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        valve.drop()
        again = running.device("valve-2", instance=valve.instance)
        pump.say("valve-2", session, b"still you")
        assert again.receive(sig.MESSAGE)[sig.RECORD] == b"still you"
        assert pump.nothing()
        again.close()
