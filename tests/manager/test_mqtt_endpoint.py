"""The MQTT endpoint against clients that are not ours: paho-mqtt, mosquitto's, and bare bytes."""

import os
import ssl
import subprocess
import time

import pytest

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import names
from keyferry_core import signalling as sig
from keyferry_core.errors import code_of
from keyferry_manager.relay import wire
from support.manager_kit import Home, until
from support.system_parts import find


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("mqtt") / "home")
    home.allow("pump-7", "valve-2")
    return home


@pytest.fixture(scope="module")
def running(home):
    with home.running() as running:
        yield running


@pytest.fixture(scope="module")
def pump(home, running):
    return home.device("pump-7")


def register(instance=b"instance", name="pump-7"):
    return wire.encode(
        {
            sig.TYPE: sig.REGISTER,
            sig.FROM: name,
            sig.TO: names.MANAGER,
            sig.ID: 1,
            sig.INSTANCE: instance,
            sig.ADDRESSES: [],
        }
    )


# -- paho ------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_two_paho_clients_introduce_each_other(home, running, qos, version):
    with (
        running.device("pump-7", qos=qos, version=version) as pump,
        running.device("valve-2", qos=qos, version=version) as valve,
    ):
        session = pump.offer("valve-2")
        offered = valve.receive(sig.CONNECT)
        assert offered[sig.FROM] == "pump-7"
        assert offered[sig.ROUTE][0][sig.LEG_ADDRESS] == running.links()["pump-7"]
        valve.accept(offered)
        pump.receive(sig.ACCEPT)
        for number in range(100):
            pump.say("valve-2", session, b"up %d" % number)
            valve.say("pump-7", session, b"down %d" % number)
        for number in range(100):
            assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"up %d" % number
            assert pump.receive(sig.MESSAGE)[sig.RECORD] == b"down %d" % number
        pump.send({sig.TYPE: sig.END, sig.TO: "valve-2", sig.SESSION: session})
        assert valve.receive(sig.END)[sig.FROM] == "pump-7"
    row = home.session(session)
    assert (row.initiator, row.responder, row.end_reason) == ("pump-7", "valve-2", "session-closed")
    assert row.messages == 203


def test_records_of_the_largest_size(running):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        record = os.urandom(sig.MAX_RECORD)
        for _ in range(10):
            pump.say("valve-2", session, record)
        for _ in range(10):
            assert valve.receive(sig.MESSAGE)[sig.RECORD] == record


def test_a_lost_link_is_told_after_the_grace(tmp_path):
    home = Home(tmp_path / "home", session_grace=1)
    home.allow("pump-7", "valve-2")
    with home.running() as running, running.device("pump-7") as pump:
        valve = running.device("valve-2")
        pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        started = time.monotonic()
        valve.drop()
        assert pump.receive(sig.END)[sig.ERROR_CODE] == code_of("peer-gone")
        assert time.monotonic() - started > 0.9
        again = running.device("valve-2")
        pump.offer("valve-2")
        again.receive(sig.CONNECT)
        again.close()


# -- mosquitto's clients ---------------------------------------------------------------------


def mosquitto(program, running, credentials, name, *arguments, stdin=b""):
    command = [find(program), "-V", "mqttv311", "-h", "127.0.0.1", "-p", str(running.port)]
    command += ["--cafile", str(running.home.folder / "ca" / "root.pem"), "-i", name]
    command += ["--cert", str(credentials.certificate), "--key", str(credentials.key)]
    return subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=20)


@pytest.mark.needs("mosquitto_rr")
def test_mosquitto_rr_registers(running, pump):
    # mosquitto_rr 2.0.11 sends nothing of a file or its standard input; an argument has no zero
    # byte, which this message can do without.
    done = mosquitto(
        "mosquitto_rr", running, pump, "pump-7",
        "-t", "kf/u/pump-7", "-e", "kf/d/pump-7", "-q", "1", "-W", "5", "-F", "%x",
        "-m", register(),
    )  # fmt: skip
    assert done.returncode == 0, done
    answer = wire.decode_map(bytes.fromhex(done.stdout.decode()))
    assert answer[sig.TYPE] == sig.REGISTERED
    assert answer[sig.SEEN].startswith("127.0.0.1:")


@pytest.mark.needs("mosquitto_pub")
@pytest.mark.parametrize("qos", ["0", "1"])
def test_mosquitto_pub_is_acknowledged(running, pump, qos):
    arguments = ("-t", "kf/u/pump-7", "-q", qos, "-s", "-d")
    done = mosquitto("mosquitto_pub", running, pump, "pump-7", *arguments, stdin=register())
    assert done.returncode == 0, done
    assert b"CONNACK (0)" in done.stdout + done.stderr


