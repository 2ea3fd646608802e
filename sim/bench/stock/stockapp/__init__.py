"""A stock Flower app without work: the cost of a round as Flower ships it."""
