"""Settings that change while the manager runs: which can, and who is told.

A setting that is not named here is in force from the next start. So a new setting that nobody
thought about is never half in force.
"""

import logging
from dataclasses import dataclass, fields, replace

from keyferry_manager.config import Config
from keyferry_manager.logs import ROOT

# Field names of Config.
_LIVE = frozenset(
    {
        "admission",
        "address_enrolments_per_hour",
        "approval_seconds",
        "crl_hours",
        "device_days",
        "drain_seconds",
        "enrolments_per_hour",
        "failures_per_minute",
        "grace_days",
        "handshake_seconds",
        "hook",
        "hook_ca_file",
        "hook_seconds",
        "hook_url",
        "log_level",
        "max_handshakes",
        "max_links",
        "max_sessions",
        "messages_per_second",
        "public_host",
        "public_url",
        "queue_messages",
        "registration_seconds",
        "route_mode",
        "session_grace",
        "token_hours",
    }
)


@dataclass(frozen=True, slots=True)
class Change:
    """A new configuration against the one in force. ``config`` is what is in force then; the
    other two are keys as they stand in the file."""

    config: Config
    changed: tuple[str, ...]
    at_restart: tuple[str, ...]


def compare(before: Config, wanted: Config) -> Change:
    """What of ``wanted`` can be in force at once."""
    changed, later = {}, []
    keys = []
    for item in fields(Config):
        new = getattr(wanted, item.name)
        if item.name == "home" or new == getattr(before, item.name):
            continue
        key = item.metadata["key"]
        if item.name in _LIVE:
            changed[item.name] = new
            keys.append(key)
        else:
            later.append(key)
    return Change(replace(before, **changed), tuple(keys), tuple(later))


def set_log_level(config: Config) -> None:
    """Log as much as the configuration says."""
    logging.getLogger(ROOT).setLevel(logging.getLevelName(config.log_level.upper()))
