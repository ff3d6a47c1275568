"""Answers of the core, on whatever runtime this is, to questions taken from test vectors.

The host judges: what a vector expects never gets here. ``service`` speaks to the host, the other
modules are the questions that can be asked, in groups that are imported when one is asked.
"""
