"""`adopt` on classes of other libraries, which nobody has registered.

Each case is an object as a user of the library makes it, and a function of it. Adopted, it
is an argument of plain `jax.jit` and `jax.grad`, and computes what it computed before.
"""

from contextlib import contextmanager
from functools import cached_property
from typing import Any

import diffrax as dfx
import distreqx.bijectors as dxb
import distreqx.distributions as dxd
import equinox as eqx
import flowjax.bijections as fjb
import flowjax.distributions as fjd
import flowjax.flows as fjf
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import paramax
import pytest

import annotax as anx
from annotax._registry import registry

KEY = jax.random.key(0)
MATRIX = jnp.array([[4.0, 1.0], [1.0, 3.0]])
VECTOR = jnp.array([1.0, 2.0])
STRUCTURE = jax.ShapeDtypeStruct((2,), jnp.float32)
TOLERANCES = {"rtol": 1e-3, "atol": 1e-3}
CASES = {}


def cases(section, run, **makes):
    CASES.update({f"{section} {name}": (make, run) for name, make in makes.items()})


def array(x=VECTOR):
    """A new array, so that two objects of one case share none."""
    return jnp.array(x, copy=True)


# --- lineax --------------------------------------------------------------------------


def operator(*tags):
    return lx.MatrixLinearOperator(array(MATRIX), tags)


def linear():
    return eqx.nn.Linear(2, 2, use_bias=False, key=KEY)


def cubed(x, scale):
    return scale * x**3


def use_operator(operator):
    solved = lx.linear_solve(operator, VECTOR, lx.AutoLinearSolver(well_posed=True))
    return operator.mv(VECTOR), operator.T.mv(VECTOR), solved.value


def solve(solver, matrix=MATRIX, vector=VECTOR):
    operator = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)
    return lx.linear_solve(operator, vector, solver).value


cases(
    "operator",
    use_operator,
    matrix=operator,
    definite=lambda: operator(lx.positive_semidefinite_tag),
    diagonal=lambda: lx.DiagonalLinearOperator(array()),
    tridiagonal=lambda: lx.TridiagonalLinearOperator(array(), jnp.ones(1), jnp.ones(1)),
    identity=lambda: lx.IdentityLinearOperator(STRUCTURE),
    pytree=lambda: lx.PyTreeLinearOperator(array(MATRIX), STRUCTURE),
    sum=lambda: 2.5 * operator() + lx.IdentityLinearOperator(STRUCTURE) / 2,
    composed=lambda: operator() @ -lx.DiagonalLinearOperator(array()),
    tagged=lambda: lx.TaggedLinearOperator(operator(), lx.symmetric_tag),
    transposed=lambda: operator(lx.lower_triangular_tag).T,
    function=lambda: lx.FunctionLinearOperator(linear(), STRUCTURE),
    jacobian=lambda: lx.JacobianLinearOperator(cubed, array(), array()),
)
cases(
    "linear solver",
    solve,
    auto=lambda: lx.AutoLinearSolver(well_posed=None),
    lu=lx.LU,
    qr=lx.QR,
    svd=lx.SVD,
    cholesky=lx.Cholesky,
    cg=lambda: lx.CG(**TOLERANCES, max_steps=20),
    gmres=lambda: lx.GMRES(**TOLERANCES, norm=optx.rms_norm, restart=2),
    bicgstab=lambda: lx.BiCGStab(**TOLERANCES),
)

# --- diffrax -------------------------------------------------------------------------


class Field(eqx.Module):
    layer: Any
    rate: float = 0.5

    def __call__(self, t, y, args):
        return jnp.tanh(self.layer(y)) - self.rate * y


class AnnotatedField(anx.Module):
    layer: anx.Param[eqx.nn.MLP]
    rate: anx.Hyper[float] = 0.5

    def __call__(self, t, y, args):
        return self.layer(y) - self.rate * y


class NeuralODE(eqx.Module):
    field: Any
    solver: dfx.AbstractSolver
    controller: dfx.AbstractStepSizeController
    options: dict[str, Any]

    def __call__(self, y):
        return integrate(y, self.field, self.solver, self.controller, **self.options)


class AnnotatedODE(anx.Module):
    field: AnnotatedField
    solver: dfx.AbstractSolver
    max_steps: anx.Hyper[int]

    def __call__(self, y):
        return integrate(y, self.field, self.solver, max_steps=self.max_steps)


def decay(t, y, args):
    return -y * y


