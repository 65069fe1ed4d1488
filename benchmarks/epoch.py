"""One epoch of the article's two-layer network (784-30-10, batches of 64, lr 0.1, fp32) on MNIST's 60 000 images.

Claim: with manual gradients no slower than jax's compiled epoch, with autograd at most 0.6 of an eager PyTorch loop,
both at least 30 times as fast as a usual notebook's loop. Each contender gets one thread unless --threads says
otherwise, as a job of this size does: two threads spin while they wait for each other, which on a busy machine measures
other processes more than the code. (jax's flag for one thread does not restrict it to one core.) The other contenders,
all with PyTorch's initial distribution and over reshuffled data:

- `notebook`: torchvision's MNIST with ToTensor and Normalize for each image, DataLoader(shuffle=True), loss.item()
- `eager_tensors`: PyTorch over one tensor of all images: randperm, index, cross_entropy, SGD. A notebook's loop after
  profiling, and thus the fair comparison
- `scikit_learn`: MLPClassifier, one iteration of plain SGD, its own initial weights
- `jax`: a jitted lax.scan over the batches, compiled before the measurement starts; skipped if it is not installed

`ours` is the real loop: `train()` on the data of `datasets.prepare()`. Its seconds are those that it reports, which
include meter, events and progress and exclude evaluation. Loading and normalization happen before the measurement
starts, except for the notebook, which does both image by image. Each contender runs in its own process, so that
threads, heap or hooks of one do not slow another (jax adds a hook to the garbage collector, which the notebook
triggers often). They take turns, since the machine may be shared; ratios are medians over the rounds. `test_accuracy`
after the epoch shows that all train the same network.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.support import parser, publish, say, summary
from shared.config import Settings
from shared.datasets.catalog import DATASETS
from shared.errors import DataError
from shared.events import Event, Metric
from shared.spec.job_spec import JobSpec
from worker.trainer import device
from worker.trainer.data import built_in, datasets
from worker.trainer.data.datasets import Data
from worker.trainer.loop import train
from worker.trainer.nets.import_torchvision import import_torchvision
from worker.trainer.run import Run

CLAIM = (
    "an epoch of MNIST (784-30-10, batches of 64): by hand in no more than jax's compiled epoch, by autograd in at "
    "most 0.6 of an eager PyTorch loop over tensors, both at least 30 times as fast as a notebook's loop"
)
MOST_OF_JAX, MOST_OF_EAGER, LEAST_OF_NOTEBOOK = 1.0, 0.6, 30.0
STEADY = 1.5  # largest ratio of a contender's slowest round to its fastest for a verdict
HIDDEN, CLASSES, BATCH, LR = 30, 10, 64, 0.1
OURS = "ours_manual"


@dataclass(frozen=True)
class Epoch:
    seconds: float
    test_accuracy: float


@dataclass(frozen=True)
class Problem:
    """The same images for all contenders: flat (N,784) float32, normalized; labels (N) int64."""

    prepared: Data
    x: Tensor
    labels: Tensor
    test_x: Tensor
    test_labels: Tensor
    unpacked: Path  # the IDX files decompressed, as torchvision reads them


Contender = Callable[[Problem, int], Epoch]  # of a problem and a seed


# --- ours -------------------------------------------------------------------------------------------------------------


def spec_of(gradients: str, seed: int) -> JobSpec:
    return JobSpec.parse(
        {
            "dataset": "mnist",
            "architecture": {"type": "mlp", "hidden": [HIDDEN]},
            "gradients": gradients,
            "batch_size": BATCH,
            "lr": LR,
            "epochs": 1,
            "validation": "test",  # all 60 000 are trained on, as in the article
            "seed": seed,
            "device": "cpu",
        }
    )


def ours(gradients: str) -> Contender:
    def contend(problem: Problem, seed: int) -> Epoch:
        spec, points = spec_of(gradients, seed), []

        def report(event: Event) -> None:
            if isinstance(event, Metric) and event.series == "epoch":
                points.append(event.values)

        deterministic = torch.are_deterministic_algorithms_enabled()
        device.set_up(spec.seed, problem.prepared.device, torch.get_num_threads(), spec.deterministic)
        with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
            train(spec, problem.prepared, report, Run(Path(folder)))
        torch.use_deterministic_algorithms(deterministic)  # only `ours` pays for it
        [point] = points
        return Epoch(len(problem.x) / point["examples_per_second"], point["val_accuracy"])

    return contend


# --- the others -------------------------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def accuracy(model: nn.Module, problem: Problem) -> float:
    with torch.no_grad():
        return (model(problem.test_x).argmax(1) == problem.test_labels).float().mean().item()


def notebook(problem: Problem, seed: int) -> Epoch:
    torchvision: Any = import_torchvision()
    from torchvision import transforms

    torch.manual_seed(seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = torchvision.datasets.MNIST(root=str(problem.unpacked), train=True, transform=transform)
    loader = DataLoader(images, batch_size=BATCH, shuffle=True)
    model = net()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    running_loss = 0.0
    started = time.perf_counter()
    for x, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return Epoch(time.perf_counter() - started, accuracy(model, problem))


def eager_tensors(problem: Problem, seed: int) -> Epoch:
    torch.manual_seed(seed)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    started = time.perf_counter()
    for batch in torch.randperm(len(problem.x)).split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(model(problem.x[batch]), problem.labels[batch]).backward()
        optimizer.step()
    return Epoch(time.perf_counter() - started, accuracy(model, problem))


def scikit_learn(problem: Problem, seed: int) -> Epoch:
    from sklearn.neural_network import MLPClassifier

    plain_sgd = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0, "max_iter": 1}
    model = MLPClassifier((HIDDEN,), batch_size=BATCH, learning_rate_init=LR, random_state=seed, **plain_sgd)
    x, labels = problem.x.numpy(), problem.labels.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not converged after 1 iteration", as intended
        started = time.perf_counter()
        model.fit(x, labels)
        seconds = time.perf_counter() - started
    return Epoch(seconds, model.score(problem.test_x.numpy(), problem.test_labels.numpy()))


def jax_contender(problem: Problem) -> Contender:
    """Compiles once; each round is one call: 937 batches in the scan, the last 32 images after it."""
    jax: Any = importlib.import_module("jax")
    jnp = jax.numpy
    cpu = jax.devices("cpu")[0]
    x, labels = (jax.device_put(t.numpy(), cpu) for t in (problem.x, problem.labels.int()))
    whole = len(x) // BATCH * BATCH

    def loss(weights: Any, xb: Any, yb: Any) -> Any:
        (w1, b1), (w2, b2) = weights
        log_probs = jax.nn.log_softmax(jax.nn.relu(xb @ w1 + b1) @ w2 + b2)
        return -jnp.take_along_axis(log_probs, yb[:, None], 1).mean()

    def step(weights: Any, batch: Any) -> tuple[Any, Any]:
        value, grads = jax.value_and_grad(loss)(weights, x[batch], labels[batch])
        return jax.tree.map(lambda w, g: w - LR * g, weights, grads), value

    @jax.jit
    def epoch(weights: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x))
        weights, _ = jax.lax.scan(step, weights, order[:whole].reshape(-1, BATCH))
        return step(weights, order[whole:])[0]

    def layer(key: Any, features: int, out: int) -> tuple[Any, Any]:
        bound, (for_weight, for_bias) = features**-0.5, jax.random.split(key)
        weight = jax.random.uniform(for_weight, (features, out), minval=-bound, maxval=bound)
        return weight, jax.random.uniform(for_bias, (out,), minval=-bound, maxval=bound)

    def contend(problem: Problem, seed: int) -> Epoch:
        first, second, shuffle = jax.random.split(jax.random.key(seed), 3)
        weights = (layer(first, 784, HIDDEN), layer(second, HIDDEN, CLASSES))
        jax.block_until_ready(weights)
        started = time.perf_counter()
        (w1, b1), (w2, b2) = jax.block_until_ready(epoch(weights, shuffle))
        seconds = time.perf_counter() - started
        logits = jax.nn.relu(problem.test_x.numpy() @ w1 + b1) @ w2 + b2
        return Epoch(seconds, float((logits.argmax(1) == problem.test_labels.numpy()).mean()))

    return contend


# --- all contenders ---------------------------------------------------------------------------------------------------


def unpack(data_dir: Path, into: Path) -> None:
    """Copy the IDX files, decompressed: torchvision reads plain files only, gradq's data folder may hold .gz."""
    raw = into / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (data_dir / "MNIST" / "raw").glob("*.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    for plain in (data_dir / "MNIST" / "raw").glob("*-ubyte"):
        shutil.copy(plain, raw)


def prepare_problem(settings: Settings, unpacked: Path) -> Problem:
    data_dir = settings.datasets_dir
    prepared = datasets.prepare(spec_of("manual", seed=0), data_dir, settings.download, torch.device("cpu"))
    pixels = built_in.load(prepared.info, data_dir, download=False)
    x = prepared.normalization.apply(pixels.train_images).flatten(1)
    test_x = prepared.test_images.flatten(1)
    return Problem(prepared, x, pixels.train_labels, test_x, prepared.test_labels, unpacked)


CONTENDERS: dict[str, Callable[[Problem], Contender]] = {
    OURS: lambda _: ours("manual"),
    "ours_autograd": lambda _: ours("autograd"),
    "eager_tensors": lambda _: eager_tensors,
    "scikit_learn": lambda _: scikit_learn,
    "notebook": lambda _: notebook,
    "jax": jax_contender,
}


def run_contender(name: str, settings: Settings, folder: Path, threads: int, turns: Connection) -> None:
    """A contender's process: prepares, then trains one epoch for each seed received, until it receives None."""
    torch.set_num_threads(threads)
    if threads == 1:  # read by jax at import; its only settings are one thread or its own choice
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    with threadpool_limits(threads):  # scikit-learn's BLAS
        problem = prepare_problem(settings, folder)
        contend = CONTENDERS[name](problem)
        while (seed := turns.recv()) is not None:
            turns.send(contend(problem, seed))


@contextmanager
def contender_processes(names: list[str], settings: Settings, threads: int) -> Iterator[dict[str, Connection]]:
    """A process for each name; yields this end of the pipe to each."""
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        unpack(settings.datasets_dir, Path(folder))
        turns, processes = {}, []
        for name in names:
            turns[name], theirs = spawn.Pipe()
            process = spawn.Process(
                target=run_contender, args=(name, settings, Path(folder), threads, theirs), daemon=True
            )
            process.start()
            theirs.close()  # else the pipe would not close if the contender dies
            processes.append(process)
        yield turns
        for pipe in turns.values():
            pipe.send(None)
        for process in processes:
            process.join()


def main() -> None:
    options = parser(__doc__, "epoch")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    asked = options.parse_args()
    skipped = {} if importlib.util.find_spec("jax") else {"jax": "not installed"}
    settings = Settings.from_env()
    try:
        built_in.load(DATASETS["mnist"], settings.datasets_dir, settings.download)
    except DataError as error:
        say(error.detail)
        publish("epoch", CLAIM, {"skipped": {"all": "MNIST is not here"}}, save=False)
        return

    epochs: dict[str, list[Epoch]] = {}
    with contender_processes([name for name in CONTENDERS if name not in skipped], settings, asked.threads) as racing:
        for round_ in range(asked.rounds + 1):
            for name, turns in racing.items():
                turns.send(round_)  # also the seed
                epoch: Epoch = turns.recv()
                if round_ > 0:  # round 0 warms up: first calls, compilation
                    epochs.setdefault(name, []).append(epoch)
                say(f"round {round_}: {name} {epoch.seconds:.3f} s, test accuracy {epoch.test_accuracy:.4f}")

    seconds = {name: summary([e.seconds for e in of], digits=4) for name, of in epochs.items()}
    figures = {
        "rounds": asked.rounds,
        "threads": asked.threads,
        "seconds": seconds,
        "times_ours": {name: ratio(of, epochs[OURS]) for name, of in epochs.items()},
        "test_accuracy": {
            name: summary([e.test_accuracy for e in of], digits=4)["median"] for name, of in epochs.items()
        },
        "skipped": skipped,
        "jax_version": version("jax") if "jax" in epochs else None,
        "claim_holds": verdicts(epochs, seconds),
    }
    name = "epoch" if asked.threads == 1 else f"epoch-{asked.threads}-threads"
    publish(name, CLAIM, figures, asked.save)


def verdicts(epochs: dict[str, list[Epoch]], seconds: dict[str, dict[str, float]]) -> dict[str, bool | None]:
    """Each part of the claim. None: a contender is not installed, or its rounds differ so much that they depend on
    other processes more than on the code."""

    def held(ours: str, theirs: str, enough: Callable[[float], bool]) -> bool | None:
        both = [seconds[name] for name in (ours, theirs) if name in seconds]
        if len(both) < 2 or any(of["max"] > STEADY * of["min"] for of in both):
            return None
        return enough(ratio(epochs[theirs], epochs[ours]))

    return {
        "manual_and_jax": held(OURS, "jax", lambda times: times >= 1 / MOST_OF_JAX),
        "autograd_and_eager": held("ours_autograd", "eager_tensors", lambda times: times >= 1 / MOST_OF_EAGER),
        "manual_and_notebook": held(OURS, "notebook", lambda times: times >= LEAST_OF_NOTEBOOK),
        "autograd_and_notebook": held("ours_autograd", "notebook", lambda times: times >= LEAST_OF_NOTEBOOK),
    }


def ratio(theirs: list[Epoch], ours: list[Epoch]) -> float:
    """The median over rounds of theirs / ours: both ran in a round under about the same load of the machine."""
    return summary([t.seconds / o.seconds for t, o in zip(theirs, ours, strict=True)], digits=2)["median"]


if __name__ == "__main__":
    main()
