"""A stock Flower app without work: what a round costs as Flower ships it."""
