"""Places and the shares of callers."""

from __future__ import annotations

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
