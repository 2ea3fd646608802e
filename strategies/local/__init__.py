"""Local learners: how a client's data become a step. One family, one file; ``LEARNERS`` holds
factories.

One whose steps are themselves noised lives in ``privacy/``, beside the entropy it draws from.

A learner of your own is one file and one line here, or its ``"package.module:factory"`` in
``methods``.
"""

LEARNERS: dict[str, str] = {
    "erm": "strategies.local.erm:Erm",
    "maml": "strategies.local.meta:Maml",
    "fomaml": "strategies.local.meta:Fomaml",
    "fedmenf": "strategies.local.meta:FedMeNF",
    "fedmenf-published": "strategies.local.meta:FedMeNFPublished",
    "fedmenf-unbounded": "strategies.local.meta:FedMeNFUnbounded",
    "fedmenf-first-order": "strategies.local.meta:FedMeNFFirstOrder",
    "fedmenf-adaptive": "strategies.local.meta:FedMeNFAdaptive",
    "reptile": "strategies.local.reptile:Reptile",
    "meta-nsgd": "privacy.meta_nsgd:MetaNsgd",
    "adapters": "strategies.local.adapters:AdapterFit",
}

LOCAL = "local"
"""Method without any federation: test-time optimisation starts from the random initialisation."""
