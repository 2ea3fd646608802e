"""Configuration of a run: the config, its recipes, and the objects its names stand for."""
