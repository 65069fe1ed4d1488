"""What the checks examine: this machine's settings, the `gradq up` in its state folder, the service at the URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy.engine import make_url

from gradq.client.environment import DEFAULT_URL, Target
from gradq.client.problems import InvalidSetting, through
from gradq.client.transport import options
from gradq.local.instance import holder_of
from shared.addresses import secrets_of
from shared.config import Settings

ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """The answer of one path of the API."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        found = self.body.get("data")
        return found if isinstance(found, list) else []


@dataclass(frozen=True)
class Targets:
    """What the checks examine. Each path of the API is requested once, when a check first needs it."""

    settings: Settings
    given_url: str | None  # of --url or GRADQ_URL
    token: str | None
    silence: dict[str, str] = field(default_factory=dict)  # path -> why there was no answer

    @cached_property
    def holder(self) -> str | None:
        """The `gradq up` that uses the state folder, with its pid and address; None if there is none."""
        return holder_of(self.settings.state_dir)

    @cached_property
    def url(self) -> str:
        """The given address, else that of the service in the state folder, else DEFAULT_URL."""
        found = re.search(r"https?://\S+", self.holder or "")
        return (self.given_url or (found[0] if found else DEFAULT_URL)).rstrip("/")

    @cached_property
    def target(self) -> Target:
        """The address, token and proxy. Raises InvalidSetting."""
        return Target.of(self.url, self.token)

    @property
    def wrong_setting(self) -> str | None:
        """Why the address, token, proxy or certificates cannot be used; None if they can."""
        try:
            _ = self.target
        except InvalidSetting as error:
            return str(error)
        return None

    @property
    def secrets(self) -> set[str]:
        """Texts that no finding may show."""
        found = self.settings.secrets | secrets_of(self.url) | ({self.token} if self.token else set())
        with suppress(InvalidSetting):
            found |= self.target.secrets
        return found

    @property
    def detour(self) -> str:
        """The proxy that requests go through, in words to be appended; empty for direct requests."""
        if self.wrong_setting is not None or self.target.proxy is None:
            return ""
        return through(str(self.target.proxy))

    @property
    def has_database(self) -> bool:
        """False if SQLite's file is missing; opening it would create it."""
        url = make_url(self.settings.database)
        return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()

    @cached_property
    def version(self) -> Answer | None:
        return self.ask("/v1/version")

    @cached_property
    def who(self) -> Answer | None:
        return self.ask("/v1/whoami") if self.answers else None

    @property
    def refusal(self) -> str | None:
        """The detail of the service's 401 or 403, if it requires a token or does not accept this one; else None."""
        found = self.version
        if found is None or found.status not in (401, 403) or "code" not in found.body:
            return None
        return str(found.body.get("detail"))

    @cached_property
    def readiness(self) -> Answer | None:
        return self.ask("/readyz") if self.answers else None

    @cached_property
    def workers(self) -> Answer | None:
        return self.ask("/v1/workers") if self.answers else None

    @cached_property
    def datasets(self) -> Answer | None:
        return self.ask("/v1/datasets") if self.answers else None

    @property
    def answers(self) -> bool:
        """Whether a gradq service answers at the address."""
        return self.version is not None and "api" in self.version.body

    def ask(self, path: str) -> Answer | None:
        """The answer to a GET, sent as the client sends it; None without one, with the reason in `silence`."""
        try:
            with httpx2.Client(**options(self.target, ANSWER_SECONDS)) as http:
                response = http.get(path)
        except InvalidSetting as error:
            self.silence[path] = str(error)
            return None
        except httpx2.HTTPError as error:
            self.silence[path] = f"{str(error) or type(error).__name__}{self.detour}"
            return None
        try:
            body = response.json()
        except ValueError:
            body = {}
        return Answer(response.status_code, body if isinstance(body, dict) else {}, dict(response.headers))
