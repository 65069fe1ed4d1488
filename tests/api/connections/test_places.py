"""Places and the shares of callers."""

from __future__ import annotations

import threading

from support.waiting import wait_for

from api.connections.places import Places


def test_one_caller_leaves_room_for_others() -> None:
    places = Places(4)
    of_anna = [places.enter("anna", 0.5) for _ in range(3)]
    assert [leave is not None for leave in of_anna] == [True, True, False]
    assert [places.enter("bert", 0.5) is not None for _ in range(3)] == [True, True, False]
    assert of_anna[0] is not None
    of_anna[0]()
    assert places.enter("carl", 0.5) is not None


def test_every_share_has_a_place_if_there_is_any() -> None:
    assert Places(1).enter("anna", 0.25) is not None
    assert Places(0).enter("anna") is None


def test_places_of_some_weight_are_taken_and_given_back_together() -> None:
    places = Places(10)
    leave = places.enter("anna", 0.5, weight=5)
    assert leave is not None
    assert places.enter("anna", 0.5) is None
    assert places.enter("berta", weight=6) is None
    leave()
    assert places.in_use == 0


def test_who_waits_gets_the_place_that_becomes_free_and_one_caller_cannot_take_every_turn_to_wait() -> None:
    places = Places(1, waiting=2, seconds=60)
    leave = places.enter("anna")
    assert leave is not None
    served: list[str] = []

    def wait() -> None:
        mine = places.enter("anna")
        assert mine is not None
        served.append("anna")
        mine()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: places._waits["anna"], 60, "a request that waits")
    assert places.enter("anna") is None, "it waits although one of its caller's waits already"
    leave()
    thread.join(60)
    assert (served, places.in_use) == (["anna"], 0)


def test_a_wait_is_bounded() -> None:
    places = Places(1, waiting=2, seconds=0.01)
    assert places.enter("anna") is not None
    assert places.enter("berta") is None
