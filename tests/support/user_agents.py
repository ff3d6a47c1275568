"""User agents that people use, on the SIP carrier: sipp behind stunnel, baresip, linphone.

Each gets a device's certificate and key. ``pytest -s`` shows what they wrote.
"""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

from keyferry_hil.free_port import free_port
from support.manager_kit import REALM, Running, until

SECONDS = 60.0


def _modules() -> Path:
    """Where Debian has them: /usr/lib/baresip or, later, a folder for the machine's kind."""
    return next(iter(sorted(Path("/usr/lib").glob("**/baresip/modules"))))


class Agent:
    """One process of a user agent in a folder of its own."""

    def __init__(self, running: Running, name: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.running = running
        self.name = name
        self.folder = folder
        self.home = running.home
        self.credentials = running.home.device(name)
        self.port = running.look(lambda manager: manager.sip_port)
        self.root = running.home.folder / "ca" / "root.pem"
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], **arguments: object) -> None:
        """Start the program; what it writes goes to ``output``."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=arguments.get("stdin", subprocess.DEVNULL),  # type: ignore[arg-type]
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=arguments.get("env"),  # type: ignore[arg-type]
            )

    def shown(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")

    def shows(self, *texts: str) -> None:
        """Wait until it has written all of these."""
        until(lambda: all(text in self.shown() for text in texts), SECONDS)

    def stop(self) -> None:
        """As a user stops it, and with force where that does not do."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        print(f"--- {type(self).__name__} {self.name}\n{self.shown()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Baresip(Agent):
    """baresip, told what to do over its control port."""

    def __init__(
        self, running: Running, name: str, folder: Path, contact: str, answer: str = "manual"
    ) -> None:
        super().__init__(running, name, folder)
        pem = folder / "identity.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(
            self.credentials.certificate.read_bytes() + self.credentials.key.read_bytes()
        )
        self.control = free_port()
        (folder / "config").write_text(
            f"module_path {_modules()}\n"
            "sip_listen 127.0.0.1:0\n"
            f"sip_certificate {pem}\n"
            f"sip_cafile {self.root}\n"
            f"ctrl_tcp_listen 127.0.0.1:{self.control}\n"
            "audio_player aubridge,nil\naudio_source aubridge,nil\naudio_alert aubridge,nil\n"
            "rtp_ports 40000-49999\n"
            "module uuid.so\nmodule contact.so\nmodule g711.so\nmodule aubridge.so\n"
            "module_tmp account.so\nmodule ctrl_tcp.so\nmodule_app menu.so\n"
        )
        (folder / "accounts").write_text(
            f"<sip:{name}@{REALM};transport=tls>;auth_pass=none;sipnat=outbound"
            f';outbound="sip:127.0.0.1:{self.port};transport=tls";regint=600;answermode={answer}\n'
        )
        (folder / "contacts").write_text(f'"peer" <sip:{contact}@{REALM}>\n')
        self.start(["baresip", "-f", str(folder), "-s"])

    def command(self, command: str, parameters: str = "") -> None:
        """Have it do something."""
        text = json.dumps({"command": command, "params": parameters})
        with socket.create_connection(("127.0.0.1", self.control), 20) as control:
            control.sendall(f"{len(text)}:{text},".encode())
            said = b""
            while b'"response":true' not in said:  # events come on the same connection
                data = control.recv(4096)
                assert data, said
                said += data
            assert b'"ok":true' in said, said


