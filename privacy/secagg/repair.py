"""Secrets restored although some holders reveal wrong shares, and those holders' names.

Shares of one secret are a Reed-Solomon word: of m shares with threshold t up to (m - t) / 2 may be
wrong (*A new algorithm for decoding Reed-Solomon codes*, S. Gao, Communications, Information and
Network Security 2003, https://doi.org/10.1007/978-1-4757-3789-9_5). Where that is too few, as with
six nodes, sets of holders are left out in turn until what the rest gives fits: the check block at
the end of every sum, and the public keys of who is gone, say which it is. A wrong share was dealt
so or revealed so; only several of them tell which (:func:`blamed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations, islice

from privacy.secagg.shamir import PRIME, SECRET_BYTES, combine

Shares = Mapping[int, Mapping[int, bytes]]  # owner -> holder's point -> share
Secrets = dict[int, bytes]
TRIES = 2000  # sets of holders that are left out before it is given up
WORK = 2_000_000  # ... and shares that are looked at in doing so, about
Pair = tuple[int, int]  # (owner, holder's point) of a share


class UnrestorableError(Exception):
    """No set of holders explains the shares; ``owners`` are those whose shares do not combine."""

    def __init__(self, owners: list[int]) -> None:
        super().__init__(f"the shares of members {owners} do not combine")
        self.owners = owners


def repaired(
    shares: Shares, threshold: int, fits: Callable[[Secrets], bool]
) -> tuple[Secrets, set[Pair]]:
    """The owners' secrets, and the shares that are wrong.

    Args:
        shares: of each owner, by the points of its holders.
        threshold: shares that restore a secret.
        fits: whether secrets are the right ones, all of them.

    Raises :class:`UnrestorableError` if no explanation fits.
    """
    found: Secrets = {}
    wrong: set[Pair] = set()
    broken = []
    for owner, given in shares.items():
        try:
            found[owner], bad = decode(given, threshold)
            wrong |= {(owner, place) for place in bad}
        except ValueError:
            broken.append(owner)
    if not broken and fits(found):
        return found, wrong
    if not broken and not wrong:  # nothing is wrong with the shares: it is something else
        raise UnrestorableError([])
    tries = min(TRIES, WORK // (len(shares) * threshold) + 1)
    for suspects in islice(_suspects(shares, threshold), tries):
        kept = {
            owner: {point: share for point, share in given.items() if point not in suspects}
            for owner, given in shares.items()
        }
        try:
            found = {owner: combine(given, threshold) for owner, given in kept.items()}
        except ValueError:
            continue
        if fits(found):
            return found, {
                (owner, place)
                for owner, given in shares.items()
                for place in _strangers(given, kept[owner], threshold)
            }
    raise UnrestorableError(broken)


def _strangers(
    given: Mapping[int, bytes], kept: Mapping[int, bytes], threshold: int
) -> Iterator[int]:
    """Points of the shares that do not lie on the polynomial of those that were kept."""
    points = sorted(kept)[:threshold]
    values = [int.from_bytes(kept[point], "big") % PRIME for point in points]
    polynomial = _interpolated(points, values)
    for point, share in given.items():
        if _value(polynomial, point) != int.from_bytes(share, "big") % PRIME:
            yield point


def blamed(pairs: Iterable[tuple[int, int]], dealt: str, held: str) -> dict[int, str]:
    """The members that explain faults between two members each, in as few names as there can be.

    One fault lies with one of two, whichever dealt. A member is named alone if every smallest set
    of
    members that explains all faults has it (one liar is part of all the faults it makes, so nobody
    honest is named beside it); of a fault that is left, both are named as the pair they are.

    Args:
        pairs: (dealer, holder) of each fault.
        dealt: what a holder has of a dealer.
        held: what a holder with several of them did.
    """
    faults = set(pairs)
    found: dict[int, str] = {}
    for member in sorted(_certain({frozenset(pair) for pair in faults})):
        holders = sorted(holder for dealer, holder in faults if dealer == member)
        dealers = sorted(dealer for dealer, holder in faults if holder == member)
        parts = [f"members {holders} hold {dealt} of it"] if holders else []
        parts += [f"{held} of members {dealers}"] if dealers else []
        found[member] = "; ".join(parts)
    certain = set(found)
    for one, other in sorted(faults):
        if not {one, other} & certain:
            what = f"is at fault: member {other} holds {dealt} of member {one}"
            found.setdefault(one, f"it or member {other} {what}")
            found.setdefault(other, f"it or member {one} {what}")
    return found


def _certain(edges: set[frozenset[int]]) -> set[int]:
    """Members that are in every smallest set that touches all ``edges``; of more than can be looked
    through, those that touch more edges than the others could explain."""
    members = sorted({member for edge in edges for member in edge})
    for size in range(1, len(members)):
        if math.comb(len(members), size) > TRIES:
            degree = {m: sum(m in edge for edge in edges) for m in members}
            return {m for m in members if degree[m] > size}
        covers = [
            set(chosen)
            for chosen in combinations(members, size)
            if all(edge & set(chosen) for edge in edges)
        ]
        if covers:
            return set.intersection(*covers)
    return set()


def _suspects(shares: Shares, threshold: int) -> Iterator[tuple[int, ...]]:
    """Sets of holders that can be left out, small ones first."""
    points = sorted({point for given in shares.values() for point in given})
    for count in range(1, len(points) - threshold + 1):
        yield from combinations(points, count)


def decode(shares: Mapping[int, bytes], threshold: int) -> tuple[bytes, set[int]]:
    """The secret, and the points whose shares are wrong.

    Raises ``ValueError`` if more than (m - t) / 2 of the m shares are, or there are too few.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    points = sorted(shares)
    values = [int.from_bytes(shares[point], "big") % PRIME for point in points]
    whole = [1]  # prod (x - point), lowest power first
    for point in points:
        whole = _product(whole, [-point % PRIME, 1])
    word, error = _euclid(whole, _interpolated(points, values), (len(points) + threshold) / 2)
    polynomial, rest = _divided(word, error)
    if any(rest) or len(polynomial) > threshold:
        raise ValueError("more shares are wrong than can be told from the others")
    wrong = {
        point
        for point, value in zip(points, values, strict=True)
        if _value(polynomial, point) != value
    }
    secret = polynomial[0] if polynomial else 0
    if 2 * len(wrong) > len(points) - threshold or secret >> (8 * SECRET_BYTES):
        raise ValueError("more shares are wrong than can be told from the others")
    return secret.to_bytes(SECRET_BYTES, "big"), wrong


