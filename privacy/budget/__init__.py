"""The privacy budget: what was spent, what would be, and a page that says so.

ledger   the append-only, hash-chained, signed book        plan     epsilon and noise before a
client trains charge   writes a round down before it happens             report   the twelve parts
of a budget report spent    from the book's entries to epsilon                page     the report as
one HTML page
"""