class Linphone(Agent):
    """linphone's console, told what to do on its standard input."""

    def __init__(self, running: Running, name: str, folder: Path) -> None:
        super().__init__(running, name, folder)
        (folder / ".local" / "share" / "linphone").mkdir(parents=True)
        key = folder / "key.pem"
        shutil.copy(self.credentials.key, key)
        key.chmod(0o600)
        (folder / "linphonerc").write_text(
            "[sip]\n"
            f"root_ca={self.root}\n"
            f"client_cert_chain={self.credentials.certificate}\n"
            f"client_cert_key={key}\n"
            "verify_server_certs=1\nverify_server_cn=0\n"
            "sip_port=0\nsip_tcp_port=0\nsip_tls_port=-1\ndefault_proxy=0\nguess_hostname=0\n"
            "contact=sip:127.0.0.1\n"
            "[proxy_0]\n"
            f"reg_proxy=<sip:127.0.0.1:{self.port};transport=tls>\n"
            f"reg_route=<sip:127.0.0.1:{self.port};transport=tls;lr>\n"
            f"reg_identity=sip:{name}@{REALM}\n"
            "reg_expires=600\nreg_sendregister=1\npublish=0\n"
            "[net]\nmtu=1300\n"
            "[sound]\nplayback_dev_id=\n[video]\ncapture=0\ndisplay=0\n"
        )
        env = {**os.environ, "HOME": str(folder)}
        self.start(
            ["linphonec", "-c", str(folder / "linphonerc"), "-d", "6", "-l", str(folder / "log")],
            stdin=subprocess.PIPE,
            env=env,
        )

    def command(self, line: str) -> None:
        """Type a line."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Type ``quit``."""
        if self.process is not None and self.process.poll() is None:
            self.command("quit")
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            assert self.process.stdin is not None
            self.process.stdin.close()
        super().stop()


class Sipp(Agent):
    """sipp with a scenario of ours, through a stunnel that has the client certificate."""

    def __init__(self, running: Running, name: str, folder: Path) -> None:
        super().__init__(running, name, folder)
        self.door = free_port()
        self.tunnel: subprocess.Popen[bytes] | None = None
        key = folder / "key.pem"
        shutil.copy(self.credentials.key, key)
        key.chmod(0o600)
        (folder / "stunnel.conf").write_text(
            "foreground = yes\npid =\nsyslog = no\ndebug = info\n"
            "[sip]\nclient = yes\n"
            f"accept = 127.0.0.1:{self.door}\nconnect = 127.0.0.1:{self.port}\n"
            f"cert = {self.credentials.certificate}\nkey = {key}\n"
            f"CAfile = {self.root}\nverifyChain = yes\ncheckHost = {REALM}\n"
        )
        with (folder / "stunnel.output").open("wb") as output:
            self.tunnel = subprocess.Popen(
                ["stunnel4", str(folder / "stunnel.conf")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        until(self._listens)

    def _listens(self) -> bool:
        # Nobody may connect to find out: stunnel would connect to the manager for it, as the same
        # device, and the link whose handshake ends last is the one that the manager keeps.
        assert self.tunnel is not None
        said = (self.folder / "stunnel.output").read_text(errors="replace")
        assert self.tunnel.poll() is None, said
        return "Accepting new connections" in said

    def run(self, scenario: Path, peer: str, calls: int = 1, call_id: str = "%u-%p@%s") -> None:
        """Start a scenario; ``finished`` waits for its end. ``call_id``: as sipp has it."""
        self.start(
            [
                "sipp", f"127.0.0.1:{self.door}", "-t", "t1", "-sf", str(scenario),
                "-s", self.name, "-key", "peer", peer, "-key", "realm", REALM,
                "-m", str(calls), "-l", "10", "-r", "50", "-nostdin", "-trace_msg", "-message_file",
                str(self.folder / "messages"), "-trace_err", "-timeout", f"{SECONDS:.0f}s",
                "-i", "127.0.0.1", "-p", str(free_port()), "-max_socket", "20",
                "-cid_str", call_id,
            ]
        )  # fmt: skip

    def finished(self) -> str:
        """What it sent and received; AssertionError where a call failed."""
        assert self.process is not None
        code = self.process.wait(2 * SECONDS)
        messages = self.folder / "messages"
        found = messages.read_text(errors="replace") if messages.exists() else ""
        errors = [path.read_text() for path in self.folder.glob("*_errors.log")]
        tunnel = (self.folder / "stunnel.output").read_text(errors="replace")
        assert code == 0, "\n".join([self.shown(), *errors, found, tunnel])
        print(f"--- sipp {self.name}\n{found}")
        return found

    def stop(self) -> None:
        """Both processes."""
        super().stop()
        if self.tunnel is not None:
            self.tunnel.terminate()
            self.tunnel.wait(20)
