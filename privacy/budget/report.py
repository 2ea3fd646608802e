"""The budget report in twelve parts: what was promised to whom, what it cost, what is not covered.

Everything is computed from the ledger (never from what a config says was planned), the release
object and the table of fields that leave a node. A number that was not computed is ``null``.
"""

from __future__ import annotations

from typing import Any

from privacy.budget.claim import against, checklist, claim, not_covered
from privacy.budget.cost import accounting, budget, meaning, mechanism, sampling, utility
from privacy.budget.facts import Facts, audit_verdict
from privacy.budget.spent import Spent

SCHEMA = 1


def build_report(facts: Facts) -> dict[str, Any]:
    """The report as one JSON object; keys are the twelve parts."""
    spent = Spent.of(dict(entry) for entry in facts.entries)
    charged = accounting(facts, spent)
    return {
        "schema": SCHEMA,
        "claim": claim(facts, charged),
        "against": against(facts, charged),
        "mechanism": mechanism(facts),
        "sampling": sampling(facts, spent),
        "accounting": charged,
        "meaning": meaning(spent),
        "not_covered": not_covered(facts),
        "budget": budget(facts, spent, charged),
        "utility": utility(facts),
        "audit": {
            "rows": [dict(row) for row in facts.audit],
            "noise": [dict(row) for row in facts.noise],
            "attacks": [dict(row) for row in facts.attacks],
            "verdict": audit_verdict(facts),
        },
        "provenance": {
            **facts.provenance,
            "ledger": facts.ledger_id,
            "ledger_seq": facts.head.seq,
            "ledger_head": facts.head.hash,
            "restarts": sum(entry["type"] == "resume" for entry in facts.entries),
            "noise_seed": "operating system entropy; not reproducible by design",
        },
        "checklist": checklist(facts, charged),
    }