def diffusion(t, y, args):
    return 0.1 * jnp.eye(2)


def integrate(y=VECTOR, field=decay, solver=None, controller=None, **options):
    term = field if isinstance(field, dfx.AbstractTerm) else dfx.ODETerm(field)
    options["stepsize_controller"] = controller or dfx.ConstantStepSize()
    return dfx.diffeqsolve(term, solver or dfx.Euler(), 0.0, 1.0, 0.25, y, **options).ys


def through_adjoint(adjoint):
    return jax.grad(lambda y: integrate(y, adjoint=adjoint).sum())(VECTOR)


def times():
    return jnp.linspace(0.0, 1.0, 4)


def pid(**options):
    return dfx.PIDController(**TOLERANCES, norm=optx.rms_norm, **options)


def newton():
    return dfx.VeryChord(rtol=1e-2, atol=1e-2, norm=optx.rms_norm)


def dense():
    start = dfx.ODETerm(decay), dfx.Tsit5(), 0.0, 1.0, 0.5, array()
    return dfx.diffeqsolve(*start, saveat=dfx.SaveAt(dense=True), max_steps=4).interpolation


cases(
    "ode solver",
    lambda solver: integrate(solver=solver, controller=pid()),
    tsit5=dfx.Tsit5,
    dopri8=dfx.Dopri8,
    heun=dfx.Heun,
    implicit=lambda: dfx.ImplicitEuler(root_finder=newton()),
    kvaerno3=lambda: dfx.Kvaerno3(root_finder=newton()),
)
cases(
    "controller",
    lambda controller: integrate(solver=dfx.Heun(), controller=controller),
    pid=lambda: pid(dtmin=1e-3),
    constant=dfx.ConstantStepSize,
)
cases(
    "term",
    lambda term: integrate(field=term),
    function=lambda: dfx.ODETerm(decay),
    module=lambda: dfx.ODETerm(Field(linear())),
    noise=lambda: dfx.MultiTerm(
        dfx.ODETerm(decay),
        dfx.ControlTerm(diffusion, dfx.VirtualBrownianTree(0.0, 1.0, 1e-2, (2,), KEY)),
    ),
)
cases(
    "save at",
    lambda saveat: integrate(saveat=saveat),
    times=lambda: dfx.SaveAt(ts=times()),
    parts=lambda: dfx.SaveAt(
        subs=[dfx.SubSaveAt(t1=True), dfx.SubSaveAt(t0=True, fn=decay)]
    ),
)
cases(
    "adjoint",
    through_adjoint,
    checkpoints=lambda: dfx.RecursiveCheckpointAdjoint(checkpoints=4),
    backsolve=lambda: dfx.BacksolveAdjoint(solver=dfx.Euler()),
)
cases(
    "interpolation",
    lambda path: path.evaluate(0.4),
    linear=lambda: dfx.LinearInterpolation(times(), times() ** 2),
    cubic=lambda: dfx.CubicInterpolation(
        times(), dfx.backward_hermite_coefficients(times(), times() ** 2)
    ),
    dense=dense,
)
BACKSOLVE = dfx.BacksolveAdjoint(solver=dfx.Heun())
cases(
    "model",
    lambda model: model(VECTOR),
    annotated=lambda: AnnotatedODE(
        AnnotatedField(eqx.nn.MLP(2, 2, 4, 1, key=KEY)), dfx.Heun(), 16
    ),
    # diffrax gives the root finder the tolerances of the controller.
    plain=lambda: NeuralODE(
        Field(linear()), dfx.Kvaerno3(), pid(), {"adjoint": BACKSOLVE, "max_steps": 64}
    ),
)

# --- optimistix ----------------------------------------------------------------------


def residuals(y, args):
    return jnp.stack([y[0] - 1, y[1] - y[0] ** 2, 0.5 * y[1]])


def find_root(solver):
    bracket = {"lower": jnp.array(0.0), "upper": jnp.array(3.0)}
    start = jnp.array(1.0)
    return optx.root_find(lambda y, args: y**2 - 2, solver, start, options=bracket).value


def minimise(solver):
    def bowl(y, args):
        return jnp.sum(residuals(y, args) ** 2)

    return optx.minimise(bowl, solver, VECTOR / 2).value


