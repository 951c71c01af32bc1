"""Threads that declare, construct, lay out, freeze, adopt and register at once.

Where two threads could get in each other's way, one is held just there while the other
runs. The last test lets many of them run as they like.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

import annotax as anx
from annotax import _specs, _traverse, _variant, _view
from annotax._registry import registry

PATIENCE = 60  # seconds until a thread that waits for ever fails its test


@pytest.fixture(autouse=True)
def switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def wait(event):
    assert event.wait(PATIENCE), "the other thread never came"


def in_another_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(PATIENCE)


# --- variants ------------------------------------------------------------------------


class MissSignal(dict):
    """Tells when this many look-ups have found nothing."""

    def __init__(self, misses):
        super().__init__()
        self.left, self.reached = misses, threading.Event()

    def get(self, key, default=None):
        found = super().get(key, default)
        if found is None:
            self.left -= 1
            if self.left == 0:
                self.reached.set()
        return found


def make_while_another_asks(monkeypatch, model):
    """Two threads freeze a model; the variant is made when both have found none."""
    made = MissSignal(misses=3)  # before the lock and in it; the second one before it
    calls = []
    make = _variant._make

    def slow(wanted):
        calls.append(wanted)
        wait(made.reached)
        return make(wanted)

    monkeypatch.setattr(_variant, "_made", made)
    monkeypatch.setattr(_variant, "_make", slow)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(anx.freeze, model, anx.everything) for _ in range(2)]
    return calls, asked


def test_two_threads_that_want_the_same_variant_get_the_same_class(monkeypatch):
    class Layer(anx.Module):
        weight: anx.Param[Any]

    calls, asked = make_while_another_asks(monkeypatch, Layer(jnp.ones(2)))
    one, other = (future.result() for future in asked)
    assert len(calls) == 1
    assert type(one) is type(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)


def test_a_variant_that_cannot_be_made_is_tried_once(monkeypatch):
    tried = []

    class Final(type(eqx.Module)):
        def __new__(mcs, name, bases, namespace):
            if any(isinstance(base, Final) for base in bases):
                tried.append(name)
                raise TypeError("no subclasses")
            return super().__new__(mcs, name, bases, namespace)

    class Layer(eqx.Module, metaclass=Final):
        weight: Any

    _, asked = make_while_another_asks(monkeypatch, Layer(jnp.ones(2)))
    for future in asked:
        with pytest.raises(anx.AnnotationError, match="cannot be subclassed"):
            future.result()
    assert tried == ["Layer"]


# --- layouts -------------------------------------------------------------------------


class Announcing:
    """A lock that tells when a thread comes to it."""

    def __init__(self, lock, reached):
        self.lock, self.reached = lock, reached

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            self.reached.set()
        return self.lock.__enter__()

    def __exit__(self, *exception):
        return self.lock.__exit__(*exception)


class Interrupted(dict):
    """While its first or last key is looked up, another thread gets as far as it can."""

    def __init__(self, interrupt):
        super().__init__()
        self.interrupt = interrupt

    def __iter__(self):
        keys = super().__iter__()
        self.interrupt()
        return keys

    def __reversed__(self):
        keys = super().__reversed__()
        self.interrupt()
        return keys


def test_a_layout_is_stored_while_another_one_is_dropped(monkeypatch):
    cache, reached = _view._LayoutCache(), threading.Event()
    x, others = jnp.ones(1), []

    def interrupt():
        if threading.current_thread() is threading.main_thread() and not others:
            others.append(threading.Thread(target=visit))
            others[0].start()
            wait(reached)

    def visit():
        _view.view([x] * 3)
        reached.set()

    cache._lock = Announcing(cache._lock, reached)
    cache._state = (registry.version, Interrupted(interrupt))
    monkeypatch.setattr(_view, "_cache", cache)
    monkeypatch.setattr(_view, "_CACHED_HASHES", 1)
    for count in (1, 2):
        _view.view([x] * count)
    others[0].join(PATIENCE)
    assert len(cache._state[1]) == 1


def test_a_registration_while_a_layout_is_made_is_seen_by_the_next(monkeypatch):
    class Table(eqx.Module):
        first: Any
        second: Any

    class Model(eqx.Module):
        tables: list[Table]

    field_specs = _traverse.field_specs
    seen = []

    def specs(cls):
        found = field_specs(cls)
        seen.append(cls)
        if seen.count(Table) == 1 and cls is Table:  # between the two tables
            in_another_thread(lambda: anx.register(Table, first=anx.Buffer))
        return found

    model = Model([Table(jnp.ones(1), jnp.ones(1)) for _ in range(2)])
    monkeypatch.setattr(_traverse, "field_specs", specs)
    anx.trainable_filter.paths(model)
    assert anx.trainable_filter.paths(model) == ("tables.0.second", "tables.1.second")
    assert anx.by_role(anx.Buffer).count(model) == 2


def test_a_registration_while_specs_are_made_is_not_lost(monkeypatch):
    class Table(eqx.Module):
        first: Any
        second: Any

    effective_spec, registered = _specs._effective_spec, []

    def spec(cls, f):
        found = effective_spec(cls, f)
        if cls is Table and not registered:  # what is said of `first` is old from here on
            registered.append(cls)
            in_another_thread(lambda: anx.register(Table, first=anx.Buffer))
        return found

    monkeypatch.setattr(_specs, "_effective_spec", spec)
    model = Table(jnp.ones(1), jnp.ones(1))
    anx.trainable_filter.paths(model)
    assert anx.trainable_filter.paths(model) == ("second",)


def test_two_registrations_of_one_class_at_once_are_both_kept():
    class Table(eqx.Module):
        a0: Any
        a1: Any
        a2: Any
        a3: Any

    barrier = threading.Barrier(4, timeout=PATIENCE)

    def say(name):
        barrier.wait()
        anx.register(Table, **{name: anx.Buffer})

    for _ in range(50):
        registry.registrations.pop(Table, None)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(say, ["a0", "a1", "a2", "a3"]))
        assert set(registry.registrations[Table]) == {"a0", "a1", "a2", "a3"}


# --- construction --------------------------------------------------------------------


def test_an_instance_made_while_another_settles_its_class_is_converted(monkeypatch):
    inside, settled = threading.Event(), threading.Event()

    class Layer(anx.Module):
        rate: "anx.Hyper[Late]"

        def __check_init__(self):
            # The one in the other thread has run its converter, and not been settled.
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                wait(settled)

    monkeypatch.setitem(globals(), "Late", float)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(Layer, 1)
        wait(inside)
        mine = Layer(1)
        settled.set()
    assert [type(layer.rate) for layer in (mine, other.result())] == [float, float]


def test_threads_that_construct_the_first_instance_agree(monkeypatch):
    class Layer(anx.Module):
        weight: "anx.Param[Float[Array, 'n'] | Later]"
        size: anx.Hyper[int] = 2

    monkeypatch.setitem(globals(), "Later", int)
    barrier = threading.Barrier(4, timeout=PATIENCE)

    def make(_):
        barrier.wait()
        return Layer(jnp.ones(2))

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(4)))
    assert len({jax.tree.structure(layer) for layer in made}) == 1
    [hint] = {anx.records(layer)[0].spec.hint for layer in made}
    assert not isinstance(hint, str)


# --- all at once ---------------------------------------------------------------------


def work(n, shared):
    """Some of everything, on a class of one's own and on models that all threads share."""

    class Layer(anx.Module):
        weight: anx.Param[Any]
        mean: anx.Buffer[Any]
        rate: anx.Hyper[float]

    class Foreign(eqx.Module):
        table: Any
        size: int

    anx.register(Foreign, table=anx.Buffer if n % 2 else anx.Param, size=anx.Hyper)
    layer = Layer(jnp.ones(2), jnp.ones(2), n)
    own = {"layer": layer, "foreign": [Foreign(jnp.ones(3), 4)]}
    frozen = anx.freeze(shared[n % len(shared)], anx.by_path("**.weight"))
    adopted = anx.adopt(own)
    grads = jax.grad(lambda m: jnp.sum(m.weight * m.mean) * m.rate)(layer)
    return {
        "own": anx.trainable_filter.paths(own),
        "adopted": anx.trainable_filter.paths(adopted),
        "static": adopted["foreign"][0].size,
        "leaves": len(jax.tree.leaves(adopted)),
        "frozen": list(anx.params(frozen)),
        "shared": list(anx.params(shared[n % len(shared)])),
        "thawed": anx.unfreeze(frozen) == shared[n % len(shared)],
        "rate": (layer.rate, type(layer.rate)),
        "gradients": (float(grads.weight.sum()), float(grads.mean.sum())),
        "classes": frozenset(map(type, (*frozen.layers, frozen))),
    }