# ---------------------------------------------------------------- polynomials, lowest power first
def _trimmed(values: list[int]) -> list[int]:
    while values and not values[-1]:
        values.pop()
    return values


def _product(one: list[int], other: list[int]) -> list[int]:
    found = [0] * (len(one) + len(other) - 1) if one and other else []
    for place, factor in enumerate(one):
        for offset, value in enumerate(other):
            found[place + offset] = (found[place + offset] + factor * value) % PRIME
    return _trimmed(found)


def _minus(one: list[int], other: list[int]) -> list[int]:
    longest = max(len(one), len(other))
    pairs = zip(one + [0] * (longest - len(one)), other + [0] * (longest - len(other)), strict=True)
    return _trimmed([(a - b) % PRIME for a, b in pairs])


def _divided(one: list[int], other: list[int]) -> tuple[list[int], list[int]]:
    """Quotient and remainder."""
    rest = list(one)
    quotient = [0] * max(len(one) - len(other) + 1, 0)
    inverse = pow(other[-1], -1, PRIME)
    for place in range(len(quotient) - 1, -1, -1):
        factor = rest[place + len(other) - 1] * inverse % PRIME
        quotient[place] = factor
        for offset, value in enumerate(other):
            rest[place + offset] = (rest[place + offset] - factor * value) % PRIME
    return _trimmed(quotient), _trimmed(rest)


def _value(polynomial: list[int], at: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * at + coefficient) % PRIME
    return value


def _interpolated(points: list[int], values: list[int]) -> list[int]:
    """The polynomial through all points, by Newton's divided differences."""
    differences = list(values)
    for order in range(1, len(points)):
        for place in range(len(points) - 1, order - 1, -1):
            step = pow(points[place] - points[place - order], -1, PRIME)
            differences[place] = (differences[place] - differences[place - 1]) * step % PRIME
    found: list[int] = []
    for place in range(len(points) - 1, -1, -1):
        found = _product(found, [-points[place] % PRIME, 1])
        found = _minus(found, [-differences[place] % PRIME])
    return found


def _euclid(one: list[int], other: list[int], degree: float) -> tuple[list[int], list[int]]:
    """The first remainder of lower degree than ``degree``, and its cofactor of ``other``."""
    cofactors: tuple[list[int], list[int]] = ([], [1])
    while other and len(other) - 1 >= degree:
        quotient, rest = _divided(one, other)
        one, other = other, rest
        cofactors = cofactors[1], _minus(cofactors[0], _product(quotient, cofactors[1]))
    return other, cofactors[1]
