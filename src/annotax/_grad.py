"""`grad` and `value_and_grad`: JAX's, with respect to a selection of a model's leaves."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ._errors import SelectionError, describe, explain_error, listing, with_article
from ._flat import leaves, update
from ._layout import is_inexact_array
from ._select import trainable_filter
from ._selection import Selection
from ._view import View, view

_jax: Any = jax  # the types of its transformations are partly unknown


def value_and_grad(
    fun: Callable[..., Any],
    *,
    wrt: Any = trainable_filter,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """The value of a loss and its gradient with respect to a model's selected leaves.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]]
        ...     mean: anx.Buffer[Float[Array, " d"]]
        >>> def loss_fn(model, x):
        ...     return jnp.sum(model.weight * (x - model.mean))
        >>> model = Scale(jnp.ones(2), jnp.zeros(2))
        >>> loss, grads = anx.value_and_grad(loss_fn)(model, jnp.array([1.0, 2.0]))
        >>> grads
        Leaves(
            'weight': f32[2],
        )
        >>> list(grads) == list(anx.params(model))
        True

    **Arguments:**

    - `fun`: returns a real scalar, or `(scalar, aux)` with `has_aux=True`.
    - `wrt`: a selection; of what it selects, the inexact arrays are differentiated.
    - `argnums`: which explicit positional argument is the model, or several of them.
      For a bound method `self` is not counted.

    **Returns:** a function like `fun` that returns `(value, grads)`, or
    `((value, aux), grads)` with `has_aux=True`. `grads` are `Leaves` with the paths of
    `leaves(model, wrt)`, or a tuple of them if `argnums` is a sequence.

    **Raises:** `SelectionError`, when called, if nothing is selected in one of the
    models or if one of them is not given as a positional argument.
    """
    selection = Selection.of(wrt)

    def inexact(seen: View) -> list[bool]:
        chosen = zip(selection.mask(seen), seen.leaves, strict=True)
        return [flag and is_inexact_array(leaf) for flag, leaf in chosen]

    differentiated = Selection(repr(selection), inexact)
    given: Any = argnums
    several = isinstance(argnums, Sequence) and not isinstance(given, str)
    numbers = tuple(map(_number, given if several else (given,)))

    @functools.wraps(fun)
    def with_grad(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        at = [_position(number, args, kwargs) for number in numbers]
        if len(set(at)) < len(at):
            raise SelectionError(_repeated_message(numbers))
        points = tuple(leaves(args[i], differentiated) for i in at)
        for i, point in zip(at, points, strict=True):
            if not point:
                raise SelectionError(_nothing_message(selection, args[i], i))

        def of_points(points: tuple[Any, ...]) -> Any:
            given = list(args)
            for i, point in zip(at, points, strict=True):
                given[i] = update(args[i], point)
            return fun(*given, **kwargs)

        value, grads = _jax.value_and_grad(of_points, has_aux=has_aux)(points)
        return value, (grads if several else grads[0])

    return with_grad


def grad(
    fun: Callable[..., Any],
    *,
    wrt: Any = trainable_filter,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """The gradient of a loss with respect to a model's selected leaves, as `Leaves`.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> anx.grad(lambda model: jnp.sum(model["w"] ** 2))({"w": jnp.ones(2)})["w"]
        Array([2., 2.], dtype=float32)

    Arguments and errors as for `value_and_grad`; returns `grads`, or `(grads, aux)`
    with `has_aux=True`.
    """
    both = value_and_grad(fun, wrt=wrt, argnums=argnums, has_aux=has_aux)

    @functools.wraps(fun)
    def only_grad(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return only_grad


def _number(argnum: Any) -> int:
    try:
        return operator.index(argnum)
    except TypeError as error:
        raise SelectionError(
            explain_error(
                f"grad(argnums={argnum!r})",
                "this is no position",
                expected="an integer, or a sequence of integers",
                found=describe(argnum),
                fix="argnums=0, if the model is the first argument",
            )
        ) from error


def _repeated_message(numbers: tuple[int, ...]) -> str:
    return explain_error(
        f"grad(argnums={numbers})",
        "one argument is meant twice",
        expected="each position once",
        found=str(numbers),
    )


def _position(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    count = len(args)
    if not -count <= number < count:
        raise SelectionError(
            explain_error(
                f"grad(argnums={number})",
                "there is no such positional argument",
                expected="the model among the positional arguments",
                found=f"{count} positional arguments"
                + (f", and {listing(kwargs)} by keyword" if kwargs else ""),
                fix="pass the model by position, or give its number as argnums=",
            )
        )
    return number % count


def _nothing_message(selection: Selection, model: Any, position: int) -> str:
    seen = view(model)
    arrays = sum(is_inexact_array(leaf) for leaf in seen.leaves)
    return explain_error(
        f"grad, argument {position}",
        f"{selection!r} selects nothing to differentiate",
        expected="at least one inexact array",
        found=f"{with_article(type(model).__name__)} with {len(seen.leaves)} leaves, "
        f"{arrays} of them inexact arrays, none selected",
        fix="look at annotax.records(model); say wrt=... if something else is meant",
    )