def test_all_at_once(monkeypatch):
    monkeypatch.setattr(_view, "_CACHED_HASHES", 4)  # layouts are dropped all the time
    key = jax.random.key(0)
    shared = [eqx.nn.MLP(2, 2, 4, depth, key=key) for depth in range(1, 4)]
    rounds, threads = 12, 4
    alone = [work(n, shared) for n in range(6)]
    barrier = threading.Barrier(threads, timeout=PATIENCE)

    def run(thread):
        barrier.wait()
        return [(n, work(n, shared)) for n in range(thread, rounds, threads)]

    with ThreadPoolExecutor(threads) as pool:
        results = [result for made in pool.map(run, range(threads)) for result in made]
    assert len(results) == rounds
    for n, result in results:
        gradient = {"gradients": (2.0 * n, 0.0), "rate": (float(n), float)}
        assert result == {**alone[n % 6], **gradient}


def test_checks_of_one_class_do_not_wait_for_those_of_another():
    """What an annotation says may be imported while its check is made."""
    entered, leave = threading.Event(), threading.Event()

    class Slow(type):
        def __instancecheck__(cls, instance):
            entered.set()
            wait(leave)
            return type.__instancecheck__(cls, instance)

    class Value(metaclass=Slow):
        pass

    class First(anx.Module):
        value: anx.Param[Value]

    class Second(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(First, Value())
        wait(entered)
        try:
            second = in_another_thread(lambda: Second(jnp.ones(2)))
        finally:
            leave.set()
        assert second.weight.shape == (2,)
        assert isinstance(first.result(PATIENCE).value, Value)
