"""Who asks, and whether they may: found once a request, before its view.

A route names its scope where it stands, and one without is not served. Whatever has a job or a dataset in its path is
asked for by its owner or by an admin; for anybody else it is not there.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from flask import Flask, current_app, g, request
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.exc import DBAPIError

from api.access import auth_throttle
from api.services import services
from shared import tokens
from shared.config import Settings
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import DatabaseAway, InsufficientScope, NotFound, TokenInvalid, TokenMissing, UnknownHost
from shared.loopback import is_loopback_name
from shared.tokens import SCOPES, Scope

EXTENSION = "gradq.auth"
COOKIE = "gradq_token"
ADMIN, ADMIN_TOKEN_ID = "admin", "tok_admin"  # who GRADQ_ADMIN_TOKEN stands for; it is in no table

View = TypeVar("View", bound=Callable[..., object])
log = structlog.get_logger()
_owned_job = select(Job.id).where(Job.id == bindparam("id"), Job.owner == bindparam("owner"))


@dataclass(frozen=True)
class Principal:
    """Who asks. `owner` None: nobody by name. `token_id` None: no token was sent, or the route asks for none."""

    owner: str | None
    scopes: frozenset[Scope]
    token_id: str | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    @property
    def can_end(self) -> bool:
        """Whether it came with a token that may be revoked, or whose time may be over."""
        return self.token_id not in (None, ADMIN_TOKEN_ID)

    @property
    def owner_filter(self) -> str | None:
        """The owner whose jobs and datasets are there for this one; None: everybody's."""
        return None if self.may("admin") else self.owner


ANYBODY = Principal(None, frozenset(SCOPES))  # where no token is asked for
NOBODY = Principal(None, frozenset())  # where a route is open to all


class AccessPolicy:
    """What this app asks of those who come in."""

    def __init__(self, settings: Settings) -> None:
        self._anonymous, self._hosts = settings.allow_anonymous, settings.allowed_hosts
        self._admin = settings.admin_token
        self.on_loopback = False  # whether this machine alone can reach the API; the server knows

    @property
    def open_to_anybody(self) -> bool:
        return self.on_loopback if self._anonymous is None else self._anonymous

    def is_admin_token(self, text: str) -> bool:
        given = text.encode("utf-8", "surrogatepass")
        return self._admin is not None and hmac.compare_digest(self._admin.get_secret_value().encode(), given)

    def refuse_other_names(self, host: str) -> None:
        """A page can have its own name point to 127.0.0.1, and its browser then takes it for the same site."""
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._hosts or "*" in self._hosts or is_loopback_name(name):
                return
            if self._anonymous and not self._hosts:
                return  # anybody may come, under any name, by the word of whoever runs it
        raise UnknownHost(f"no service here is called {host[:200]!r}; name it in GRADQ_ALLOWED_HOSTS, or send a token")


def principal() -> Principal:
    """Who sent this request."""
    found: Principal = g.principal
    return found


def owner_filter() -> str | None:
    """The owner whose jobs and datasets are there for this request; None: everybody's."""
    return principal().owner_filter


def access_policy() -> AccessPolicy:
    found: AccessPolicy = current_app.extensions[EXTENSION]
    return found


# --- what a route asks for --------------------------------------------------------------------------------------------


def needs(scope: Scope | None) -> Callable[[View], View]:
    """For a view that has no contract. None: it is open to all."""

    def decorate(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]
        return view

    return decorate


def complete(app: Flask) -> None:
    """Refuse an app with a route that does not say who may call it."""
    for rule in app.url_map.iter_rules():
        scoped = hasattr(app.view_functions[rule.endpoint], "scope")
        assert scoped, f"{rule.rule} names no scope: give it one with @endpoint or @needs"


def _needed() -> Scope | None:
    """What no route answers, or Flask itself, is no way to learn which routes there are: that takes a token too."""
    endpoint = request.endpoint
    if endpoint is None or request.method == "OPTIONS":
        return "read"
    view: Any = current_app.view_functions[endpoint]
    scope: Scope | None = view.scope
    return scope


# --- who asks ---------------------------------------------------------------------------------------------------------


def identify() -> None:
    """Find out who asks, where the route asks for that: 401 without a good token."""
    g.principal = NOBODY if _needed() is None else _who()


def admit() -> None:
    """Let whoever asks in or refuse it: 403 without the scope, 404 for what is another's."""
    scope, found = _needed(), principal()
    if scope is None:
        return
    if not found.may(scope):
        detail = f"this token may {', '.join(s for s in SCOPES if found.may(s))}, and this takes the scope {scope}"
        raise InsufficientScope(detail, scope=scope)
    if found.owner_filter is not None:
        _refuse_anothers(found.owner_filter)


def _who() -> Principal:
    text, by_cookie = _sent()
    if text:
        try:
            return authenticate(text)
        except TokenInvalid:
            if not (
                by_cookie and access_policy().open_to_anybody
            ):  # a cookie knows no port: it may be another service's
                auth_throttle.count()
                raise
    if not access_policy().open_to_anybody:
        raise TokenMissing("send a token: Authorization: Bearer gq_…; `gradq token create` makes one")
    if "Host" in request.headers:  # every browser sends one
        access_policy().refuse_other_names(request.host)
    return ANYBODY


def _sent() -> tuple[str, bool]:
    """The token that came, and whether a browser sent it by itself."""
    given = request.headers.get("Authorization")
    if given is None:
        return request.cookies.get(COOKIE, ""), True
    kind, _, text = given.strip().partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise TokenInvalid("the Authorization header must read: Bearer gq_…")
    return text.strip(), False


def authenticate(text: str) -> Principal:
    """Who sent this token; raises Unauthenticated."""
    if access_policy().is_admin_token(text):
        return Principal(ADMIN, frozenset(SCOPES), ADMIN_TOKEN_ID)
    found = _look(lambda connection: tokens.find(connection, text))
    if found.stale:
        _note_use(found.id)
    return Principal(found.owner, frozenset(SCOPES[: SCOPES.index(found.scope) + 1]), found.id)


def is_still_good(who: Principal, database: Database) -> bool:
    """Asked for requests that are held open. A database that is away has revoked nothing."""
    if not who.can_end:
        return True
    try:
        with database.look() as connection:
            return tokens.is_good(connection, str(who.token_id))
    except DatabaseAway:
        return True


T = TypeVar("T")


def _look(question: Callable[[Connection], T]) -> T:
    try:
        with services().database.look() as connection:
            return question(connection)
    except DBAPIError as error:  # it answers, but holds no tables yet
        raise DatabaseAway(str(error.orig)) from error


def _note_use(token_id: str) -> None:
    try:
        with services().database.write() as session:
            tokens.note_use(session, token_id)
    except DatabaseAway as error:
        log.warning("a token's use was not noted", token_id=token_id, error=error.detail)


# --- what is whose ----------------------------------------------------------------------------------------------------


def _refuse_anothers(owner: str) -> None:
    """Another's job or dataset is refused as one that is not there is."""
    path = request.view_args or {}
    if (job_id := path.get("job_id")) is not None:
        row = (
            None if "\x00" in job_id else _look(lambda c: c.execute(_owned_job, {"id": job_id, "owner": owner}).first())
        )
        if row is None:
            raise NotFound(f"there is no job {job_id}")
    if (dataset_id := path.get("dataset_id")) is not None and dataset_id not in DATASETS:
        with services().database.read() as session:
            dataset_store.get(session, dataset_id, owner)
