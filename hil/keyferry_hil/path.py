"""The network between boards and a manager, on this computer, where it can be taken away."""

import select
import socket
import threading

from keyferry_hil.resources import Network


class NetworkPath:
    """A TCP port that leads to another one. ``port``: where boards go in.

    ``cut`` ends what is open and refuses what comes; ``stall`` keeps connections and carries
    nothing, as a router that has lost its line; ``mend`` ends either.
    """

    def __init__(self, network: Network, target: int) -> None:
        self._to = ("127.0.0.1" if network.listen == "0.0.0.0" else network.listen, target)
        self._listener = socket.create_server((network.listen, 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._up = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        with self._guard:
            self._up = False
            for one in self._open:
                _shut(one)

    def stall(self) -> None:
        self._flowing.clear()

    def mend(self) -> None:
        self._up = True
        self._flowing.set()

    def close(self) -> None:
        self._closing = True
        self.cut()
        self._flowing.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def __enter__(self) -> "NetworkPath":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing:
            ready, _, _ = select.select([self._listener], [], [], 0.1)
            if not ready:
                continue
            here, _ = self._listener.accept()
            with self._guard:
                if not self._up or self._closing:
                    here.close()
                    continue
                try:
                    there = socket.create_connection(self._to, 10)
                except OSError:
                    here.close()
                    continue
                self.accepted += 1
                for one in (here, there):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    one.settimeout(None)
                    self._open.add(one)
            thread = threading.Thread(target=self._carry, args=(here, there), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        other = {here: there, there: here}
        try:
            while True:
                ready, _, _ = select.select([here, there], [], [])
                self._flowing.wait()
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    other[one].sendall(data)
        except OSError:
            pass  # one end has gone
        finally:
            with self._guard:
                for one in (here, there):
                    self._open.discard(one)
                    _shut(one)
                    one.close()


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was shut already
