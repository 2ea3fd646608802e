"""What a curious server can do, as library code: one attack, one file."""
