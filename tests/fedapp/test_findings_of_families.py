"""Every sentence of a report, where it holds and where it must not be printed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from findings_kit import ROW, said

from fedapp.config.designs import DESIGNS
from fedapp.report.families import TITLES
from fedapp.report.findings import findings, release_finding
from fedapp.report.geometry import NEAR, geometry_findings
from fedapp.report.head import head_findings
from fedapp.report.split import ALONE, split_findings
from fedapp.report.template import template_findings
from strategies.local import LOCAL

PLAIN: Any = SimpleNamespace(release="plain")
SUMS: Any = SimpleNamespace(release="secagg")


def texts(sentences: list[tuple[str, str]]) -> str:
    return "\n".join(f"{kind}: {text}" for kind, text in sentences)


# ------------------------------------------------------------------ fields
def fields(methods: dict[str, Any], **result: Any) -> str:
    whole = {"methods": methods, "release": "plain", "population": 4, "epsilon": None,
             "delta": 1e-5} | result  # fmt: skip
    return texts(findings(whole, TITLES, [0.1, 0.3]))


def test_fedmenf_is_held_against_maml_only_where_both_were_seen() -> None:
    ours = ROW | {"psnr_p": {"mean": 8.0, "n": 4}, "psnr": {"64": 25.0}}
    maml = ROW | {"psnr_p": {"mean": 20.0, "n": 4}, "psnr": {"64": 26.0}}
    assert "good: A server that renders" in fields({"fedmenf": ours, "maml": maml})
    assert "12.0 dB less" in fields({"fedmenf": ours, "maml": maml})
    assert "12.0 dB more" in fields({"fedmenf": maml, "maml": ours})
    assert "warning: A server that renders" in fields({"fedmenf": maml, "maml": ours})
    for unseen in ({"fedmenf": ours}, {"maml": maml},
                   {"fedmenf": ours, "maml": maml | {"psnr_p": None}}):  # fmt: skip
        assert "A server that renders each" not in fields(unseen)


@pytest.mark.parametrize(("chosen", "said_so"), [([0.3, 0.3], True), ([0.1], False), (None, False)])
def test_the_end_of_a_search_is_told_where_it_was_chosen(chosen: Any, said_so: bool) -> None:
    row = ROW | {"rates_tuned": {"16": [0.3], "64": chosen}}
    assert ("the largest step size searched" in fields({"maml": row})) is said_so
    one = findings({"methods": {"maml": row}, "release": "plain", "population": 4}, TITLES, [0.3])
    assert "largest step size" not in texts(one)  # nothing was searched


@pytest.mark.parametrize("seen", [2, 4])
def test_how_many_clients_were_seen_is_told_where_not_all_were(seen: int) -> None:
    row = ROW | {"psnr_p": {"mean": 10.0, "n": seen}}
    assert ("PSNR_p is over the 2 of 4" in fields({"maml": row})) is (seen == 2)


def test_what_rendering_bounds_is_said_of_uploads_in_the_clear_alone() -> None:
    assert "this run used the release" in texts(said(ROW))
    hidden = texts(said(ROW, release="secagg"))
    assert "It bounds nothing" not in hidden and "a sum without noise" in hidden


@pytest.mark.parametrize(("gain", "kind"), [(3.0, "good"), (-3.0, "warning")])
def test_a_gain_behind_a_release_is_held_against_no_federation(gain: float, kind: str) -> None:
    local = ROW | {"psnr": {"16": 20.0, "64": 25.0}, "psnr_p": None}
    trained = ROW | {"psnr": {"16": 20.0 + gain}}
    told = fields({"maml": trained, LOCAL: local}, release="secagg")
    assert f"{kind}: After 16 steps" in told and ("3.0 dB more" in told) is (gain > 0)
    assert "After 16 steps" not in fields({"maml": trained, LOCAL: local})  # plain: other numbers
    assert "After 16 steps" not in fields({"maml": trained}, release="secagg")


def test_a_start_that_helps_nowhere_does_not_adapt_and_one_that_fits_is_no_better() -> None:
    local = ROW | {"psnr_tuned": {"64": 28.0}, "psnr_unseen_tuned": {"64": 26.0}, "psnr_p": None}
    for fitted, unseen, verdict in (
        (28.5, 24.5, "is no better start here"),
        (26.0, 24.5, "does not adapt"),
        (26.0, 25.5, ""),  # behind where pixels are learned by heart alone
        (28.5, 25.5, ""),
    ):
        row = ROW | {"psnr_tuned": {"64": fitted}, "psnr_unseen_tuned": {"64": unseen}}
        told = fields({"maml": row, LOCAL: local})
        for sentence in ("is no better start here", "does not adapt"):
            assert (f"MAML {sentence}" in told) is (sentence == verdict), told


def test_a_promise_is_what_the_release_keeps() -> None:
    result = {"release": "secagg", "epsilon": None, "delta": None}
    assert "provable mode" in texts(release_finding(result | {"exact": True}))
    assert "provable mode" not in texts(release_finding(result))
    assert "No epsilon" in texts(release_finding(result))
    noised = {"release": "distributed-dp", "epsilon": 2.0, "delta": 1e-5}
    assert "No epsilon" not in texts(release_finding(noised))


# ------------------------------------------------------------------ talking heads
def test_a_mouth_is_praised_where_wrong_speech_is_not_as_good() -> None:
    row = {"mouth_corr": 0.9, "mouth_corr_shuffled": 0.1, "psnr": {"0": 29.0}, "psnr_static": 28.0}

    def told(row: dict[str, Any], **others: Any) -> str:
        return texts(head_findings({"methods": {"adapters": row, **others}}, TITLES, PLAIN))

    assert "good: On people nobody trained on" in told(row)
    assert "warning: On people" in told(row | {"mouth_corr_shuffled": 0.8})
    assert "On people nobody" not in told(row | {"mouth_corr": None})
    assert "backbone alone" not in told(row)
    assert "reaches 0.84" in told(row, local=row | {"mouth_corr": 0.84})
    curve = {"0": 0.2, "40": 0.05}
    style = row | {"personalised": {"mouth_error_reserved": curve}}
    assert "good: Speakers whose style" in told(style) and "(25% of before)" in told(style)
    slow = row | {"personalised": {"mouth_error_reserved": {"0": 0.2, "40": 0.1}}}
    assert "warning: Speakers whose style" in told(slow)
    assert "Speakers" not in told(row)
    assert "the server sees every client's shared adapter" in told(row)
    hidden = head_findings(
        {"methods": {}, "release": "secagg", "epsilon": None, "delta": None}, TITLES, SUMS
    )
    assert "the server sees every" not in texts(hidden)


# ------------------------------------------------------------------ heads, templates
def test_what_obscured_views_bring_follows_the_distances() -> None:
    distances = {"stage1": 20.0, "stage2": 8.0, "full_rgb": 7.0}
    faces = {name: {"chamfer_face": value} for name, value in distances.items()}
    told = texts(geometry_findings(faces, TITLES))
    assert "good: With obscured" in told and "0.40 times" in told and "good: It is 1.14" in told
    worse = faces | {"stage2": {"chamfer_face": 21.0}}
    told = texts(geometry_findings(worse, TITLES))
    assert "warning: With obscured" in told and "plain: It is 3.00 times" in told and NEAR < 3
    alone = texts(geometry_findings({"stage2": faces["stage2"]}, TITLES))
    assert "With obscured" not in alone and "It is" not in alone and "identify people" in alone
    assert geometry_findings({"stage2": {"chamfer_face": None}}, TITLES) == []


@pytest.mark.parametrize(("face", "kind"), [(15.0, "good"), (21.0, "warning")])
def test_a_template_is_held_against_the_public_one(face: float, kind: str) -> None:
    rows = {"erm": {"chamfer_face": face}, LOCAL: {"chamfer_face": 20.0}}
    assert template_findings(rows, TITLES)[0][0] == kind
    assert template_findings({"erm": rows["erm"]}, TITLES) == []
    assert template_findings({LOCAL: rows[LOCAL], "erm": {}}, TITLES) == []


# ------------------------------------------------------------------ split fields
def test_a_design_is_held_against_no_server_and_the_sealed_one_against_its_field() -> None:
    alone = ALONE[0]
    rows = {"split": {"psnr": 19.0}, "sealed": {"psnr": 21.0}, "unsplit": {"psnr": 21.5},
            alone: {"psnr": 20.0}}  # fmt: skip
    told = texts(split_findings(rows, TITLES))
    assert "SplitNeRF renders held-out views at 19.0 dB" in told and DESIGNS["split"].crosses
    assert "Sealed split renders held-out" not in told  # it is ahead of what sends nothing
    assert "good: The sealed table" in told and "the server's own features" in told
    far = texts(split_findings(rows | {"unsplit": {"psnr": 25.0}}, TITLES))
    assert "plain: The sealed table" in far
    without = {name: row for name, row in rows.items() if name not in ("split", alone, "unsplit")}
    assert split_findings(without, TITLES) == []
    ahead = texts(split_findings(rows | {"split": {"psnr": 20.5}}, TITLES))
    assert "SplitNeRF renders held-out" not in ahead
