"""The contract of a plug-in's parts, as clauses that can be run on any of them.

``fedapp check rule NAME`` runs them from the command line, a test suite through
:data:`fedapp.contract.rule.CLAUSES`.
"""
