"""What an operator can ask and order, once: beneath the command line and beneath the admin API.

``Service`` does it on a store. ``Remote`` asks a running manager over its API for the same, with
the same arguments and the same answers, which are JSON values (docs/api.md).
"""
