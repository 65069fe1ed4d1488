"""The services that views use: settings, database, broker, artifact store, check of the schema. Made once per app,
connected at first use."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from shared.artifacts import ArtifactStore
from shared.broker import Broker
from shared.config import Settings
from shared.db.database import Database
from shared.db.schema_check import SchemaCheck

EXTENSION = "gradq"
STORE_SECONDS = 15.0  # that a request waits for a response of the store


@dataclass(frozen=True)
class Services:
    settings: Settings
    database: Database
    broker: Broker
    store: ArtifactStore
    schema: SchemaCheck

    @classmethod
    def from_settings(cls, settings: Settings) -> Services:
        database, store = Database(settings.database), ArtifactStore(settings.artifacts, STORE_SECONDS)
        return cls(settings, database, Broker(settings.broker_url), store, SchemaCheck(database))


def services() -> Services:
    """The services of the app that handles this request."""
    found: Services = current_app.extensions[EXTENSION]
    return found
