"""A typical script that trains MNIST with jax: only numpy and jax.

    python benchmarks/peers/jax_five_epochs.py FOLDER_OF_THE_IDX_FILES

784-30-10 with ReLU, plain SGD at 0.1, batches of 64, five jitted epochs, each a lax.scan over the batches. Prints the
test accuracy. start.py measures the whole process: imports, reading, compilation, training.
"""

import gzip
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

BATCH, LR, EPOCHS, HIDDEN = 64, 0.1, 5, 30


def read(folder: Path, name: str, start: int) -> np.ndarray:
    plain = folder / name
    raw = plain.read_bytes() if plain.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=start)


folder = Path(sys.argv[1])
images = read(folder, "train-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
tests = read(folder, "t10k-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
mean, std = images.mean(), images.std()
x, test_x = jnp.asarray((images - mean) / std), jnp.asarray((tests - mean) / std)
labels = jnp.asarray(read(folder, "train-labels-idx1-ubyte", 8).astype(np.int32))
test_labels = read(folder, "t10k-labels-idx1-ubyte", 8)
WHOLE = len(x) // BATCH * BATCH


def logits(weights, batch):
    (w1, b1), (w2, b2) = weights
    return jax.nn.relu(batch @ w1 + b1) @ w2 + b2


def loss(weights, batch, wanted):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits(weights, batch)), wanted[:, None], 1).mean()


def step(weights, index):
    grads = jax.grad(loss)(weights, x[index], labels[index])
    return jax.tree.map(lambda w, g: w - LR * g, weights, grads), None


@jax.jit
def epoch(weights, key):
    order = jax.random.permutation(key, len(x))
    weights, _ = jax.lax.scan(step, weights, order[:WHOLE].reshape(-1, BATCH))
    return step(weights, order[WHOLE:])[0]


def layer(key, features, out):
    bound, (for_weight, for_bias) = features**-0.5, jax.random.split(key)
    weight = jax.random.uniform(for_weight, (features, out), minval=-bound, maxval=bound)
    return weight, jax.random.uniform(for_bias, (out,), minval=-bound, maxval=bound)


first, second, *shuffles = jax.random.split(jax.random.key(0), 2 + EPOCHS)
weights = (layer(first, 784, HIDDEN), layer(second, HIDDEN, 10))
for key in shuffles:
    weights = epoch(weights, key)
print(float((np.asarray(logits(weights, test_x)).argmax(1) == test_labels).mean()))
