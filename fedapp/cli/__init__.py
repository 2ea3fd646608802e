"""The ``fedapp`` command: one file a verb that needs more than a few lines."""
