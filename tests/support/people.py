"""Tokens and clients of several owners, for a service that requires authentication."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update

from api.services import EXTENSION
from shared import tokens
from shared.db.database import Database
from shared.db.tables import Token
from shared.jobs.joblog import now
from shared.tokens import Scope


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def token_for(database: Database, owner: str, scope: Scope = "submit", name: str = "t") -> str:
    with database.write() as session:
        return tokens.create(session, name, owner, scope, None)[1]


def end(database: Database, token: str, **how: Any) -> None:
    """Set `revoked_at` or `expires_at` of a token."""
    with database.write() as session:
        session.execute(update(Token).where(Token.id == id_of(token)).values(**how))


def revoke(database: Database, token: str) -> None:
    with database.write() as session:
        tokens.revoke(session, id_of(token))


def expire(database: Database, token: str) -> None:
    end(database, token, expires_at=now() - timedelta(seconds=1))


def id_of(token: str) -> str:
    return f"tok_{token.split('_')[1]}"


def client_for(app: Flask, owner: str, scope: Scope = "submit", name: str = "t") -> FlaskClient:
    """A client that sends a token of this owner with each request."""
    client = app.test_client()
    token = token_for(app.extensions[EXTENSION].database, owner, scope, name)
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return client
