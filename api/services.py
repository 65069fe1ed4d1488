"""The services that views use: settings, database, broker, artifact store. Made once per app, connected at first
use."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from shared.artifacts import ArtifactStore
from shared.broker import Broker
from shared.config import Settings
from shared.db.database import Database

EXTENSION = "gradq"
STORE_SECONDS = 15.0  # that a request waits for a response of the store


@dataclass(frozen=True)
class Services:
    settings: Settings
    database: Database
    broker: Broker
    store: ArtifactStore

    @classmethod
    def from_settings(cls, settings: Settings) -> Services:
        return cls(
            settings,
            Database(settings.database),
            Broker(settings.broker_url),
            ArtifactStore(settings.artifacts, STORE_SECONDS),
        )


def services() -> Services:
    """The services of the app that handles this request."""
    found: Services = current_app.extensions[EXTENSION]
    return found
