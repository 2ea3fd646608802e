"""A run: the loop over arms, the workflows it drives, their protection, and how a run starts."""
