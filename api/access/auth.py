"""Authentication and authorization, once per request, before the view runs.

Each route declares the scope that it requires; an app with a route that does not is refused at its start. A route with
a job or a dataset in its path is open to the owner and to admins; for other tokens the job or dataset does not exist.
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
from api.access.token_uses import RecentTokens, TokenUses
from api.services import services
from shared import tokens
from shared.config import Settings
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import (
    DatabaseAway,
    FieldError,
    InsufficientScope,
    InvalidSpec,
    NotFound,
    TokenInvalid,
    TokenMissing,
    Unauthenticated,
    UnknownHost,
)
from shared.loopback import is_loopback_name
from shared.tokens import SCOPES, Scope

EXTENSION = "gradq.auth"
COOKIE = "gradq_token"
USE_WAIT_SECONDS = 0.1  # for other writers, after which a request does not record that its token was used
ADMIN, ADMIN_TOKEN_ID = "admin", "tok_admin"  # owner and id of GRADQ_ADMIN_TOKEN, which has no row

View = TypeVar("View", bound=Callable[..., object])
log = structlog.get_logger()
_owned_job = select(Job.id).where(Job.id == bindparam("id"), Job.owner == bindparam("owner"))


@dataclass(frozen=True)
class Principal:
    """The caller of a request. `owner` None: anonymous. `token_id` None: no token was sent, or the route requires
    none. `max_priority` None: the caller may give jobs any priority."""

    owner: str | None
    scopes: frozenset[Scope]
    token_id: str | None = None
    max_priority: int | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    @property
    def can_end(self) -> bool:
        """Whether the caller has a token that can be revoked or expire."""
        return self.token_id not in (None, ADMIN_TOKEN_ID)

    @property
    def owner_filter(self) -> str | None:
        """The owner whose jobs and datasets this caller can access; None: those of all owners."""
        return None if self.may("admin") else self.owner


ANONYMOUS = Principal(None, frozenset(SCOPES))  # the service requires no token
UNIDENTIFIED = Principal(None, frozenset())  # the route requires no token


class AccessPolicy:
    """Whether this app requires tokens, the host names that it accepts without one, and what it remembers of tokens."""

    def __init__(self, settings: Settings) -> None:
        self._anonymous, self._hosts = settings.allow_anonymous, settings.allowed_hosts
        self._admin = settings.admin_token
        self.uses = TokenUses(tokens.USED_EVERY.total_seconds())
        self.recent: RecentTokens[Principal] = RecentTokens()  # of the views that `accept_recent_tokens` decorates
        self.on_loopback = False  # whether the API is reachable from this machine only; set by the server

    @property
    def allows_anonymous(self) -> bool:
        return self.on_loopback if self._anonymous is None else self._anonymous

    def is_admin_token(self, text: str) -> bool:
        given = text.encode("utf-8", "surrogatepass")
        return self._admin is not None and hmac.compare_digest(self._admin.get_secret_value().encode(), given)

    def check_host(self, host: str) -> None:
        """Refuse unknown host names, against DNS rebinding: a site can let its own name resolve to 127.0.0.1, and
        browsers then take this service for the same site. Raises UnknownHost."""
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._hosts or "*" in self._hosts or is_loopback_name(name):
                return
            if self._anonymous and not self._hosts:
                return  # the operator allows anonymous access and set no host list
        raise UnknownHost(f"unknown host name {host[:200]!r}; add it to GRADQ_ALLOWED_HOSTS, or send a token")


def principal() -> Principal:
    """The caller of this request."""
    found: Principal = g.principal
    return found


def owner_filter() -> str | None:
    """The owner whose jobs and datasets this request can access; None: those of all owners."""
    return principal().owner_filter


def check_priority(priority: int, error: type[InvalidSpec] = InvalidSpec) -> None:
    """Raise `error`, which names the field, if the caller's token does not allow jobs of this priority."""
    most = principal().max_priority
    if most is not None and priority > most:
        detail = (
            f"is {priority}, and this token allows at most {most}; lower it, or ask the operator for a token made with "
            "`gradq token create --max-priority`"
        )
        raise error([FieldError("/priority", "above_token_limit", detail)])


def access_policy() -> AccessPolicy:
    found: AccessPolicy = current_app.extensions[EXTENSION]
    return found


# --- the scope of a route ---------------------------------------------------------------------------------------------


def needs(scope: Scope | None) -> Callable[[View], View]:
    """Decorator of a view without a contract: the scope that it requires; None: it requires no token."""

    def decorate(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]
        return view

    return decorate


def accept_recent_tokens(view: View) -> View:
    """Decorator of a view that reports whether the database is away: while it is, a token is accepted with which this
    view was called, and which was valid, within the last hour. `without_database` is then True."""
    view.accepts_recent_tokens = True  # type: ignore[attr-defined]
    return view


def without_database() -> bool:
    """Whether the caller of this request was found in memory, since the database is away."""
    return bool(g.get("without_database", False))


