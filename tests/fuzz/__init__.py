"""Hostile input: one target a decoder, a fuzzer that drives them, and the corpus it found."""
