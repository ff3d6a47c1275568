"""Revoking one of two devices that talk: real agents, a real manager, the real command."""

from e2e.test_restart import PATIENCE, play
from keyferry_hil.virtual_device import VirtualDevice
from keyferry_manager.cli.demo.stage import Stage


def test_a_revoked_device_is_out_and_both_sides_know_why() -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        marks = len(a.events), len(b.events)
        done = await stage.keyferry(
            *("device", "revoke", b.name, "--reason", "keyCompromise"),
            *("--home", str(stage.home)),
        )
        assert (done["certificates"], done["links"], done["sessions"]) == (1, 1, 1)
        assert done["seconds"] > 0
        over = await a.wait_for("session-over", after=marks[0], timeout=PATIENCE)
        assert (over["peer"], over["reason"]) == (b.name, "revoked")
        told = await b.wait_for("manager-error", after=marks[1], timeout=PATIENCE)
        assert told["error"] == "revoked"
        await b.wait_for("link-down", after=marks[1], timeout=PATIENCE)
        # it tries again by itself, and hears of it from TLS
        again = await b.wait_for("link-down", after=len(b.events), timeout=PATIENCE)
        assert again["error"] == "authentication-failed"
        await a.send(do="connect", to=b.name)
        failed = await a.wait_for("connect-failed", after=marks[0], timeout=PATIENCE)
        assert failed["error"] == "peer-offline"

    play(scene)
