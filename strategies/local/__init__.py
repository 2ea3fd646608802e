"""Local learners: how a client's data become a step. One family, one file; ``LEARNERS`` holds factories.

A learner of your own is one file and one line here, or its ``"package.module:factory"`` in ``methods``.
"""

LEARNERS: dict[str, str] = {
    "erm": "strategies.local.erm:Erm",
    "maml": "strategies.local.meta:maml",
    "fomaml": "strategies.local.meta:fomaml",
    "fedmenf": "strategies.local.meta:fedmenf",
    "fedmenf-unbounded": "strategies.local.meta:fedmenf_unbounded",
    "reptile": "strategies.local.reptile:Reptile",
    "adapters": "strategies.local.adapters:AdapterFit",
}

LOCAL = "local"
"""The method without any federation: test-time optimisation starts from the random initialisation."""
