"""Asking people which of two clips is better, and how far their answers can be relied on."""
