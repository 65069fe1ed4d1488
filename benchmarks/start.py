"""Five epochs of MNIST: gradq from the POST to the stored result, jax from the start of its process.

    GRADQ_DATA_DIR=… python -m benchmarks.start

The service runs and is idle, as in normal use; the job starts in its own process, reads the files, checks its
gradients, trains, evaluates on the validation and the test split and writes every artifact. The jax script
(`peers/jax_five_epochs.py`) imports, reads the same files, compiles, trains and evaluates once; it writes nothing. They
take turns. jax is skipped if it is not installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.support import parser, publish, say, service, summary, until_succeeded
from gradq import Client
from shared.config import Settings
from shared.datasets.catalog import DATASETS

CLAIM = "five epochs of MNIST (784-30-10, batches of 64) from POST to result are faster than jax from process start"
SPEC: dict[str, Any] = {
    "dataset": "mnist",
    "architecture": {"type": "mlp", "hidden": [30]},
    "gradients": "manual",
    "lr": 0.1,
    "epochs": 5,
    "batch_size": 64,
    "validation": "test",
    "device": "cpu",
}
JAX = Path(__file__).parent / "peers" / "jax_five_epochs.py"


def ours(client: Client, seed: int) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    job = client.submit({**SPEC, "seed": seed})
    until_succeeded(client, [job["id"]])
    return time.perf_counter() - started, client.job(job["id"])["result"]


def jax(folder: Path) -> tuple[float, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(JAX), str(folder)], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, float(done.stdout)


def main() -> None:
    options = parser(__doc__, "start")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument(
        "--slots", type=int, default=1, help="slots of the service; a job has as many threads as cores divided by slots"
    )
    asked = options.parse_args()
    settings, mnist = Settings.from_env(), DATASETS["mnist"]
    if mnist.missing_files(settings.datasets_dir):
        publish("start", CLAIM, {"skipped": {"all": "MNIST is not here"}}, save=False)
        return
    with_jax = importlib.util.find_spec("jax") is not None
    seconds: dict[str, list[float]] = {"ours": [], **({"jax": []} if with_jax else {})}
    accuracy: dict[str, list[float]] = {name: [] for name in seconds}
    training: list[float] = []
    with service("--slots", str(asked.slots), GRADQ_DATA_DIR=str(settings.datasets_dir)) as client:
        for round_ in range(asked.rounds + 1):
            took, result = ours(client, seed=round_)
            turns = {"ours": (took, result["test_accuracy"])}
            if with_jax:
                turns["jax"] = jax(settings.datasets_dir / (mnist.folder or ""))
            for name, (took, found) in turns.items():
                say(f"round {round_}: {name} {took:.2f} s, test accuracy {found:.4f}")
                if round_:  # round 0 warms up the disk cache for both
                    seconds[name].append(took)
                    accuracy[name].append(found)
            if round_:
                training.append(result["training_seconds"])
    figures: dict[str, Any] = {
        "rounds": asked.rounds,
        "seconds": {name: summary(of, digits=2) for name, of in seconds.items()},
        "ours_training_alone": summary(training, digits=2),
        "test_accuracy": {name: summary(of, digits=4)["median"] for name, of in accuracy.items()},
        "skipped": {} if with_jax else {"jax": "not installed"},
    }
    if with_jax:
        ratios = [theirs / mine for theirs, mine in zip(seconds["jax"], seconds["ours"], strict=True)]
        figures |= {"jax_times_ours": summary(ratios, digits=2), "claim_holds": summary(ratios)["median"] > 1}
    publish("start", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
