"""What the fields of `equinox.nn` are: roles and axis names for every public class.

Each entry stands at the class that declares the fields, so that registering that class
again overrides it for all its subclasses. Written with `register`'s own options; a test
fails when a newer Equinox has a class or a field that is not here.
"""

from equinox import nn

from ._field import FieldOptions
from ._registry import CONTENTS, registry
from ._role import BUFFER, HYPER, PARAM

_STATIC = FieldOptions(role=HYPER)
_BUFFER = FieldOptions(role=BUFFER)
_INSIDE = FieldOptions()
"""What is inside keeps its own roles."""
_FUNCTION = FieldOptions(opaque_role=HYPER)
"""An activation: static, unless it is a layer with arrays of its own."""
_COMPUTED = FieldOptions(whole=True)
"""A layer whose weights are computed anew at every call, and put into it."""


def _param(*axes: str | None) -> FieldOptions:
    return FieldOptions(role=PARAM, axes=axes or None)


def _all(options: FieldOptions, *names: str) -> dict[str, FieldOptions]:
    return dict.fromkeys(names, options)


_CONV = {
    "weight": _param("out_channels", "in_channels", "*kernel_size"),
    "bias": _param("out_channels", "..."),
    **_all(_STATIC, "num_spatial_dims", "in_channels", "out_channels", "kernel_size"),
    **_all(_STATIC, "stride", "padding", "dilation", "groups", "use_bias", "padding_mode"),
}
_NORM = {
    **_all(_param("*shape"), "weight", "bias"),
    **_all(_STATIC, "shape", "eps", "use_weight", "use_bias"),
}
_CELL = {
    "weight_ih": _param("gates", "input_size"),
    "weight_hh": _param("gates", "hidden_size"),
    "bias": _param("gates"),
    **_all(_STATIC, "input_size", "hidden_size", "use_bias"),
}

TABLE: dict[type, dict[str, FieldOptions]] = {
    nn.Linear: {
        "weight": _param("out_features", "in_features"),
        "bias": _param("out_features"),
        **_all(_STATIC, "in_features", "out_features", "use_bias"),
    },
    nn.Identity: {},
    nn.Conv: _CONV,
    nn.ConvTranspose: {**_CONV, "output_padding": _STATIC},
    nn.Embedding: {
        "weight": _param("num_embeddings", "embedding_size"),
        **_all(_STATIC, "num_embeddings", "embedding_size"),
    },
    nn.RotaryPositionalEmbedding: _all(_STATIC, "embedding_size", "theta", "dtype"),
    nn.GRUCell: {**_CELL, "bias_n": _param("hidden_size")},
    nn.LSTMCell: _CELL,
    nn.MLP: {
        "layers": _INSIDE,
        **_all(_FUNCTION, "activation", "final_activation"),
        **_all(_STATIC, "use_bias", "use_final_bias", "in_size", "out_size"),
        **_all(_STATIC, "width_size", "depth", "scan"),
    },
    nn.MultiheadAttention: {
        **_all(_INSIDE, "query_proj", "key_proj", "value_proj", "output_proj", "dropout"),
        **_all(_STATIC, "num_heads", "query_size", "key_size", "value_size"),
        **_all(_STATIC, "output_size", "qk_size", "vo_size", "use_query_bias"),
        **_all(_STATIC, "use_key_bias", "use_value_bias", "use_output_bias"),
    },
    nn.LayerNorm: _NORM,
    nn.RMSNorm: _NORM,
    nn.GroupNorm: {
        **_all(_param("channels"), "weight", "bias"),
        **_all(_STATIC, "groups", "channels", "eps", "channelwise_affine"),
    },
    nn.BatchNorm: {
        **_all(_param("input_size"), "weight", "bias"),
        **_all(_BUFFER, "ema_first_time_index", "ema_state_index"),
        **_all(_BUFFER, "batch_counter", "batch_state_index"),
        **_all(_STATIC, "axis_name", "inference", "input_size", "eps"),
        **_all(_STATIC, "channelwise_affine", "momentum", "mode"),
    },
    nn.SpectralNorm: {
        "layer": _COMPUTED,
        "uv_index": _BUFFER,
        **_all(_STATIC, "weight_name", "num_power_iterations", "eps", "inference"),
    },
    nn.WeightNorm: {
        "layer": _COMPUTED,
        "g": _param(),
        "_norm": _FUNCTION,
        **_all(_STATIC, "weight_name", "axis"),
    },
    nn.Dropout: _all(_STATIC, "p", "inference"),
    nn.PReLU: {"negative_slope": _param()},
    nn.Pool: {
        "init": FieldOptions(role=BUFFER, opaque_role=HYPER),
        "operation": _FUNCTION,
        **_all(_STATIC, "num_spatial_dims", "kernel_size", "stride", "padding", "use_ceil"),
    },
    nn.AdaptivePool: {"target_shape": _STATIC, "operation": _FUNCTION},
    nn.Sequential: {"layers": _INSIDE},
    nn.Lambda: {"fn": _FUNCTION},
    nn.StatefulLayer: {},
    nn.Shared: {"pytree": _INSIDE, **_all(_FUNCTION, "where", "get")},
    nn.StateIndex: {"init": _BUFFER, "marker": _STATIC},
    nn.State: {CONTENTS: _BUFFER},
}

for _cls, _options in TABLE.items():
    registry.register(_cls, _options)
