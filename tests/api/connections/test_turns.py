"""In which order requests are served, how many at once, and how many of one client."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from api.connections.turns import AT_ONCE, LONGEST_SECONDS, SHARE, Turns

MOST = int(SHARE * AT_ONCE)  # of one client


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


def test_a_client_with_many_requests_leaves_turns_to_others():
    turns = turns_of([*many("a", 100), "b0", "b1"])
    assert taken(turns) == ["a0", "b0", "a1", "b1", *many("a", MOST)[2:]]
    turns.add("c", "c0")
    assert taken(turns) == ["c0"]


def test_all_clients_together_are_limited_too():
    turns = turns_of([f"{client}0" for client in "abcdefghijklmnop"])
    assert len(taken(turns)) == AT_ONCE
    turns.end("b0")
    assert len(taken(turns)) == 1
    turns.end("b0")  # again: nothing ends twice
    assert taken(turns) == []


def test_the_next_one_is_served_when_one_of_its_client_ends():
    turns = turns_of(many("a", MOST + 2))
    assert len(taken(turns)) == MOST
    turns.end("a1")
    assert taken(turns) == [f"a{MOST}"]


def test_requests_that_take_long_are_counted_no_more():
    turns = turns_of(many("a", MOST + 1))
    assert len(taken(turns, now=1.0)) == MOST
    assert taken(turns, now=1.0 + 0.9 * LONGEST_SECONDS) == []
    assert turns.seconds_left(1.0 + 0.9 * LONGEST_SECONDS) == pytest.approx(0.1 * LONGEST_SECONDS)
    assert taken(turns, now=1.0 + LONGEST_SECONDS) == [f"a{MOST}"]
    for i in range(MOST + 1):
        turns.end(f"a{i}")
    assert taken(turns_of(many("a", MOST))) == many("a", MOST)


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
