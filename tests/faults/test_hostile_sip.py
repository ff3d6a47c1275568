"""What a device with a good certificate may try on SIP: clear answers, bounded memory, and others
that notice nothing. ``pytest -s`` shows what was measured."""

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import sipmessage

from keyferry_core import sip_codec
from keyferry_core.sip_fields import SipError
from keyferry_manager.carriers.sip import SipEndpoint, SipSettings
from support.manager_kit import REALM, Home, Running, until
from support.sip_device import EDHOC, SipDevice

TORTURE = Path(__file__).parents[1] / "vectors" / "rfc4475"
SDP = b"v=0\r\n"
_IDS = itertools.count(1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7", "valve-3")
    home.allow("gauge-2", "pump-7")
    home.allow("valve-3", "pump-7")
    return home


@pytest.fixture
def others(running: Running) -> Iterator[tuple[SipDevice, SipDevice]]:
    """Two devices that go on whatever happens."""
    with SipDevice(running, "valve-3") as valve, SipDevice(running, "pump-7") as pump:
        assert valve.register().code == pump.register().code == 200
        yield valve, pump
        valve.send(valve.request("MESSAGE", "pump-7", b"still here"))
        got = pump.next("MESSAGE")
        assert got.body == b"still here"
        pump.respond(got)
        assert valve.answer().code == 200


def endpoint(running: Running) -> SipEndpoint:
    found = running.manager.sip
    assert found is not None
    return found


def _waits(data: bytes) -> bool:
    reader = sip_codec.Reader()
    reader.feed(data)
    try:
        while reader.next_message() is not None:
            pass
    except SipError:
        return False
    return reader.waiting


def call(device: SipDevice, **fields: str) -> sipmessage.Request:
    """An INVITE with a body that is not EDHOC's, not sent yet."""
    invite = device.request("INVITE", "pump-7", SDP, content_type="application/sdp", **fields)
    invite.headers.set("Call-ID", f"flood-{next(_IDS)}")
    return invite


def test_the_torture_set_on_a_live_connection(
    running: Running, home: Home, others: tuple[SipDevice, SipDevice]
) -> None:
    credentials = home.device("gauge-2")
    answered: dict[int, int] = {}
    files = sorted(TORTURE.glob("*.dat"))
    assert len(files) > 30
    for path in files:
        with SipDevice(running, "gauge-2", credentials) as gauge:
            assert gauge.register().code == 200
            gauge.send(path.read_bytes())
            if _waits(path.read_bytes()):
                continue  # for the rest of a body that a datagram would not have
            gauge.send(b"\r\n\r\n")
            gauge.send(gauge.request("OPTIONS"))
            while True:
                found = gauge.receive()
                if found is None:
                    break  # broken framing ends a connection
                assert isinstance(found, sipmessage.Response)
                answered[found.code] = answered.get(found.code, 0) + 1
                if found.code == 200 and found.headers["Call-ID"] == gauge.call_id:
                    break
    print(f"torture set, {len(files)} messages on live connections: {answered}")
    assert set(answered) <= {200, 400, 403, 404, 405, 416, 420, 481, 483, 501, 505, 513}
    assert answered[400] >= 5


def test_a_flood_of_invites_without_ack(
    running: Running, others: tuple[SipDevice, SipDevice]
) -> None:
    _, pump = others
    with SipDevice(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        tracemalloc.start()
        try:
            sent = 400
            gauge.send(b"".join(bytes(call(gauge)) for _ in range(sent)))
            refused = 0
            while refused < sent - 16:
                answer = gauge.answer()
                assert answer.code in (100, 503)
                if answer.code == 503:
                    assert answer.headers["Retry-After"]
                    refused += 1
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert running.look(lambda m: len(m.sip.calls)) == 16
        assert peak < 4_000_000
        print(f"{sent} INVITEs: 16 handed on, {refused} refused, {held} bytes held, peak {peak}")
        # a part of them answered and never acknowledged: still no more than the bound
        offered = [pump.next("INVITE") for _ in range(16)]
        for invite in offered:
            pump.respond(invite, found=(("application/sdp", SDP),), tag="callee")
        until(lambda: running.look(lambda m: len(m.sip.calls)) == 16)
        gauge.send(call(gauge))
        while (answer := gauge.answer()).code in (100, 200):
            pass
        assert answer.code == 503
    calls = endpoint(running).calls
    running.look(lambda m: m.sip.calls.expire(m.relay.now() + 100))
    assert len(calls) == 0


def test_sessions_are_bounded_as_on_mqtt(
    running: Running, others: tuple[SipDevice, SipDevice]
) -> None:
    _, pump = others
    with SipDevice(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        for number in range(40):
            gauge.send(gauge.inside("INVITE", "pump-7", number.to_bytes(16, "big"), (EDHOC, b"m")))
        asked = 16  # a quarter of what one device may have
        codes = [gauge.final().code for _ in range(40 - asked)]
        assert set(codes) == {503}
        assert running.look(lambda m: len(m.relay.sessions)) == asked
        offered = [pump.next("INVITE") for _ in range(asked)]
        for invite in offered:
            pump.respond(invite, 486, "Busy Here")
            pump.next("ACK")
            codes.append(gauge.final().code)
        assert running.look(lambda m: len(m.relay.sessions)) == 0
        assert endpoint(running).dialogs("gauge-2") == {}
        assert endpoint(running).dialogs("pump-7") == {}


def test_what_is_too_large(running: Running, others: tuple[SipDevice, SipDevice]) -> None:
    with SipDevice(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        contacts = ", ".join(f"<sip:gauge-2@h{number}>" for number in range(1000))
        request = gauge.request("REGISTER", contact=contacts)
        tracemalloc.start()
        try:
            gauge.send(request)
            answer = gauge.answer()
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # so large a head is not read to its end, but what came of it says whom to answer
        assert answer.code == 513
        assert answer.headers["Call-ID"] == gauge.call_id
        assert gauge.closed()
        print(f"{len(bytes(request))} bytes, 1000 contacts: {held} held, peak {peak}")
        assert peak < 1_000_000
    with SipDevice(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        gauge.send(b"REGISTER sip:plant.example SIP/2.0\r\nContact: " + b"x" * 17_000)
        assert gauge.closed()  # nothing that an answer could repeat
    with SipDevice(running, "gauge-2") as gauge:
        contacts = ", ".join(f"<sip:gauge-2@h{number}>" for number in range(600))
        assert gauge.register(contact=contacts).code == 400
    with SipDevice(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        assert gauge.ask("MESSAGE", "pump-7", bytes(16 * 1024)).code == 513
        gauge.send(gauge.request("MESSAGE", "pump-7", bytes(16 * 1024 + 1)))
        assert gauge.answer().code == 513
        assert gauge.closed()


def test_half_open_and_slow(
    running: Running, home: Home, others: tuple[SipDevice, SipDevice]
) -> None:
    credentials = home.device("gauge-2")

    def hurry(manager: object) -> None:
        endpoint(running).settings = SipSettings(message_timeout=1.0)

    running.look(hurry)
    with SipDevice(running, "gauge-2", credentials) as gauge:
        assert gauge.closed()  # it says nothing
    home.audit("not-registered")
    with SipDevice(running, "gauge-2", credentials) as gauge:
        gauge.send(b"OPTIONS sip:")
        assert gauge.closed()  # it never finishes
    home.audit("message-timeout")


def test_via_and_route_decide_nothing(
    running: Running, home: Home, others: tuple[SipDevice, SipDevice]
) -> None:
    valve, pump = others
    with SipDevice(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        via = f"SIP/2.0/TLS {valve.address};branch=z9hG4bKforged;rport=1;received=192.0.2.1"
        gauge.send(call(gauge, via=via))
        answer = gauge.answer()
        assert answer.code == 100  # to the connection that it came on, whatever Via says
        assert answer.via[0].parameters["received"] == "127.0.0.1"
        pump.respond(pump.next("INVITE"), 486, "Busy Here")
        pump.next("ACK")
        assert gauge.final().code == 486
        gauge.send(call(gauge, route=f"<sip:{REALM};lr>, <sip:valve-3@192.0.2.66;lr>"))
        assert gauge.final().code == 403
        home.audit("bad-route")
        # a response with somebody else's branch
        gauge.respond(call(gauge), 200)
        assert valve.nothing()
        assert gauge.ask("OPTIONS").code == 200
