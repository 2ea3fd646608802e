"""Sentences are said where they hold, and not where they do not."""

from __future__ import annotations

from typing import Any

import pytest
from findings_kit import ROW, said

from fedapp.report.findings import AFFINE_MARGIN, USEFUL, attack_findings, findings
from strategies.settings import FedMeNFSettings, LearnerSettings


@pytest.mark.parametrize(
    ("fitted", "plain", "misleads"),
    [
        (14.0, 10.0, True),
        (12.0 + AFFINE_MARGIN + 0.01, 10.0, True),
        (12.0 + AFFINE_MARGIN - 0.01, 10.0, False),
        (
            11.0,
            10.0,
            False,
        ),  # no better than a constant colour however it is fitted: nothing is hidden in it
        (14.0, 13.0, False),  # PSNR_p itself says that there is something
    ],
)
def test_a_rendering_that_shows_more_than_psnr_p_says_is_pointed_out(
    fitted: float, plain: float, misleads: bool
) -> None:
    row = ROW | {"psnr_p_affine": {"mean": fitted}, "psnr_p": ROW["psnr_p"] | {"mean": plain}}
    found = [kind for kind, text in said(row) if "PSNR_p understates" in text]
    assert found == (["warning"] if misleads else [])


@pytest.mark.parametrize(
    ("method", "cap", "limited"),
    [("fedmenf", 0.1, True), ("fedmenf", 0.0, False), ("fedmenf-published", 0.1, False)],
)
def test_an_objective_below_zero_has_a_limit_where_it_is_bounded(
    method: str, cap: float, limited: bool
) -> None:
    settings = LearnerSettings(fedmenf=FedMeNFSettings(cap=cap))
    whole = {
        "methods": {method: ROW | {"objective_min": -0.05}}, "release": "plain", "population": 4,
        "epsilon": None, "delta": 1e-5,
    }  # fmt: skip
    text = " ".join(t for _, t in findings(whole, {method: "it"}, [], settings))
    assert "fell to -0.05" in text
    assert ("keeps it above -0.075" in text) == limited
    assert ("no lower limit" in text) != limited


@pytest.mark.parametrize(
    ("own", "outside", "verdict"), [(21.5, True, False), (20.9, True, True), (20.9, False, True)]
)
def test_where_a_field_renders_is_no_verdict_on_how_it_adapts(
    own: float, outside: bool, verdict: bool
) -> None:
    methods = {
        "local": ROW | {"psnr_unseen_tuned": {"64": 22.0}},
        "maml": ROW | {"psnr_unseen_tuned": {"0": 3.0, "64": own}, "outside_range": outside},
    }
    whole = {"methods": methods, "release": "plain", "population": 4, "epsilon": None,
             "delta": 1e-5}  # fmt: skip
    text = " ".join(t for _, t in findings(whole, {"local": "Local", "maml": "MAML"}, []))
    assert ("MAML renders outside the data range" in text) == outside
    assert ("MAML does not adapt" in text) == verdict
    assert "Local does not adapt" not in text


@pytest.mark.parametrize(
    ("epsilon", "kind"), [(0.5, "good"), (USEFUL, "good"), (USEFUL + 0.1, "warning")]
)
def test_a_large_epsilon_is_not_called_private(epsilon: float, kind: str) -> None:
    (found,) = [
        (kind, text)
        for kind, text in said(ROW, release="central-dp", epsilon=epsilon)
        if "epsilon" in text
    ]
    assert found[0] == kind and (f"epsilon {epsilon:.2f}" in found[1])
    assert ("not called private" in found[1]) == (kind == "warning")


def attacked(attack: str, release: str, value: float | None) -> dict[str, Any]:
    """A row of an attack's table; a constant colour scores 12 dB."""
    row = {"method": "maml", "metric": "psnr", "floor": 12.0, "n": 4}
    return row | {"attack": attack, "release": release, "value": value}


@pytest.mark.parametrize(
    ("plain", "masked", "noised", "kind"),
    [
        (12.5, 12.0, 11.0, "plain"),
        (12.5, 13.0, 13.0, "plain"),  # one dB above the constant colour shows nothing yet
        (13.1, 12.0, 12.0, "warning"),
        (12.5, 13.1, 12.0, "warning"),  # a later release that hides does not make up for it
        (12.5, 12.0, 13.1, "warning"),
        (12.5, 20.0, 20.0, "warning"),
    ],
)
def test_an_inversion_that_succeeds_on_any_release_is_a_warning(
    plain: float, masked: float, noised: float, kind: str
) -> None:
    rows = [
        attacked("render", "plain", 10.0),
        attacked("inversion", "plain", plain),
        attacked("inversion", "secagg (sum of 4)", masked),
        attacked("inversion", "distributed-dp", noised),
    ]
    ((found, text),) = attack_findings(rows, {"maml": "MAML"})
    assert found == kind
    assert f"inverting it {plain:.1f} dB" in text
    assert f" On secagg (sum of 4): {masked:.1f} dB." in text
    assert f" On distributed-dp: {noised:.1f} dB." in text


def test_nothing_is_said_of_an_inversion_without_a_rendering_to_compare_it_with() -> None:
    rows = [attacked("inversion", "plain", 20.0), attacked("render", "plain", None)]
    assert attack_findings(rows, {"maml": "MAML"}) == []


@pytest.mark.parametrize(
    ("local", "unseen", "told", "not_told"),
    [
        (
            {"1": 20.0, "64": 25.0},
            22.0,
            ["ahead after 1 steps, and behind the best of", "them is 1.0 dB"],
            ["quality"],
        ),
        ({"1": 20.0, "64": 31.0}, 22.0, ["saves steps, not quality", "1.0 dB ahead"], ["behind"]),
        (
            {"1": 20.0, "64": 31.0},
            24.0,
            ["saves steps, not quality", "Local is 1.0 dB ahead"],
            ["behind"],
        ),
        ({"1": 20.0, "64": 31.0}, 23.0, ["saves steps, not quality"], ["nobody fitted", "behind"]),
        ({"1": 10.0, "64": 25.0}, 22.0, [], ["ahead", "quality", "nobody fitted"]),
    ],
)
def test_what_is_said_of_local_follows_from_the_last_step_and_from_unseen_pixels(
    local: dict[str, float], unseen: float, told: list[str], not_told: list[str]
) -> None:
    own = ROW | {"psnr_tuned": {"0": 5.0, **local}, "psnr_unseen_tuned": {"64": unseen}}
    other = ROW | {
        "psnr_tuned": {"0": 5.0, "1": 15.0, "64": 30.0}, "psnr_unseen_tuned": {"64": 23.0}
    }  # fmt: skip
    whole = {"methods": {"local": own, "maml": other}, "release": "plain", "population": 4,
             "epsilon": None, "delta": 1e-5}  # fmt: skip
    text = " ".join(t for _, t in findings(whole, {"local": "Local", "maml": "MAML"}, []))
    assert all(part in text for part in told), text
    assert not any(part in text for part in not_told), text
