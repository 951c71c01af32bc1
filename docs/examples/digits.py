"""Handwritten digits: a convolutional network whose fields say what they are.

`make demo` trains it on four fifths of scikit-learn's 1,797 scans, tests it on the rest
and draws `out/digits.png`.
"""

from pathlib import Path
from typing import Annotated, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import rich
from jax import lax, random
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import annotax as anx

# Running statistics are buffers that do change: a role of their own tells them apart.
T = TypeVar("T")
BatchStat = Annotated[T, anx.Role("batch_stat", parent=anx.Buffer)]


class Conv(anx.Module):  # with batch normalisation and a ReLU
    weight: anx.Param[Float[Array, "3 3 n_in n_out"]]
    scale: anx.Param[Float[Array, " n_out"]] = anx.field(tags=["no_decay"])
    shift: anx.Param[Float[Array, " n_out"]] = anx.field(tags=["no_decay"])
    mean: BatchStat[Float[Array, " n_out"]]
    var: BatchStat[Float[Array, " n_out"]]
    stride: anx.Hyper[int]
    rate: anx.Hyper[float] = 0.1

    def __init__(self, n_in, n_out, stride, key):
        self.weight = random.normal(key, (3, 3, n_in, n_out)) * (4.5 * n_in) ** -0.5
        self.scale, self.shift = jnp.ones(n_out), jnp.zeros(n_out)
        self.mean, self.var = jnp.zeros(n_out), jnp.ones(n_out)
        self.stride = stride

    def __call__(self, x, inference):
        by, dims = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, self.weight, by, "SAME", dimension_numbers=dims)
        mean, var = self.mean, self.var
        if not inference:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        x = self.scale * (x - mean) * lax.rsqrt(var + 1e-5) + self.shift
        # Nothing changes in place: the layer with its new statistics is a result, too.
        kept = optax.incremental_update([mean, var], [self.mean, self.var], self.rate)
        return jax.nn.relu(x), anx.replace(self, mean=kept[0], var=kept[1])


class Net(anx.Module):
    mean: anx.Buffer[Float[Array, "height width"]]
    std: anx.Buffer[Float[Array, "height width"]]
    convs: tuple[Conv, ...]  # no role of its own: what is inside keeps its roles
    weight: anx.Param[Float[Array, "features classes"]]
    bias: anx.Param[Float[Array, " classes"]] = anx.field(tags=["no_decay"])
    dropout: anx.Hyper[float] = 0.5
    inference: anx.Hyper[bool] = False

    def __init__(self, images, key):
        k1, k2, k3, k4 = random.split(key, 4)
        self.mean, self.std = images.mean(0), images.std(0) + 1  # some pixels are always 0
        self.convs = (Conv(1, 32, 1, k1), Conv(32, 64, 2, k2), Conv(64, 64, 2, k3))
        self.weight, self.bias = random.normal(k4, (256, 10)) / 16, jnp.zeros(10)

    def __call__(self, images, key=None):
        x, convs = ((images - self.mean) / self.std)[..., None], []
        for conv in self.convs:
            x, new = conv(x, self.inference)
            convs.append(new)
        x = x.reshape(len(x), 256)
        if not self.inference:
            keep = random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return x @ self.weight + self.bias, anx.replace(self, convs=tuple(convs))


def loss_fn(model, images, labels, key):
    logits, model = model(images, key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, anx.leaves(model, anx.by_role(BatchStat))


@jax.jit  # the plain one: Hypers are structure, all the rest is arrays
def train_step(model, opt_state, images, labels, key):
    pick, drop = random.split(key)
    batch = random.randint(pick, [32], 0, len(images))
    grad_fn = anx.value_and_grad(loss_fn, has_aux=True)
    (loss, statistics), grads = grad_fn(model, images[batch], labels[batch], drop)
    params = anx.params(model)
    updates, opt_state = tx.update(grads, opt_state, params)
    model = anx.update(model, optax.apply_updates(params, updates))
    return anx.update(model, statistics), opt_state, loss


digits = load_digits()
parts = train_test_split(digits.images, digits.target, test_size=0.2, random_state=0)
images, test_images, labels, test_labels = map(jnp.asarray, parts)
model = Net(images, random.key(0))
normaliser = anx.by_role(anx.Buffer) & ~anx.by_role(BatchStat)
before = [leaf.tobytes() for leaf in anx.leaves(model, normaliser).values()]

steps = 2000
schedule = optax.cosine_decay_schedule(2e-3, steps)
tx = optax.adamw(schedule, weight_decay=0.1, mask=~anx.by_tag("no_decay"))
opt_state = tx.init(anx.params(model))
losses = []
for key in track(random.split(random.key(1), steps), "training"):
    model, opt_state, loss = train_step(model, opt_state, images, labels, key)
    losses.append(float(loss))
guesses = anx.inference_mode(model)(test_images)[0].argmax(-1)
hits = guesses == test_labels

table = Table("role", "leaves", "elements", "trained", title="what annotax knows")
for role, trained in dict.fromkeys((r.role, r.trainable) for r in anx.records(model)):
    sizes = [r.size for r in anx.records(model) if (r.role, r.trainable) == (role, trained)]
    table.add_row(role.name, f"{len(sizes)}", f"{sum(sizes):,}", "yes" if trained else "no")
rich.print(table)
same = before == [leaf.tobytes() for leaf in anx.leaves(model, normaliser).values()]
print(f"normaliser after {steps:,} steps: {'the same bits' if same else 'CHANGED'}")
states = opt_state, tx.init(eqx.filter(model, eqx.is_inexact_array))
lean, full = (sum(x.nbytes for x in jax.tree.leaves(state)) for state in states)
print(f"optimizer state: {lean:,} bytes; for all float arrays: {full:,} bytes")
print(f"test accuracy: {hits.mean():.1%}, {hits.sum()} of {hits.size} scans")

figure = Figure(figsize=(12, 5.4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[2, 3])
curve = left.subplots()
smooth = jnp.convolve(jnp.array(losses), jnp.ones(50) / 50, "valid")
curve.semilogy(losses, color="0.85", lw=0.8)
curve.semilogy(range(49, steps), smooth, lw=2)
curve.set(xlabel="step", ylabel="loss", title="training loss, and its mean over 50 steps")
right.suptitle(f"guesses on {hits.size} test scans, the {(~hits).sum()} wrong ones first")
for axes, i in zip(right.subplots(6, 8).flat, hits.argsort(), strict=False):
    axes.imshow(test_images[i], cmap="gray_r")
    text = f"{guesses[i]}" if hits[i] else f"{guesses[i]}, not {test_labels[i]}"
    axes.set_title(text, color="black" if hits[i] else "red", fontsize=10)
    axes.axis("off")
Path("out").mkdir(exist_ok=True)
figure.savefig("out/digits.png", dpi=110)

if not same or hits.mean() < 0.97:
    raise SystemExit("expected an unchanged normaliser and an accuracy of 97 %")