cases(
    "root finder",
    find_root,
    newton=lambda: optx.Newton(**TOLERANCES),
    chord=lambda: optx.Chord(**TOLERANCES, norm=optx.rms_norm),
    bisection=lambda: optx.Bisection(**TOLERANCES),
    dogleg=lambda: optx.Dogleg(**TOLERANCES),
    best=lambda: optx.BestSoFarRootFinder(optx.Newton(**TOLERANCES)),
)
cases(
    "least squares",
    lambda solver: optx.least_squares(residuals, solver, VECTOR / 2).value,
    newton=lambda: optx.GaussNewton(**TOLERANCES),
    levenberg=lambda: optx.LevenbergMarquardt(**TOLERANCES),
)
cases(
    "minimiser",
    minimise,
    bfgs=lambda: optx.BFGS(**TOLERANCES),
    conjugate=lambda: optx.NonlinearCG(**TOLERANCES),
    simplex=lambda: optx.NelderMead(**TOLERANCES),
    descent=lambda: optx.GradientDescent(0.1, **TOLERANCES),
    optax=lambda: optx.OptaxMinimiser(optax.adam(0.1), **TOLERANCES),
)

# --- flowjax, paramax ----------------------------------------------------------------


def normal():
    return fjd.Normal(array(), array())


def autoregressive():
    base = fjd.Normal(jnp.zeros(2))
    make, size = fjf.masked_autoregressive_flow, {"nn_width": 4, "nn_depth": 1}
    return make(KEY, base_dist=base, flow_layers=1, **size)


cases(
    "distribution",
    lambda dist: dist.log_prob(jnp.full(dist.shape, 0.3)),
    normal=normal,
    multivariate=lambda: fjd.MultivariateNormal(array(), array(MATRIX)),
    transformed=lambda: fjd.Transformed(normal(), fjb.Tanh((2,))),
    permuted=lambda: fjd.Transformed(
        normal(), fjb.Chain([fjb.Affine(array()), fjb.Permute(jnp.array([1, 0]))])
    ),
    spline=lambda: fjd.Transformed(
        fjd.StandardNormal(), fjb.RationalQuadraticSpline(knots=3, interval=2)
    ),
    autoregressive=autoregressive,
)
cases("sample", lambda dist: dist.sample(KEY), normal=normal)
cases(
    "wrapper",
    lambda wrapped: eqx.filter(paramax.unwrap(wrapped), eqx.is_array),
    parameterize=lambda: paramax.Parameterize(jnp.exp, array()),
    constant=lambda: paramax.NonTrainable(linear()),
    normalized=lambda: paramax.WeightNormalization(array(MATRIX)),
    increasing=lambda: paramax.RealToIncreasingOnInterval(
        array(), (-1, 1.0), min_width=0.1, include_endpoints="both"
    ),
)

# --- what stands around them ---------------------------------------------------------


class Containers(eqx.Module):
    functions: list[Any]
    opts: dict[str, Any]
    nothing: None
    solvers: dict[str, tuple[Any, ...]]
    mixed: dict[str, list[Any]]

    def __call__(self, x):
        layer, sin, _, inner = self.mixed["some"]
        x = self.functions[0](sin(layer(inner["op"].mv(x)))) * self.opts["scale"]
        return inner["f"](x), solve(self.solvers["linear"][0], inner["op"].matrix, x)


OPTS = {"scale": 0.5, "names": ["a", None], "inner": {"flag": True, "n": 1}}


def containers():
    return Containers(
        [jnp.tanh, jax.nn.relu],
        dict(OPTS),
        None,
        {"linear": (lx.CG(**TOLERANCES), lx.LU()), "ode": (dfx.Tsit5(),)},
        {"some": [linear(), jnp.sin, None, {"op": operator(), "f": jnp.cos}], "no": []},
    )


cases("module", lambda model: model(VECTOR), containers=containers)

# --- the tests -----------------------------------------------------------------------

# The libraries make or trace functions of their own for each of these.
OWN_FUNCTIONS = {
    "operator function",
    "operator jacobian",
    *(f"distribution {name}" for name in ("multivariate", "spline", "autoregressive")),
}


@contextmanager
def registrations(known):
    """Just these registrations, for a while."""
    before = registry.registrations
    registry.registrations = dict(known)
    try:
        anx.register(eqx.nn.Linear)  # any registration drops what was cached
        yield
    finally:
        registry.registrations = before
        anx.register(eqx.nn.Linear)


@pytest.fixture(autouse=True, scope="module")
def unregistered():
    """What is registered without this: in flowjax, numbers stand beside arrays."""
    known = registry.registrations
    with registrations(known):
        anx.register(paramax.Parameterize, args=anx.Param, kwargs=anx.Param)
        yield known


