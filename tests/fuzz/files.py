"""Spoilt files."""
