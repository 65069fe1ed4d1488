"""Random calls, single and in chains, against a live service with a worker, validated against the OpenAPI document.

Every response has a status, media type, headers and schema that the document has for its call, and none is a 5xx.
`make contract` draws thousands of cases, the test suite about 200. GRADQ_CONTRACT_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.service import Service

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
FULL = os.environ.get("GRADQ_CONTRACT") == "full"
CASES, EXAMPLES, CHAINS = (3000, 40, 500) if FULL else (150, 1, 12)  # examples of each call; chains of several
PHASES = "examples,coverage,fuzzing,stateful" if FULL else "examples,fuzzing,stateful"
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)] if FULL else ["sqlite"]
DRAWS = """
[phases.fuzzing.generation]
max-examples = {examples}
[phases.stateful.generation]
max-examples = {chains}
"""


@pytest.fixture(params=DATABASES)
def crowded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A separate service, since hundreds of random jobs remain in it."""
    sqlite = request.param == "sqlite"
    environment = {} if sqlite else {"GRADQ_DATABASE_URL": request.getfixturevalue("postgres").database()}
    service = Service(tmp_path, environment).start()
    yield service
    service.close()


@pytest.mark.timeout(1800 if FULL else 300)
def test_every_response_conforms_to_the_document(crowded: Service, tmp_path: Path) -> None:
    first = crowded.submit(epochs=1, architecture="linear", gradients="manual")  # so that there is a finished job
    crowded.wait(first["id"])
    seed = int(os.environ.get("GRADQ_CONTRACT_SEED") or (random.randrange(2**32) if FULL else 1))
    config = tmp_path / "schemathesis.toml"
    config.write_text((HERE / config.name).read_text() + DRAWS.format(examples=EXAMPLES, chains=CHAINS))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", f"{str(crowded.http.base_url).rstrip('/')}/v1/openapi.json", "--phases", PHASES),
        *("--seed", str(seed), "--continue-on-failure", "--no-color"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    said = re.search(r"(\d+) generated", done.stdout)
    cases = int(said.group(1)) if said else 0
    print(f"{done.stdout}\nseed {seed}: {cases} cases")
    assert done.returncode == 0, done.stderr[-3000:]
    assert cases >= CASES
    assert crowded.http.get("/readyz").json()["workers"] == 1
    assert "request failed" not in crowded.log_of("api")
