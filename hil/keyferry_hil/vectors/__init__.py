"""Test vectors against the core, on any runtime: ``keyferry vectors``.

``formats`` turns files into questions and checks (``model``), one module per format; ``runtimes``
and ``board`` have the questions answered; ``run`` judges the answers. What a vector expects stays
here, on the host: the runtime under test sees inputs only.
"""
