"""Kamailio as the manager's rival: a stateful proxy and registrar on mutual TLS, with name check.

It does the same work for the same messages: From is compared with the certificate, the stated
leg with the socket, a second leg is added, the location table says where the callee is, and the
request goes out on the callee's own connection.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.rivals import RivalMissing, cpu_of
from support.manager_kit import REALM, Home

# fm is the fast allocator: the default one is five times slower. 256 MB would run out after some
# 18,000 transactions, which Kamailio keeps for seconds.
_MEMORY = ["-m", "4096", "-M", "32", "-x", "fm", "-X", "fm"]
_PATIENCE = 20.0

_CONFIG = """
debug=-1
log_stderror=yes
fork=yes
children=1
tcp_children={workers}
tcp_max_connections=4096
tls_max_connections=4096
tcp_connection_lifetime=3605
tcp_accept_no_cl=no
auto_aliases=no
alias="{realm}"
dns=no
rev_dns=no
disable_sctp=yes
enable_tls=yes
listen=tls:127.0.0.1:{port}
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "nathelper.so"
loadmodule "tls.so"
modparam("tls", "config", "{folder}/tls.cfg")
modparam("usrloc", "db_mode", 0)
modparam("nathelper", "received_avp", "$avp(received)")
modparam("registrar", "received_avp", "$avp(received)")
modparam("registrar", "max_contacts", 4)
modparam("rr", "append_fromtag", 0)

request_route {{
    if (!mf_process_maxfwd_header("70")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    # Nobody speaks in another's name than the certificate's.
    if ($fu != $tls_peer_san_uri) {{ sl_send_reply("403", "Forbidden"); exit; }}
    if (is_method("REGISTER")) {{
        fix_nated_register();
        if (!save("location")) sl_reply_error();
        exit;
    }}
    if (has_totag()) {{
        if (loose_route()) {{
            if (is_method("ACK")) {{ t_relay(); exit; }}
            t_relay();
            exit;
        }}
        sl_send_reply("481", "Call/Transaction Does Not Exist");
        exit;
    }}
    # The leg that the sender states is the one that the socket shows.
    $var(leg) = "addr=\\"" + $si + ":" + $sp + "\\";leg=1;transport=tls;auth=mutual";
    if ($hdr(Hop-Security) != $var(leg)) {{ sl_send_reply("403", "Bad Leg"); exit; }}
    remove_hf("P-Asserted-Identity");
    append_hf("P-Asserted-Identity: <$fu>\\r\\n");
    if (is_method("INVITE")) record_route();
    if (!lookup("location")) {{ sl_send_reply("480", "Temporarily Unavailable"); exit; }}
    append_hf("Hop-Security: addr=\\"$dd:$dp\\";leg=2;transport=tls;auth=mutual\\r\\n");
    t_relay();
}}
"""

_TLS = """
[server:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
verify_depth = 5
private_key = {folder}/kamailio.key
certificate = {server}
ca_list = {trusted}
"""


class Kamailio:
    """All its processes, on one core."""

    def __init__(self, home: Home, core: int, workers: int = 1) -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("kamailio", path=path)
        if program is None:
            raise RivalMissing("kamailio is not installed: 'make system' does it")
        self._folder = tempfile.TemporaryDirectory(prefix="keyferry-kamailio-")
        folder = Path(self._folder.name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        pem = serialization.Encoding.PEM
        trusted = folder / "trusted.pem"
        trusted.write_bytes(
            b"".join(
                x509.load_der_x509_certificate(der).public_bytes(pem)
                for der in home.authority.trusted_by_links()
            )
        )
        server = Path(home.authority.server_file)
        words = {"folder": folder, "server": server, "trusted": trusted, "port": self.port,
                 "realm": REALM, "workers": workers}  # fmt: skip
        key = folder / "kamailio.key"
        key.touch(mode=0o600)
        key.write_bytes(server.read_bytes())
        (folder / "kamailio.cfg").write_text(_CONFIG.format(**words))
        (folder / "tls.cfg").write_text(_TLS.format(**words))
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [program, *_MEMORY, "-DD", "-E", "-f", str(folder / "kamailio.cfg"),
             "-Y", str(folder), "-P", str(folder / "pid")],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # before it forks
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    log = (Path(self._folder.name) / "log").read_text(errors="replace")
                    raise RuntimeError(f"kamailio did not start\n{log[-2000:]}") from None
            time.sleep(0.05)

    def _family(self) -> list[int]:
        found = [self.process.pid]
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self.process.pid:
                    found.append(int(folder.name))
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its processes."""
        return sum(cpu_of(pid) for pid in self._family())

    def stop(self) -> None:
        """End it, with force where it does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in self._family():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()
        self._folder.cleanup()
