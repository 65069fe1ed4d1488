"""In which order requests are served, how many at once, and how many of one client."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from api.connections.turns import AT_ONCE, LONGEST_SECONDS, SHARE, Turns

MOST = int(SHARE * AT_ONCE)  # of one client, if others wait


def turns_of(requests: Iterable[str]) -> Turns[str]:
    """The first letter of a request is its client."""
    turns: Turns[str] = Turns()
    for request in requests:
        turns.add(request[0], request)
    return turns


def taken(turns: Turns[str], now: float = 0.0) -> list[str]:
    found = []
    while (request := turns.take(now)) is not None:
        found.append(request)
    return found


def many(client: str, number: int) -> list[str]:
    return [f"{client}{i}" for i in range(number)]


def test_requests_are_served_in_their_order_while_they_are_few():
    assert taken(turns_of(["a0", "b0", "a1"])) == ["a0", "b0", "a1"]


def test_a_client_has_its_share_while_others_wait():
    turns = turns_of([*many("a", 100), *many("b", 100)])
    assert sorted(taken(turns)) == [*many("a", MOST), *many("b", MOST)]


def test_a_client_alone_leaves_a_turn_to_the_next_one():
    turns = turns_of(many("a", 100))
    assert taken(turns) == many("a", AT_ONCE - 1)
    turns.add("b", "b0")
    turns.add("b", "b1")
    assert taken(turns) == ["b0"]
    turns.end("a0")
    assert taken(turns) == ["b1"]
    turns.end("a1")
    assert taken(turns) == [f"a{AT_ONCE - 1}"]


def test_all_clients_together_are_limited_too():
    turns = turns_of([f"{client}0" for client in "abcdefghijklmnop"])
    assert len(taken(turns)) == AT_ONCE
    turns.end("b0")
    assert len(taken(turns)) == 1
    turns.end("b0")  # again: nothing ends twice
    assert taken(turns) == []


def test_requests_that_take_long_are_counted_no_more():
    turns = turns_of(many("a", AT_ONCE))
    assert len(taken(turns, now=1.0)) == AT_ONCE - 1
    assert taken(turns, now=1.0 + 0.9 * LONGEST_SECONDS) == []
    assert turns.seconds_left(1.0 + 0.9 * LONGEST_SECONDS) == pytest.approx(0.1 * LONGEST_SECONDS)
    assert taken(turns, now=1.0 + LONGEST_SECONDS) == [f"a{AT_ONCE - 1}"]


def test_nobody_has_to_look_again_while_none_waits():
    turns = turns_of(["a0"])
    assert taken(turns) == ["a0"]
    assert turns.seconds_left(0.0) == math.inf
    assert turns.seconds_left(100.0) == math.inf


def test_nothing_is_left_of_requests_that_are_answered():
    turns = turns_of([*many("a", 20), *many("b", 20)])
    while found := taken(turns):
        for request in found:
            turns.end(request)
    assert (turns._waiting, turns._served, turns._shares) == ({}, {}, {})
