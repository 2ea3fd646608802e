"""How a sum is released, and what a curious server can do with what it sees."""
