"""Ports for servers that are told one: free, and never the system's to give."""

import socket
from pathlib import Path

import pytest

from keyferry_hil import free_port as module
from keyferry_hil.free_port import free_port


def test_a_port_is_free_and_below_what_clients_get() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        highest = given.getsockname()[1]
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert highest >= lowest
        for _ in range(20):
            port = free_port()
            assert 10240 <= port < lowest
            socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], other.getsockname()[1]]
        chosen = [ports[0], ports[1], free_port()]
        expected = chosen[-1]

        class Choice:
            def randrange(self, low: int, high: int) -> int:
                return chosen.pop(0)

        monkeypatch.setattr(module.random, "SystemRandom", Choice)
        assert free_port() == expected
        chosen[:] = [ports[0]] * 200
        with pytest.raises(OSError, match="no free port"):
            free_port()
