"""The budget ledger: a crash is charged, a changed byte is found, a shorter ledger is refused."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import gaussian_epsilon
from privacy.budget.charge import Charging
from privacy.budget.ledger import Head, Ledger, read_entries
from privacy.budget.spent import Spent
from privacy.sampling import Sampler
from privacy.secagg.primitives import public_bytes
from privacy.witness import Witness, witness_text
from tasks.errors import InputError, StoppedError

DELTA = 1e-5


def charging(
    ledger: Ledger, limit: float = 100.0, sampling: str = "fixed", multiplier: float = 2.0
) -> Charging:
    sampler = Sampler(sampling, 0, 12, 0 if sampling == "fixed" else 4)
    return Charging(
        ledger, Spent.of(ledger.entries), sampler, multiplier, DELTA, limit, "run", "maml-0"
    )


def spend(folder: Path, rounds: int) -> None:
    ledger = Ledger(folder)
    charge = charging(ledger)
    for number in range(1, rounds + 1):
        charge.reserve(number)
        charge.sampled(charge.sampler.draw(number))
        charge.released(list(range(12)))
    ledger.close()


def test_rounds_compose_exactly(tmp_path: Path) -> None:
    spend(tmp_path, 5)
    spent = Spent.of(read_entries(tmp_path / "ledger.jsonl"))
    assert spent.charged == spent.released == 5 and spent.participations[3] == 5
    assert spent.headline(DELTA) == pytest.approx(gaussian_epsilon(5**0.5 / 2.0, DELTA))


def test_in_turns_a_client_pays_only_for_its_own_rounds(tmp_path: Path) -> None:
    charge = charging(Ledger(tmp_path), sampling="round-robin")
    for number in range(1, 7):  # 12 clients, 4 a round: each twice in 6 rounds
        charge.reserve(number)
        charge.sampled(charge.sampler.draw(number))
        charge.released([])
    assert set(charge.spent.participations.values()) == {2} and charge.sampler.most(6) == 2
    assert charge.spent.headline(DELTA) == pytest.approx(gaussian_epsilon(2**0.5 / 2.0, DELTA))


@pytest.mark.parametrize("sampling", ["fixed", "round-robin", "poisson"])
def test_it_stops_before_the_round_that_would_exceed_the_limit(
    tmp_path: Path, sampling: str
) -> None:
    """The limit lies exactly on k participations: round k of a client is allowed, its next one is
    not."""
    k = 3
    limit = gaussian_epsilon(k**0.5 / 2.0, DELTA) + 1e-9
    charge = charging(Ledger(tmp_path), limit, sampling)
    number = 0
    with pytest.raises(StoppedError, match="privacy budget"):  # noqa: PT012
        for number in range(1, 1000):
            charge.reserve(number)
            charge.sampled(charge.sampler.draw(number))
            charge.released([])
    assert charge.spent.headline(DELTA) <= limit
    assert max(charge.spent.participations.values()) == k
    if sampling != "poisson":
        assert number == k * charge.sampler.separation + 1
    assert charge.ledger.entries[-1]["type"] == "stop"


def _spend_until(folder: str, step: int) -> None:
    """A round with a SIGKILL after ``step`` of its steps."""
    charge = charging(Ledger(Path(folder)))
    steps = [
        lambda: charge.reserve(1),
        lambda: charge.sampled(charge.sampler.draw(1)),
        lambda: charge.witness(),
        lambda: charge.released([]),
    ]
    for done, action in enumerate(steps):
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        action()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("step", range(1, 5))
def test_a_process_killed_between_reserve_and_release_has_spent(tmp_path: Path, step: int) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=_spend_until, args=(str(tmp_path), step)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    ledger = Ledger(tmp_path)  # the next start
    spent = Spent.of(ledger.entries)
    assert spent.charged == 1 and spent.headline(DELTA) == pytest.approx(
        gaussian_epsilon(0.5, DELTA)
    )
    assert spent.released == (step == 4)


def test_an_unfinished_reserve_is_charged_to_everyone(tmp_path: Path) -> None:
    charge = charging(Ledger(tmp_path), sampling="round-robin")
    charge.reserve(1)  # crash: nobody knows who was drawn
    charge.ledger.close()
    charge = charging(Ledger(tmp_path), sampling="round-robin")
    charge.reserve(1)
    charge.sampled([0])
    assert charge.spent.square([7]) == pytest.approx(0.25) and charge.spent.square(
        [0]
    ) == pytest.approx(0.5)


@pytest.mark.parametrize("torn", [1, 10, 200])
def test_a_line_torn_by_a_crash_had_no_effect(tmp_path: Path, torn: int) -> None:
    spend(tmp_path, 2)
    file = tmp_path / "ledger.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole.split(b"\n")[1][:torn])
    ledger = Ledger(tmp_path)
    assert file.read_bytes() == whole and len(ledger.entries) == 7


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    spend(tmp_path, 2)
    file = tmp_path / "ledger.jsonl"
    good = file.read_bytes()
    assert len(read_entries(file)) == 7
    for place in range(len(good)):
        for flip in (1, 0x20, 0x80):
            file.write_bytes(good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :])
            with pytest.raises(InputError):
                read_entries(file)


def test_removed_swapped_or_repeated_lines_are_found(tmp_path: Path) -> None:
    spend(tmp_path, 2)
    file = tmp_path / "ledger.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for changed in (
        lines[:2] + lines[3:],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines, lines[-1]],
        lines[1:],
    ):
        file.write_bytes(b"".join(changed))
        with pytest.raises(InputError):
            read_entries(file)


def test_two_continuations_of_one_book_cannot_be_spliced(tmp_path: Path) -> None:
    """Each is well signed and numbered; a dear round of one replaced by a cheap one of the other
    breaks the chain."""
    Ledger(tmp_path / "a").close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ledgers = []
    for name, multiplier in (("a", 1.0), ("b", 9.0)):
        ledger = Ledger(tmp_path / name)
        ledger.append("reserve", run=name, multiplier=multiplier, rate=0.0)
        ledger.append("release", run=name, counted=12)
        ledger.close()
        ledgers.append(ledger.file.read_bytes().splitlines(keepends=True))
    dear, cheap = ledgers
    assert dear[0] == cheap[0] and len(dear) == len(cheap) == 3
    (tmp_path / "spliced.jsonl").write_bytes(dear[0] + cheap[1] + dear[2])
    with pytest.raises(InputError, match="does not follow the line before it") as caught:
        read_entries(tmp_path / "spliced.jsonl")
    assert "line 3" in str(caught.value)


def test_a_reserve_records_what_the_population_will_have_spent(tmp_path: Path) -> None:
    """Round k at z = 2 brings mu^2 to k/4, whoever was charged less: clients by turns, so every
    third round counts."""
    charge = charging(Ledger(tmp_path), sampling="round-robin")
    for number in range(1, 6):
        charge.reserve(number)
        charge.sampled(charge.sampler.draw(number))
        charge.released([])
    recorded = [
        entry["epsilon_after"] for entry in charge.ledger.entries if entry["type"] == "reserve"
    ]
    times = (1, 1, 1, 2, 2)
    assert recorded == pytest.approx([gaussian_epsilon(k**0.5 / 2.0, DELTA) for k in times])


def test_a_cheap_round_of_others_does_not_lower_what_was_spent() -> None:
    """Client 0 paid z = 1; a round of client 1 at z = 2 leaves the population where client 0 is."""
    spent = Spent.of(
        [{"type": "reserve", "multiplier": 1.0, "rate": 0.0}, {"type": "cohort", "clients": [0]}]
    )
    assert spent.after(2.0, [1], DELTA) == pytest.approx(gaussian_epsilon(1.0, DELTA))
    assert spent.after(2.0, [0], DELTA) == spent.after(2.0, None, DELTA)
    assert spent.after(2.0, [0, 1], DELTA) == pytest.approx(
        gaussian_epsilon(math.sqrt(1.0 + 0.25), DELTA)
    )


def test_a_shorter_or_other_book_is_refused_on_resume(tmp_path: Path) -> None:
    spend(tmp_path, 3)
    ledger = Ledger(tmp_path)
    head = ledger.head
    ledger.close()
    file = tmp_path / "ledger.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-2]))
    shorter = Ledger(tmp_path)
    with pytest.raises(InputError, match="ends at entry"):
        shorter.require(head)
    shorter.append("resume", run="again")
    shorter.append("reserve", multiplier=9.0, rate=0.0)
    with pytest.raises(InputError, match="another entry"):
        shorter.require(head)
    shorter.require(Head(1, _hash_of(file, 1)))


def test_what_belongs_to_the_people_cannot_change_from_run_to_run(tmp_path: Path) -> None:
    pins = {"clients": 12, "delta": 1e-5, "epsilon-max": 6.0, "data": "x"}
    Ledger(tmp_path, "town", pins).close()
    Ledger(tmp_path, "town", pins).close()
    for name, value in (("epsilon-max", 1000.0), ("delta", 0.5), ("clients", 13), ("data", "y")):
        with pytest.raises(InputError, match="opened with"):
            Ledger(tmp_path, "town", pins | {name: value})


def test_a_book_is_kept_where_no_folder_was_yet(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "people" / "town")
    ledger.append("config", run="a")
    assert len(read_entries(tmp_path / "people" / "town" / "ledger.jsonl")) == 2


def test_a_book_that_was_opened_and_is_gone_is_refused(tmp_path: Path) -> None:
    spend(tmp_path, 1)
    (tmp_path / "ledger.jsonl").unlink()
    with pytest.raises(InputError, match="what was spent is unknown"):
        Ledger(tmp_path)


@pytest.mark.parametrize("left", [b"", b'{"seq": 0, "ki'])
def test_a_book_that_was_emptied_is_refused(tmp_path: Path, left: bytes) -> None:
    ledger = Ledger(tmp_path)
    ledger.append("config", run="a")
    ledger.close()
    ledger.file.write_bytes(left)
    for _ in range(2):
        with pytest.raises(InputError, match="is empty although it was opened before"):
            Ledger(tmp_path)


def test_rounds_without_noise_are_on_record_and_cost_everything(tmp_path: Path) -> None:
    charge = charging(Ledger(tmp_path), multiplier=0.0)
    charge.reserve(1)
    charge.sampled([0, 1])
    charge.released([0, 1])
    assert charge.spent.headline(DELTA) == float("inf")
    assert read_entries(tmp_path / "ledger.jsonl")[-1]["epsilon"] is None


@pytest.mark.parametrize(("population", "per_round"), [(14, 6), (12, 4), (7, 3), (240, 60)])
def test_turns_are_as_equal_as_can_be_and_everybody_has_one(
    population: int, per_round: int
) -> None:
    sampler = Sampler("round-robin", 0, population, per_round)
    groups = [sampler.draw(number) for number in range(1, sampler.separation + 1)]
    assert sorted(client for group in groups for client in group) == list(range(population))
    sizes = {len(group) for group in groups}
    assert (
        max(sizes) - min(sizes) <= 1 and min(sizes) == sampler.smallest and max(sizes) <= per_round
    )
    assert groups[0] == sampler.draw(sampler.separation + 1)


def test_likely_participations_hold_for_all_clients_at_once() -> None:
    """Of 1000 clients at q = 0.1 in 50 rounds none exceeds k but for 5 %: each one may for 5 % of a
    thousandth."""
    sampler, rounds, q = Sampler("poisson", 0, 1000, 100), 50, 0.1
    mass = [math.comb(rounds, k) * q**k * (1 - q) ** (rounds - k) for k in range(rounds + 1)]
    within = {
        share: next(k for k in range(rounds) if sum(mass[k + 1 :]) <= share)
        for share in (0.05, 0.05 / 1000)
    }
    assert sampler.likely_most(rounds) == within[0.05 / 1000] > within[0.05]
    assert Sampler("round-robin", 0, 1000, 100).likely_most(rounds) == 5


def test_two_runs_cannot_write_one_book_at_once(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    with pytest.raises(InputError, match="another run"):
        Ledger(tmp_path)
    first.close()
    Ledger(tmp_path).close()


def test_nodes_notice_a_book_that_goes_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "server")
    early = ledger.witness()
    ledger.append("config", run="a")
    late = ledger.witness()
    node = Witness(tmp_path / "seen.json", ledger.public)
    node.see(late, 1.0)
    for shown in (early, late):  # a ledger that does not move charges nothing
        with pytest.raises(ValueError, match="went back"):
            node.see(shown, 1.0)
    with pytest.raises(ValueError, match="not signed"):
        node.see({**late, "seq": 5}, 1.0)
    with pytest.raises(
        ValueError, match="not that of the server"
    ):  # a second ledger beside the first
        node.see({**late, "ledger": "another"}, 1.0)
    stranger = Ed25519PrivateKey.generate()
    text = witness_text(ledger.id, 9, "0" * 64)
    forged = {
        "ledger": ledger.id,
        "seq": 9,
        "head": "0" * 64,
        "signature": stranger.sign(text).hex(),
    }
    with pytest.raises(ValueError, match="not signed"):
        node.see(forged, 1.0)
    assert public_bytes(stranger) != ledger.public


def test_a_node_counts_for_itself_whatever_book_it_is_shown(tmp_path: Path) -> None:
    """Invented heads, well signed: at z = 2 four rounds cost what one at z = 1 does, and there it
    ends."""
    key = Ed25519PrivateKey.generate()
    server, limit = public_bytes(key), gaussian_epsilon(1.0, 1e-5) + 1e-9
    node = Witness(tmp_path / "seen.json", server, limit, 1e-5)

    def shown(seq: int) -> dict[str, object]:
        text = witness_text(server.hex(), seq, "0" * 64)
        return {
            "ledger": server.hex(),
            "seq": seq,
            "head": "0" * 64,
            "signature": key.sign(text).hex(),
        }

    for seq in range(4):
        node.see(shown(seq), 2.0)
    with pytest.raises(ValueError, match="this node allows"):
        node.see(shown(4), 2.0)
    with pytest.raises(ValueError, match="this node allows"):
        Witness(tmp_path / "other.json", server, 1e9, 1e-5).see(
            shown(0), 0.0
        )  # noise forgotten costs everything


def _hash_of(file: Path, line: int) -> str:
    from privacy.budget.ledger import line_hash

    return line_hash(file.read_bytes().split(b"\n")[line])
