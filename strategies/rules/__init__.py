"""Aggregation rules: one paper, one file, both halves (what a client adds, what the server does).

A rule of your own is one file and one line here, or ``rule = "package.module:Class"`` in the
config. The contract tests in ``tests/strategies`` run on everything in this table.
"""

RULES: dict[str, str] = {
    "fedavg": "strategies.rules.fedavg:FedAvg",
    "fedprox": "strategies.rules.fedprox:FedProx",
    "scaffold": "strategies.rules.scaffold:Scaffold",
    "fednova": "strategies.rules.fednova:FedNova",
    "fedexp": "strategies.rules.fedexp:FedExP",
    "fedacg": "strategies.rules.fedacg:FedACG",
    "isfa": "strategies.rules.isfa:Isfa",
}
