"""Alignment: which episodes of one task correspond to which of another, by optimal transport."""
