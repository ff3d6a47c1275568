"""Measurements: ``make bench`` for time, ``make size`` for space. Nothing here passes or fails."""
