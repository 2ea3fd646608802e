"""Files of a run: its folder, its checkpoints, what its clients remember."""