@pytest.mark.needs("mosquitto_pub")
@pytest.mark.parametrize(
    "arguments",
    [
        ("-t", "kf/u/valve-2", "-q", "1"),
        ("-t", "kf/u/pump-7", "-q", "2"),
        ("-t", "kf/u/pump-7", "-q", "1", "-r"),
        ("-t", "anything", "-q", "1"),
    ],
)
def test_mosquitto_pub_is_refused(running, pump, arguments):
    done = mosquitto("mosquitto_pub", running, pump, "pump-7", *arguments, "-s", stdin=register())
    assert done.returncode != 0 or b"lost" in done.stderr.lower(), done


@pytest.mark.needs("mosquitto_pub")
def test_mosquitto_pub_is_told_why_it_may_not_connect(running, pump):
    done = mosquitto("mosquitto_pub", running, pump, "valve-2", "-t", "kf/u/valve-2", "-m", "x")
    assert done.returncode != 0
    assert b"identifier rejected" in done.stdout + done.stderr
    done = mosquitto(
        "mosquitto_pub", running, pump, "pump-7",
        "-t", "kf/u/pump-7", "-m", "x", "--will-topic", "kf/u/pump-7", "--will-payload", "bye",
    )  # fmt: skip
    assert done.returncode != 0
    assert b"not authorised" in done.stdout + done.stderr


