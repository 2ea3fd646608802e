"""What a run keeps on disk: its folder, its checkpoints, what its clients remember."""
