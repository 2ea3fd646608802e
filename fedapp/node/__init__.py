"""A node: its configuration, folders and limits, and what it does with each workflow's legs."""