@pytest.mark.needs("mosquitto_sub")
def test_mosquitto_sub_gets_its_own_topic_and_no_other(running, pump):
    command = ("-t", "kf/d/valve-2", "-t", "#", "-q", "1", "-W", "3")
    done = mosquitto("mosquitto_sub", running, pump, "pump-7", *command)
    assert b"All subscription requests were denied" in done.stderr

    command = ("-t", "kf/d/pump-7", "-q", "2", "-W", "5", "-C", "1", "-F", "%x")
    waiting = subprocess.Popen(
        [
            str(find("mosquitto_sub")), "-V", "mqttv311", "-h", "127.0.0.1",
            "-p", str(running.port), "-i", "pump-7",
            "--cafile", str(running.home.folder / "ca" / "root.pem"),
            "--cert", str(pump.certificate), "--key", str(pump.key), *command,
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: "pump-7" in running.links())
    time.sleep(0.2)  # its subscription
    taker = running.raw(pump)
    assert taker.connect("pump-7") == 0
    output, _ = waiting.communicate(timeout=10)
    taker.close()
    message = wire.decode_map(bytes.fromhex(output.decode()))
    assert message[sig.ERROR_CODE] == code_of("replaced")


# -- bare bytes ------------------------------------------------------------------------------


@pytest.fixture
def raw(running, pump):
    with running.raw(pump) as client:
        yield client


@pytest.fixture
def online(raw):
    assert raw.connect("pump-7") == mqtt.ACCEPTED
    return raw


def test_pings_are_answered(online):
    online.send(mqtt.PINGREQ * 3)
    for _ in range(3):
        assert online.packet() == (mqtt.TYPE_PINGRESP,)


def test_a_session_is_never_present_whatever_the_client_wants(raw):
    assert raw.connect("pump-7", clean_session=False) == mqtt.ACCEPTED


def test_user_name_and_password_change_nothing(raw):
    assert raw.connect("pump-7", username="valve-2", password=b"x") == mqtt.ACCEPTED
    assert raw.subscribe("kf/d/valve-2") == mqtt.SUBSCRIBE_FAILED


@pytest.mark.parametrize("client_id", ["", "valve-2", "PUMP-7", "pump-7 ", "x" * 20000])
def test_the_client_identifier_is_the_name(raw, client_id):
    assert raw.connect(client_id) == mqtt.BAD_CLIENT_ID
    assert raw.closed()


def test_another_protocol_level_is_told_so(raw):
    raw.send(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02ab")
    assert raw.packet() == (mqtt.TYPE_CONNACK, mqtt.BAD_PROTOCOL_LEVEL, False)
    assert raw.closed()


@pytest.mark.parametrize(
    ("topic", "qos", "granted"),
    [
        ("kf/d/pump-7", 0, 0),
        ("kf/d/pump-7", 1, 1),
        ("kf/d/pump-7", 2, 1),
        ("kf/d/valve-2", 1, mqtt.SUBSCRIBE_FAILED),
        ("kf/u/pump-7", 1, mqtt.SUBSCRIBE_FAILED),
        ("kf/d/+", 1, mqtt.SUBSCRIBE_FAILED),
        ("kf/d/#", 1, mqtt.SUBSCRIBE_FAILED),
        ("#", 1, mqtt.SUBSCRIBE_FAILED),
        ("$SYS/#", 1, mqtt.SUBSCRIBE_FAILED),
        ("$share/g/kf/d/pump-7", 1, mqtt.SUBSCRIBE_FAILED),
    ],
)
def test_there_is_one_topic_to_subscribe_to(online, topic, qos, granted):
    assert online.subscribe(topic, qos) == granted


def test_many_filters_at_once_are_answered_one_by_one(online):
    filters = [("kf/d/valve-2", 1), ("kf/d/pump-7", 0), ("x", 0)] * 100
    online.send(mqtt.subscribe(9, filters))
    expected = bytes([mqtt.SUBSCRIBE_FAILED, 0, mqtt.SUBSCRIBE_FAILED] * 100)
    assert online.packet() == (mqtt.TYPE_SUBACK, 9, expected)


def test_messages_wait_for_the_subscription_and_stop_with_it(online):
    online.send(mqtt.publish("kf/u/pump-7", register(), 1, 5))
    assert online.packet() == (mqtt.TYPE_PUBACK, 5)
    assert online.subscribe("kf/d/pump-7", 1) == 1
    packet = online.packet()
    assert packet[:2] == (mqtt.TYPE_PUBLISH, "kf/d/pump-7")
    assert packet[3] == 1
    online.send(mqtt.puback(packet[4]) + mqtt.unsubscribe(6, ["kf/d/pump-7", "other"]))
    assert online.packet() == (mqtt.TYPE_UNSUBACK, 6)
    online.send(mqtt.publish("kf/u/pump-7", register()) + mqtt.PINGREQ)
    assert online.packet() == (mqtt.TYPE_PINGRESP,)
    assert online.subscribe("kf/d/pump-7", 0) == 0
    assert online.packet()[3] == 0


def test_too_large_a_message_is_an_error_and_too_large_a_packet_the_end(online):
    assert online.subscribe("kf/d/pump-7") == 0
    online.send(mqtt.publish("kf/u/pump-7", b"x" * (sig.MAX_MESSAGE + 1)))
    assert online.message()[sig.ERROR_CODE] == code_of("too-large")
    online.send(mqtt.publish("kf/u/pump-7", b"x" * 20 * 1024))
    assert online.closed()


@pytest.mark.parametrize(
    "packet",
    [
        mqtt.publish("kf/u/valve-2", b"x"),
        mqtt.publish("kf/d/pump-7", b"x", 1, 1),
        mqtt.publish("$SYS/x", b"x"),
        mqtt.publish("kf/u/pump-7", b"x", retain=True),
        b"\x34\x10\x00\x0bkf/u/pump-7\x00\x01x",  # QoS 2
        b"\x36\x10\x00\x0bkf/u/pump-7\x00\x01x",  # QoS 3
        mqtt.connect("pump-7", 60),
        mqtt.connack(),
        mqtt.suback(1, [0]),
        mqtt.unsuback(1),
        mqtt.PINGRESP,
        b"\x50\x02\x00\x01",  # PUBREC
        b"\xf0\x00",
        b"\x00\x00",
        b"\xc1\x00",  # reserved flags
        b"\xc0\xff\xff\xff\xff\x01",  # a length of five bytes
        mqtt.publish("kf/u/pump-7", b"x").replace(b"pump", b"p\x00mp"),
        mqtt.publish("kf/u/pump-7", b"x").replace(b"pump", b"p+mp"),
    ],
)
def test_what_breaks_the_rules_ends_the_link(online, packet):
    online.send(packet)
    assert online.closed()


@pytest.mark.parametrize(
    "packet",
    [
        mqtt.publish("kf/u/pump-7", register()),
        mqtt.subscribe(1, [("kf/d/pump-7", 0)]),
        mqtt.PINGREQ,
        mqtt.DISCONNECT,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_the_first_packet_is_connect(raw, running, packet):
    raw.send(packet)
    assert raw.closed()
    assert "pump-7" not in running.links()


def test_packets_that_come_in_pieces_or_all_together(running, pump):
    stream = mqtt.connect("pump-7", 60) + mqtt.subscribe(1, [("kf/d/pump-7", 0)])
    stream += mqtt.publish("kf/u/pump-7", register()) + mqtt.PINGREQ
    for step in (1, 7, len(stream)):
        with running.raw(pump) as client:
            for start in range(0, len(stream), step):
                client.send(stream[start : start + step])
            kinds = [client.packet()[0] for _ in range(4)]
        assert kinds == [
            mqtt.TYPE_CONNACK,
            mqtt.TYPE_SUBACK,
            mqtt.TYPE_PUBLISH,
            mqtt.TYPE_PINGRESP,
        ]


def test_a_clean_goodbye_is_seen(home, running, online):
    until(lambda: "pump-7" in running.links())
    online.send(mqtt.DISCONNECT)
    assert online.closed()
    assert "pump-7" not in running.links()


def test_keep_alive_is_one_and_a_half_times_what_was_said(running, raw):
    assert raw.connect("pump-7", keep_alive=1) == 0
    for _ in range(3):
        time.sleep(1.0)
        raw.send(mqtt.PINGREQ)
        assert raw.packet() == (mqtt.TYPE_PINGRESP,)
    started = time.monotonic()
    assert raw.closed()
    assert time.monotonic() - started > 1.2
    assert running.home.audit("keep-alive-timeout", "silent for 1.5 s")
