"""EDHOC, RFC 9528, both roles: methods 0 and 3, suites 2 and 3.

``initiator.Initiator`` and ``responder.Responder`` are the state machines, ``credentials`` makes
what they authenticate with, ``messages`` is the wire format. Names are the RFC's own.
"""
