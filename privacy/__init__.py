"""Releases of a sum, their accounting, and attacks by a curious server."""