def complete(app: Flask) -> None:
    """Assert that each route of the app declares a scope."""
    for rule in app.url_map.iter_rules():
        scoped = hasattr(app.view_functions[rule.endpoint], "scope")
        assert scoped, f"{rule.rule} has no scope: declare it with @endpoint or @needs"


def _needed() -> Scope | None:
    """The scope that this request requires. Unknown paths and OPTIONS require `read`, so that routes cannot be
    enumerated without a token."""
    endpoint = request.endpoint
    if endpoint is None or request.method == "OPTIONS":
        return "read"
    view: Any = current_app.view_functions[endpoint]
    scope: Scope | None = view.scope
    return scope


# --- the caller -------------------------------------------------------------------------------------------------------


def identify() -> None:
    """Set the request's principal. Raises Unauthenticated without a valid token, if the route requires one."""
    g.principal = UNIDENTIFIED if _needed() is None else _caller()


def authorize() -> None:
    """Raises InsufficientScope without the route's scope, and NotFound for another owner's job or dataset."""
    scope, found = _needed(), principal()
    if scope is None:
        return
    if not found.may(scope):
        detail = f"this call requires the scope {scope}; the token has {', '.join(s for s in SCOPES if found.may(s))}"
        raise InsufficientScope(detail, scope=scope)
    if found.owner_filter is not None:
        _check_owner(found.owner_filter)


def _caller() -> Principal:
    text, by_cookie = _sent_token()
    if text:
        try:
            return authenticate(text)
        except TokenInvalid:
            # cookies ignore the port, so this one may be another service's
            if not (by_cookie and access_policy().allows_anonymous):
                auth_throttle.count()
                raise
    if not access_policy().allows_anonymous:
        raise TokenMissing("send a token: Authorization: Bearer gq_…; `gradq token create` makes one")
    if "Host" in request.headers:  # every browser sends one
        access_policy().check_host(request.host)
    return ANONYMOUS


def _sent_token() -> tuple[str, bool]:
    """The token of the request, or an empty text, and whether it is from the cookie."""
    given = request.headers.get("Authorization")
    if given is None:
        return request.cookies.get(COOKIE, ""), True
    kind, _, text = given.strip().partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise TokenInvalid("the Authorization header must have the form: Bearer gq_…")
    return text.strip(), False


def authenticate(text: str) -> Principal:
    """The owner and scopes of a token. Raises TokenInvalid, TokenExpired or TokenRevoked, and DatabaseAway."""
    if access_policy().is_admin_token(text):
        return Principal(ADMIN, frozenset(SCOPES), ADMIN_TOKEN_ID)
    if request.endpoint is None or not hasattr(current_app.view_functions[request.endpoint], "accepts_recent_tokens"):
        return _in_database(text)
    recent = access_policy().recent
    try:
        caller = _in_database(text)
    except DatabaseAway:
        if (known := recent.find(text)) is None:
            raise
        g.without_database = True
        return known
    except Unauthenticated:
        recent.forget(text)
        raise
    recent.remember(text, caller)
    return caller


def _in_database(text: str) -> Principal:
    found = _query(lambda connection: tokens.find(connection, text))
    if found.stale and access_policy().uses.is_due(found.id):
        _note_use(found.id)
    scopes = frozenset(SCOPES[: SCOPES.index(found.scope) + 1])
    return Principal(found.owner, scopes, found.id, found.max_priority)


def is_still_valid(who: Principal, database: Database) -> bool:
    """Whether the token of a held request is neither expired nor revoked. True while the database is unreachable."""
    if not who.can_end:
        return True
    try:
        with database.look() as connection:
            return tokens.is_good(connection, str(who.token_id))
    except DatabaseAway:
        return True


T = TypeVar("T")


def _query(run: Callable[[Connection], T]) -> T:
    try:
        with services().database.look() as connection:
            return run(connection)
    except DBAPIError as error:  # reachable, but without tables yet
        raise DatabaseAway(str(error.orig)) from error


def _note_use(token_id: str) -> None:
    try:
        with services().database.write(USE_WAIT_SECONDS) as session:
            tokens.note_use(session, token_id)
    except DatabaseAway as error:
        log.warning("the last use of a token was not recorded", token_id=token_id, error=error.detail)


# --- ownership --------------------------------------------------------------------------------------------------------


def _check_owner(owner: str) -> None:
    """Raise NotFound for another owner's job or dataset, with the same message as for one that does not exist."""
    path = request.view_args or {}
    if (job_id := path.get("job_id")) is not None:
        row = None
        if "\x00" not in job_id:
            row = _query(lambda c: c.execute(_owned_job, {"id": job_id, "owner": owner}).first())
        if row is None:
            raise NotFound(f"job {job_id} not found")
    if (dataset_id := path.get("dataset_id")) is not None and dataset_id not in DATASETS:
        with services().database.read() as session:
            dataset_store.get(session, dataset_id, owner)
