"""Local learners: how a client's data become a step. One family, one file; ``LEARNERS`` holds
factories.

One whose steps are themselves noised lives in ``privacy/``, beside the entropy it draws from.

A learner of your own is one file and one line here, or its ``"package.module:factory"`` in
``methods``.
"""

LEARNERS: dict[str, str] = {
    "erm": "strategies.local.erm:Erm",
    "maml": "strategies.local.meta:maml",
    "fomaml": "strategies.local.meta:fomaml",
    "fedmenf": "strategies.local.meta:fedmenf",
    "fedmenf-unbounded": "strategies.local.meta:fedmenf_unbounded",
    "fedmenf-first-order": "strategies.local.meta:fedmenf_first_order",
    "fedmenf-adaptive": "strategies.local.meta:fedmenf_adaptive",
    "reptile": "strategies.local.reptile:Reptile",
    "meta-nsgd": "privacy.meta_nsgd:MetaNsgd",
    "adapters": "strategies.local.adapters:AdapterFit",
}

LOCAL = "local"
"""The method without any federation: test-time optimisation starts from the random initialisation."""
