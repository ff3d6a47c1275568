"""What a token of the admin API may be good for."""

import re
from collections.abc import Iterable

from keyferry_manager.problems import Forbidden, Invalid

SCOPES: dict[str, str] = {
    "realm:read": "see the state of the realm",
    "devices:read": "list devices, and look at them",
    "devices:write": "add devices",
    "certificates:read": "list certificates",
    "certificates:revoke": "revoke certificates, and remove devices",
    "links:read": "see who is connected, from where",
    "sessions:read": "see who has sessions with whom",
    "policy:read": "read rules and policies, and try them",
    "policy:write": "change rules and the policy",
    "approvals:read": "list first enrolments that wait",
    "approvals:write": "approve and deny them",
    "audit:read": "read the audit trail",
    "tokens:read": "list the tokens of this API",
    "tokens:write": "make tokens with no more rights than one's own, and remove any",
}
ALL = frozenset(SCOPES)
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Known scopes, once each, in the order of SCOPES. Invalid says what is wrong."""
    asked = set(scopes)
    unknown = sorted(asked - ALL)
    if unknown:
        raise Invalid(f"{unknown[0]} is not a scope; there are: {', '.join(SCOPES)}.")
    if not asked:
        raise Invalid("a token needs at least one scope.")
    return tuple(scope for scope in SCOPES if scope in asked)


def check_token_name(name: str) -> str:
    """A name for a token: it stands in the audit trail. Invalid for another text."""
    if not _NAME.fullmatch(name):
        raise Invalid("a token's name is 1 to 63 of a-z, 0-9, '.', '_' and '-', as in ci-deploy.")
    return name


def check_covered(scopes: Iterable[str], own: Iterable[str]) -> None:
    """Forbidden when ``scopes`` go beyond ``own``."""
    beyond = sorted(set(scopes) - set(own))
    if beyond:
        raise Forbidden(f"your own token lacks {', '.join(beyond)}: it cannot pass that on.")
