"""What a run is determined by: the config, its recipes, and the objects its names stand for."""
