"""Who may do what with whom. Pure: texts and names in, a decision and its reason out.

document.py reads a policy file, rules.py evaluates it in memory, assertions.py runs the tests
inside the file, and changes.py says what another policy would change. The default is deny.
"""

from keyferry_manager.policy.assertions import failures, forbidding
from keyferry_manager.policy.changes import Change, changes
from keyferry_manager.policy.document import (
    EMPTY,
    FILE_NAME,
    TEMPLATE,
    WHATS,
    Policy,
    PolicyProblem,
    digest,
    parse,
)
from keyferry_manager.policy.rules import Decision, Rules

__all__ = [
    "EMPTY",
    "FILE_NAME",
    "TEMPLATE",
    "WHATS",
    "Change",
    "Decision",
    "Policy",
    "PolicyProblem",
    "Rules",
    "changes",
    "digest",
    "failures",
    "forbidding",
    "parse",
]
