"""Who a request is counted for before it is served."""

from __future__ import annotations

import pytest

from api.connections import clients
from api.connections.clients import Clients


def test_claims_count_for_the_address_until_a_request_was_served_with_them():
    known = Clients()
    assert known.find(b"Bearer a", "10.0.0.1") == known.find(b"Bearer b", "10.0.0.1") == known.find(b"", "10.0.0.1")
    known.learn(b"Bearer a", "anna")
    known.learn(b"bearer  a", "anna")  # written in another way
    assert known.find(b"Bearer a", "10.0.0.1") == known.find(b"bearer  a", "10.0.0.2")
    assert known.find(b"Bearer a", "10.0.0.1") != known.find(b"Bearer b", "10.0.0.1")


def test_an_owner_is_no_address():
    known = Clients()
    known.learn(b"Bearer a", "10.0.0.1")
    assert known.find(b"Bearer a", "10.0.0.1") != known.find(b"", "10.0.0.1")


def test_requests_without_credentials_teach_nothing():
    known = Clients()
    known.learn(b"", "anna")
    assert known.find(b"", "10.0.0.1") == "10.0.0.1"


def test_those_that_were_used_last_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clients, "MOST", 2)
    known = Clients()
    known.learn(b"a", "anna")
    known.learn(b"b", "berta")
    known.find(b"a", "")
    known.learn(b"c", "carla")
    assert [known.find(name, "address") == "address" for name in (b"a", b"b", b"c")] == [False, True, False]