class Trial:
    """A case, made and adopted twice."""

    def __init__(self, name):
        self.name = name
        make, self.run = CASES[name]
        self.plain, self.plain_again = make(), make()
        self.adopted, self.again = anx.adopt(self.plain), anx.adopt(self.plain_again)
        self.differentiable = any(map(eqx.is_inexact_array, jax.tree.leaves(self.plain)))
        self.traces = 0

    def loss(self, tree):
        self.traces += 1
        results = jax.tree.leaves(self.run(tree))
        return sum(jnp.sum(jnp.square(r)) for r in results), results

    def differentiated(self, value_and_grad, **options):
        if not self.differentiable:
            return lambda tree: (self.loss(tree), ())
        return value_and_grad(self.loss, has_aux=True, **options)

    @cached_property
    def compiled(self):
        # Masks and indices are arguments too.
        return jax.jit(self.differentiated(jax.value_and_grad, allow_int=True))


@pytest.fixture(params=CASES, scope="module")
def trial(request, unregistered):
    return Trial(request.param)


def inexact(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(str, p)): x for p, x in leaves if eqx.is_inexact_array(x)}


def test_the_leaves_of_an_adopted_object_are_its_arrays(trial):
    arrays = jax.tree.leaves(eqx.filter(trial.plain, eqx.is_array))
    assert list(map(id, jax.tree.leaves(trial.adopted))) == list(map(id, arrays))


def test_results_and_gradients_are_those_of_the_original(trial):
    original = eqx.filter_jit(trial.differentiated(eqx.filter_value_and_grad))
    (_, expected), gradients = original(trial.plain)
    (_, found), adopted_gradients = trial.compiled(trial.adopted)
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    mine, theirs = inexact(adopted_gradients), inexact(gradients)
    assert len(mine) == len(theirs)
    for one, other in zip(mine.values(), theirs.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_objects_made_alike_are_adopted_alike_and_compile_once(trial):
    assert jax.tree.structure(anx.adopt(trial.adopted)) == jax.tree.structure(trial.adopted)
    if trial.name in OWN_FUNCTIONS:
        return
    assert jax.tree.structure(trial.again) == jax.tree.structure(trial.adopted)
    trial.compiled(trial.adopted)
    before = trial.traces
    trial.compiled(trial.again)
    assert trial.traces == before


def test_arrays_of_unregistered_classes_are_marked_as_inferred(trial):
    for record in anx.records(trial.adopted):
        if record.origin != "inferred":
            assert record.owner in registry.registrations or record.declared, record.path
    assert anx.trainable_filter.paths(trial.plain) == anx.trainable_filter.paths(
        trial.adopted
    )


def test_containers_read_as_before():
    model = containers()
    adopted = anx.adopt(model)
    assert adopted.opts == OPTS
    assert type(adopted.opts) is dict
    assert adopted.functions == [jnp.tanh, jax.nn.relu]
    assert adopted.nothing is None
    assert type(adopted.solvers["linear"][0]) is lx.CG
    assert adopted.mixed["no"] == []
    assert isinstance(adopted.mixed["some"][1], eqx.nn.Lambda)


def test_a_solver_in_a_field_keeps_its_class_and_its_own_fields():
    make, _ = CASES["model plain"]
    adopted = anx.adopt(make())
    assert type(adopted.solver) is dfx.Kvaerno3
    assert adopted.controller.rtol == TOLERANCES["rtol"]


def test_numbers_beside_arrays_need_a_registration(unregistered):
    with (
        registrations(unregistered),
        pytest.raises(anx.HyperError, match=r"args\.2:\s+an int; stands beside arrays"),
    ):
        anx.adopt(autoregressive())


def test_what_a_library_looks_for_among_the_leaves_is_no_leaf_any_more():
    solver = anx.adopt(dfx.Kvaerno3())
    with pytest.raises(TypeError, match="is not a leaf of the pytree"):
        integrate(solver=solver, controller=pid())


def test_distributions_whose_classes_allow_no_subclass():
    normal = dxd.Normal(VECTOR, VECTOR)
    assert anx.adopt(normal) is normal
    found = jax.jit(lambda dist, x: dist.log_prob(x))(normal, VECTOR)
    assert jnp.allclose(found, normal.log_prob(VECTOR))
    with pytest.raises(anx.AnnotationError, match="Chain: its class cannot be subclassed"):
        anx.adopt(dxb.Chain([dxb.ScalarAffine(VECTOR, VECTOR), dxb.Tanh()]))
