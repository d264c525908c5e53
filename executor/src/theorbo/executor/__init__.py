"""Theorbo."""
