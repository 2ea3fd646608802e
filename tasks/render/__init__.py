"""From densities along rays to colours."""
