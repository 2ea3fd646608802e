"""Names of metrics: those that a row always has, and those that nobody else may report under."""

from __future__ import annotations

from strategies.learner import OBJECTIVE
from strategies.release import ROUND_METRICS

EVALUATED = (
    "psnr",
    "ssim",
    "lpips",
    "psnr_tuned",
    "psnr_unseen_tuned",
    "rates_tuned",
    "outside_range",
)
UPLOADED = ("psnr_p", "psnr_p_affine", "correlation_p", "psnr_floor", "range_excess")
ALWAYS = (*EVALUATED, *UPLOADED, "psnr_floor_held_out", OBJECTIVE)  # null where not computed
GAP = ("member_minus_nonmember", "member_minus_nonmember_over_floor")
CLAIMS = ("epsilon", "epsilon_local", "delta")  # promises, which no measurement makes
DERIVED = ("psnr_p_quantiles", *GAP, *CLAIMS)  # follow from others: nothing measures them
IN_TRAINING = "_training"  # ends the name of what a turn measured where an evaluation has the same
OURS = frozenset({*UPLOADED, *DERIVED, *ROUND_METRICS})  # no learner declares these
