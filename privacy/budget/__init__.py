"""The privacy budget: what was spent, what would be, and a report that says so.

ledger   the append-only, hash-chained, signed record
charge   writes a round down before it happens
spent    from the ledger's entries to epsilon
plan     epsilon and noise before a client trains
facts    input of a budget report
claim    its sentences
cost     its numbers
report   its twelve parts, as one JSON object
"""
