"""A small transformer, its training step, and where its axes lie on a mesh.

Stands apart because every check trains the same model: only mesh and rules differ.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import random
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

import annotax as anx

VOCAB, EMBED, HEADS, HEAD_DIM, MLP, LENGTH, BATCH = 64, 32, 4, 6, 48, 10, 16

NAMES = ("data", "tensor", "fsdp")

RULES = {
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
    # What the layers of equinox.nn call the same axes.
    "num_embeddings": "tensor",
    "embedding_size": "fsdp",
}


class Attention(anx.Module):
    query: anx.Param[Float[Array, "embed heads head_dim"]]
    key: anx.Param[Float[Array, "embed heads head_dim"]]
    value: anx.Param[Float[Array, "embed heads head_dim"]]
    out: anx.Param[Float[Array, "heads head_dim embed"]]

    def __init__(self, key):
        shape = (EMBED, HEADS, HEAD_DIM)
        keys = random.split(key, 4)
        self.query, self.key, self.value = (
            random.normal(key, shape) * EMBED**-0.5 for key in keys[:3]
        )
        self.out = random.normal(keys[3], (HEADS, HEAD_DIM, EMBED)) * EMBED**-0.5

    def __call__(self, x):
        query, key, value = (
            jnp.einsum("te,ehd->thd", x, w) for w in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("thd,shd->hts", query, key) * HEAD_DIM**-0.5
        scores = jnp.where(jnp.tri(len(x), dtype=bool), scores, -1e9)
        weights = jax.nn.softmax(scores)
        return jnp.einsum("hts,shd,hde->te", weights, value, self.out)


class FeedForward(anx.Module):
    up: anx.Param[Float[Array, "embed mlp"]]
    up_bias: anx.Param[Float[Array, " mlp"]] = anx.field(tags=["no_decay"])
    down: anx.Param[Float[Array, "mlp embed"]]
    down_bias: anx.Param[Float[Array, " embed"]] = anx.field(tags=["no_decay"])

    def __init__(self, key):
        k1, k2 = random.split(key)
        self.up = random.normal(k1, (EMBED, MLP)) * EMBED**-0.5
        self.up_bias = jnp.zeros(MLP)
        self.down = random.normal(k2, (MLP, EMBED)) * MLP**-0.5
        self.down_bias = jnp.zeros(EMBED)

    def __call__(self, x):
        return jax.nn.gelu(x @ self.up + self.up_bias) @ self.down + self.down_bias


class Block(anx.Module):
    first_norm: eqx.nn.LayerNorm
    attention: Attention
    second_norm: eqx.nn.LayerNorm
    feed_forward: FeedForward

    def __init__(self, key):
        k1, k2 = random.split(key)
        self.first_norm = eqx.nn.LayerNorm(EMBED)
        self.attention = Attention(k1)
        self.second_norm = eqx.nn.LayerNorm(EMBED)
        self.feed_forward = FeedForward(k2)

    def __call__(self, x):
        x = x + self.attention(jax.vmap(self.first_norm)(x))
        return x + self.feed_forward(jax.vmap(self.second_norm)(x))


class Transformer(anx.Module):
    """`head` is `None` where the embedding serves in both directions."""

    embedding: eqx.nn.Embedding
    positions: anx.Buffer[Float[Array, "length embed"]]
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: anx.Param[Float[Array, "embed vocab"] | None]
    activations: anx.Hyper[NamedSharding | None]

    def __init__(self, key, tied=False):
        keys = random.split(key, 4)
        self.embedding = eqx.nn.Embedding(VOCAB, EMBED, key=keys[0])
        angles = jnp.arange(LENGTH)[:, None] / 100 ** jnp.linspace(0, 1, EMBED // 2)
        self.positions = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        self.blocks = [Block(keys[1])]
        self.norm = eqx.nn.LayerNorm(EMBED)
        head = random.normal(keys[3], (EMBED, VOCAB)) * EMBED**-0.5
        self.head = None if tied else head
        self.activations = None

    def __call__(self, tokens):
        x = self.constrained(self.embedding.weight[tokens] + self.positions)
        for block in self.blocks:
            x = self.constrained(block(x))
        head = self.embedding.weight.T if self.head is None else self.head
        return jax.vmap(self.norm)(x) @ head

    def constrained(self, x):
        if self.activations is None:
            return x
        return jax.lax.with_sharding_constraint(x, self.activations)


# Adam divides by the size of a gradient. With a larger eps than usual, rounding in
# gradients that are almost zero stays rounding.
tx = optax.adamw(1e-2, eps=1e-4, weight_decay=0.1, mask=~anx.by_tag("no_decay"))


def loss_fn(model, tokens):
    logits = jax.vmap(model, spmd_axis_name=("data", "fsdp"))(tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return losses.mean()


def train_step(model, opt_state, tokens):
    params = anx.params(model)
    loss, grads = anx.value_and_grad(loss_fn)(model, tokens)
    updates, opt_state = tx.update(grads, opt_state, params)
    return anx.update(model, optax.apply_updates(params, updates)), opt_state, loss


def make_mesh(shape, names=NAMES):
    """A mesh whose axes are left to the partitioner, in every version of JAX."""
    devices = jax.devices()[: math.prod(shape)]
    auto = (AxisType.Auto,) * len(names)
    return jax.make_mesh(shape, names, axis_types=auto, devices=devices)


def make_batches(count=5):
    """Tokens that count up from a random start: there is something to learn."""
    start = random.randint(random.key(7), (count, BATCH, 1), 0, VOCAB)
    return (start + jnp.arange(LENGTH + 1)) % VOCAB


def batch_sharding(mesh):
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def train(step, model, opt_state, batches):
    """As many steps as there are batches: model, state, losses."""
    losses = []
    for tokens in batches:
        model, opt_state, loss = step(model, opt_state, tokens)
        losses.append(float(loss))
    return model, opt_state, losses
