"""The whole text of summaries: one of each kind of model, and of each kind of tree."""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import annotax as anx
from shown_models import (
    KEY,
    Plain,
    Tied,
    embedding_weight,
    head_weight,
    layer,
    linears,
    text,
)


def shows(model, block, **options):
    """Whether a summary is this text."""
    assert str(anx.summary(model, **options)) == text(block)


def test_a_model_of_equinox():
    shows(
        eqx.nn.MLP(2, 1, 8, 2, key=KEY),
        """
                                                                           params  bytes
        MLP use_bias=True, use_final_bias=True, in_size=2, out_size=1, w…     105  420 B
        ├ layers.0 Linear in_features=2, out_features=8, use_bias=True         24   96 B
        │ ├ weight          param    f32[8,2] out_features in_features         16   64 B
        │ └ bias            param    f32[8] out_features                        8   32 B
        ├ layers.1 Linear in_features=8, out_features=8, use_bias=True         72  288 B
        │ ├ weight          param    f32[8,8] out_features in_features         64  256 B
        │ └ bias            param    f32[8] out_features                        8   32 B
        ├ layers.2 Linear in_features=8, out_features=1, use_bias=True          9   36 B
        │ ├ weight          param    f32[1,8] out_features in_features          8   32 B
        │ └ bias            param    f32[1] out_features                        1    4 B
        ├ activation        hyper !  relu
        └ final_activation  hyper !  <lambda>

        trainable   105 parameters in 6 arrays, 420 B
        other       2 leaves that are no arrays
        optimizer   844 B of state for adam
        ! only registered: adopt makes it so
        """,
    )


def test_derived_roles_and_empty_fields():
    shows(
        layer(),
        """
                                                                           params  bytes
        Layer bias=None, size=4, name='first'                                  20   96 B
        ├ weight      param                f32[3,4] out_features in_feat…      12   48 B
        ├ down        lora (param)         f32[2,4] rank in_features            8   32 B
        ├ mean        batch_stat (buffer)  f32[4] in_features                       16 B
        └ activation  opaque               relu

        trainable     20 parameters in 2 arrays, 80 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        optimizer     164 B of state for adam
        """,
    )


def test_frozen_arrays():
    shows(
        anx.freeze(layer(), anx.by_path("weight") | anx.by_path("down")),
        """
                                                                           params  bytes
        Layer bias=None, size=4, name='first'                                  20   96 B
        ├ weight      param frozen         f32[3,4] out_features in_feat…      12   48 B
        ├ down        lora (param) frozen  f32[2,4] rank in_features            8   32 B
        ├ mean        batch_stat (buffer)  f32[4] in_features                       16 B
        └ activation  opaque               relu

        trainable     0 parameters in 0 arrays, 0 B
        frozen        20 parameters in 2 arrays, 80 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        """,
    )


def test_what_adopt_inferred_is_marked():
    shows(
        anx.adopt(Plain(jnp.ones(3), jnp.tanh)),
        """
                                                                           params  bytes
        Plain function~=tanh                                                    3   12 B
        └ scale  param ~  f32[3]                                                3   12 B

        trainable   3 parameters in 1 array, 12 B
        optimizer   28 B of state for adam
        ~ inferred by adopt
        """,
    )


def test_fields_that_adopt_made_static_are_marked():
    shows(
        anx.adopt([Plain(None, jnp.tanh)]),
        """
                                                                           params  bytes
        list
        └ 0 Plain scale=None, function~=tanh

        trainable   0 parameters in 0 arrays, 0 B
        ~ inferred by adopt
        """,
    )


def test_what_nobody_declared_is_marked():
    shows(
        Plain(jnp.ones(3), jnp.tanh),
        """
                                                                           params  bytes
        Plain                                                                   3   12 B
        ├ scale     param ?  f32[3]                                             3   12 B
        └ function  opaque   tanh

        trainable   3 parameters in 1 array, 12 B
        other       1 leaf that is no array
        optimizer   28 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_what_is_only_registered_is_marked():
    shows(
        eqx.nn.BatchNorm(2, "batch", mode="ema"),
        """
                                                                           params  bytes
        BatchNorm batch_counter=None, batch_state_index=None, input_size…       4   33 B
        ├ weight     param     f32[2] input_size                                2    8 B
        ├ bias       param     f32[2] input_size                                2    8 B
        ├ ema_first_time_index StateIndex marker=<object object>                     1 B
        │ └ init     buffer    bool[]                                                1 B
        ├ ema_state_index StateIndex marker=<object object>                         16 B
        │ └ init                                                                    16 B
        │   ├ 0      buffer !  f32[2]                                                8 B
        │   └ 1      buffer !  f32[2]                                                8 B
        ├ axis_name  hyper !   'batch'
        └ inference  hyper !   False

        trainable   4 parameters in 2 arrays, 16 B
        buffers     5 elements in 3 arrays, 17 B
        other       2 leaves that are no arrays
        optimizer   36 B of state for adam
        ! only registered: adopt makes it so
        """,
    )


def test_adopt_takes_the_marks_away():
    shows(
        anx.adopt(eqx.nn.BatchNorm(2, "batch", mode="ema")),
        """
                                                                           params  bytes
        BatchNorm batch_counter=None, batch_state_index=None, axis_name=…       4   33 B
        ├ weight  param   f32[2] input_size                                     2    8 B
        ├ bias    param   f32[2] input_size                                     2    8 B
        ├ ema_first_time_index StateIndex marker=<object object>                     1 B
        │ └ init  buffer  bool[]                                                     1 B
        └ ema_state_index StateIndex marker=<object object>                         16 B
          └ init                                                                    16 B
            ├ 0   buffer  f32[2]                                                     8 B
            └ 1   buffer  f32[2]                                                     8 B

        trainable   4 parameters in 2 arrays, 16 B
        buffers     5 elements in 3 arrays, 17 B
        optimizer   36 B of state for adam
        """,
    )


def test_abstract_models():
    shows(
        eqx.filter_eval_shape(layer),
        """
                                                                           params  bytes
        Layer bias=None, size=4, name='first'                                  20   96 B
        ├ weight      param                f32[3,4] out_features in_feat…      12   48 B
        ├ down        lora (param)         f32[2,4] rank in_features            8   32 B
        ├ mean        batch_stat (buffer)  f32[4] in_features                       16 B
        └ activation  opaque               relu

        trainable     20 parameters in 2 arrays, 80 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        optimizer     164 B of state for adam
        """,
    )


def test_leaves():
    shows(
        anx.leaves(layer(), anx.everything),
        """
                                                                           params  bytes
        Leaves                                                                 20   96 B
        ├ weight      param                f32[3,4] out_features in_feat…      12   48 B
        ├ down        lora (param)         f32[2,4] rank in_features            8   32 B
        ├ mean        batch_stat (buffer)  f32[4] in_features                       16 B
        └ activation  opaque               relu

        trainable     20 parameters in 2 arrays, 80 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        optimizer     164 B of state for adam
        """,
    )


def test_an_optimizer_state():
    schedule = optax.linear_schedule(1e-3, 0.0, 10)
    shows(
        optax.adamw(schedule).init(anx.params(layer())),
        """
                                                                           params  bytes
        tuple                                                                  40  168 B
        ├ 0                                                                    40  164 B
        │ ├ count     buffer ?      i32[]                                            4 B
        │ ├ mu                                                                 20   80 B
        │ │ ├ weight  param         f32[3,4] out_features in_features          12   48 B
        │ │ └ down    lora (param)  f32[2,4] rank in_features                   8   32 B
        │ └ nu                                                                 20   80 B
        │   ├ weight  param         f32[3,4] out_features in_features          12   48 B
        │   └ down    lora (param)  f32[2,4] rank in_features                   8   32 B
        └ 2.count     buffer ?      i32[]                                            4 B

        trainable   40 parameters in 4 arrays, 160 B
        buffers     2 elements in 2 arrays, 8 B
          lora      16 parameters in 2 arrays, 64 B
        optimizer   324 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_a_gradient_with_none():
    shows(
        eqx.filter_grad(lambda model: model.weight.sum())(layer()),
        """
                                                                           params  bytes
        Layer bias=None, activation=None, size=4, name='first'                 20   96 B
        ├ weight  param                f32[3,4] out_features in_features       12   48 B
        ├ down    lora (param)         f32[2,4] rank in_features                8   32 B
        └ mean    batch_stat (buffer)  f32[4] in_features                           16 B

        trainable     20 parameters in 2 arrays, 80 B
        buffers       4 elements in 1 array, 16 B
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        optimizer     164 B of state for adam
        """,
    )


def test_the_trained_half_of_a_partition():
    shows(
        eqx.filter(layer(), anx.trainable_filter(layer())),
        """
                                                                           params  bytes
        Layer mean=None, bias=None, activation=None, size=4, name='first'      20   80 B
        ├ weight  param         f32[3,4] out_features in_features              12   48 B
        └ down    lora (param)  f32[2,4] rank in_features                       8   32 B

        trainable   20 parameters in 2 arrays, 80 B
          lora      8 parameters in 1 array, 32 B
        optimizer   164 B of state for adam
        """,
    )


def test_the_other_half_of_a_partition():
    shows(
        eqx.filter(layer(), (~anx.trainable_filter)(layer())),
        """
                                                                           params  bytes
        Layer weight=None, down=None, bias=None, size=4, name='first'               16 B
        ├ mean        batch_stat (buffer)  f32[4] in_features                       16 B
        └ activation  opaque               relu

        trainable     0 parameters in 0 arrays, 0 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          batch_stat  4 elements in 1 array, 16 B
        """,
    )


def test_a_tree_of_booleans():
    shows(
        anx.trainable_filter(layer()),
        """
                                                                           params  bytes
        Layer bias=None, size=4, name='first'
        ├ weight      param                True
        ├ down        lora (param)         True
        ├ mean        batch_stat (buffer)  False
        └ activation  opaque               False

        trainable     0 parameters in 0 arrays, 0 B
        other         4 leaves that are no arrays
          lora        1 leaf that is no array
          batch_stat  1 leaf that is no array
        """,
    )


def test_equal_neighbours_are_folded():
    shows(
        linears(12),
        """
                                                                           params  bytes
        list                                                                   72  288 B
        └ 0–11 Linear ×12 in_features=2, out_features=2, use_bias=True         72  288 B
          ├ weight  param  f32[2,2] out_features in_features                    4   16 B
          └ bias    param  f32[2] out_features                                  2    8 B

        trainable   72 parameters in 24 arrays, 288 B
        optimizer   580 B of state for adam
        × equal neighbours: the line counts all, its contents are those of one
        """,
    )


def test_folding_stops_where_one_differs():
    layers = linears(12)
    layers[5] = eqx.nn.Linear(2, 2, use_bias=False, key=KEY)
    shows(
        layers,
        """
                                                                           params  bytes
        list                                                                   70  280 B
        ├ 0–4 Linear ×5 in_features=2, out_features=2, use_bias=True           30  120 B
        │ ├ weight  param  f32[2,2] out_features in_features                    4   16 B
        │ └ bias    param  f32[2] out_features                                  2    8 B
        ├ 5 Linear bias=None, in_features=2, out_features=2, use_bias=Fa…       4   16 B
        │ └ weight  param  f32[2,2] out_features in_features                    4   16 B
        └ 6–11 Linear ×6 in_features=2, out_features=2, use_bias=True          36  144 B
          ├ weight  param  f32[2,2] out_features in_features                    4   16 B
          └ bias    param  f32[2] out_features                                  2    8 B

        trainable   70 parameters in 23 arrays, 280 B
        optimizer   564 B of state for adam
        × equal neighbours: the line counts all, its contents are those of one
        """,
    )


def test_two_equal_neighbours_are_not_folded():
    shows(
        linears(2),
        """
                                                                           params  bytes
        list                                                                   12   48 B
        ├ 0 Linear in_features=2, out_features=2, use_bias=True                 6   24 B
        │ ├ weight  param  f32[2,2] out_features in_features                    4   16 B
        │ └ bias    param  f32[2] out_features                                  2    8 B
        └ 1 Linear in_features=2, out_features=2, use_bias=True                 6   24 B
          ├ weight  param  f32[2,2] out_features in_features                    4   16 B
          └ bias    param  f32[2] out_features                                  2    8 B

        trainable   12 parameters in 4 arrays, 48 B
        optimizer   100 B of state for adam
        """,
    )


def test_arrays_are_folded_too():
    shows(
        [jnp.ones(2) for _ in range(3)],
        """
                                                                           params  bytes
        list                                                                    6   24 B
        └ 0–2 ×3  param ?  f32[2]                                               6   24 B

        trainable   6 parameters in 3 arrays, 24 B
        optimizer   52 B of state for adam
        ? nobody says a role: Equinox's convention
        × equal neighbours: the line counts all, its contents are those of one
        """,
    )


def test_shared_arrays_count_once():
    shared = jnp.ones((2, 2))
    shows(
        {"a": shared, "b": [shared, shared], "c": shared + 1},
        """
                                                                           params  bytes
        dict                                                                    8   32 B
        ├ a    param ?  f32[2,2]                                                4   16 B
        ├ b
        │ ├ 0  param ?  f32[2,2] = a
        │ └ 1  param ?  f32[2,2] = a
        └ c    param ?  f32[2,2]                                                4   16 B

        trainable   8 parameters in 2 arrays in 4 places, 32 B
        optimizer   132 B of state for adam
        ? nobody says a role: Equinox's convention
        = the same array as there, counted once
        """,
    )


def test_arrays_that_equinox_shares():
    tied = Tied(eqx.nn.Embedding(5, 2, key=KEY), eqx.nn.Linear(2, 5, key=KEY))
    shows(
        eqx.nn.Shared(tied, where=head_weight, get=embedding_weight),
        """
                                                                           params  bytes
        Shared                                                                 15   60 B
        ├ pytree Tied                                                          15   60 B
        │ ├ embedding Embedding num_embeddings=5, embedding_size=2             10   40 B
        │ │ └ weight  param    f32[5,2] num_embeddings embedding_size          10   40 B
        │ └ head Linear in_features=2, out_features=5, use_bias=True            5   20 B
        │   ├ weight  param    taken out by eqx.nn.Shared
        │   └ bias    param    f32[5] out_features                              5   20 B
        ├ where       hyper !  head_weight
        └ get         hyper !  embedding_weight

        trainable   15 parameters in 2 arrays, 60 B
        other       3 leaves that are no arrays
        optimizer   124 B of state for adam
        ! only registered: adopt makes it so
        """,
    )


def test_dtypes():
    shows(
        {
            "bool": np.ones(3, bool),
            "complex": jnp.ones(2, "complex64"),
            "empty": jnp.ones((0, 3)),
            "float8": jnp.ones(2, jnp.float8_e4m3fn),
            "half": jnp.ones(2, "bfloat16"),
            "int": jnp.arange(3),
            "int4": jnp.ones(3, "int4"),
            "key": KEY,
            "keys": jax.random.split(KEY, 3),
            "number": 1.5,
            "numpy": np.ones(2),
            "scalar": np.float32(1),
            "text": "t",
        },
        """
                                                                           params  bytes
        dict                                                                    9   92 B
        ├ bool     buffer ?  bool[3]                                                 3 B
        ├ complex  param ?   c64[2]                                             2   16 B
        ├ empty    param ?   f32[0,3]
        ├ float8   param ?   f8_e4m3fn[2]                                       2    2 B
        ├ half     param ?   bf16[2]                                            2    4 B
        ├ int      buffer ?  i32[3]                                                 12 B
        ├ int4     buffer ?  i4[3]                                                   3 B
        ├ key      buffer ?  key<fry>[]                                              8 B
        ├ keys     buffer ?  key<fry>[3]                                            24 B
        ├ number   opaque    1.5
        ├ numpy    param ?   f64[2]                                             2   16 B
        ├ scalar   param ?   f32[]                                              1    4 B
        └ text     opaque    't'

        trainable   9 parameters in 6 arrays, 42 B
        buffers     13 elements in 5 arrays, 50 B
        other       2 leaves that are no arrays
        optimizer   72 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_an_array():
    shows(
        jnp.ones((2, 3)),
        """
                                                                           params  bytes
        Array  param ?  f32[2,3]                                                6   24 B

        trainable   6 parameters in 1 array, 24 B
        optimizer   52 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_a_number():
    shows(
        3,
        """
                                                                           params  bytes
        int  opaque  3

        trainable   0 parameters in 0 arrays, 0 B
        other       1 leaf that is no array
        """,
    )


def test_nothing():
    shows(
        None,
        """
                                                                           params  bytes
        NoneType

        trainable   0 parameters in 0 arrays, 0 B
        """,
    )


def test_empty_containers():
    shows(
        [[], {}],
        """
                                                                           params  bytes
        list

        trainable   0 parameters in 0 arrays, 0 B
        """,
    )


def test_long_names():
    shows(
        {
            "x" * 100: {"y" * 100: jnp.ones(3), "z": jnp.ones(3)},
            "q" * 100: jnp.ones(2),
            "l" * 100: linears(1)[0],
        },
        """
                                                                           params  bytes
        dict                                                                   14   56 B
        ├ …lllllllllllllllllllllllllllllllllllllllllllllllllllllll Linear       6   24 B
        │ ├ weight                              param    f32[2,2] out_fe…       4   16 B
        │ └ bias                                param    f32[2] out_feat…       2    8 B
        ├ …qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq  param ?  f32[2]                 2    8 B
        └ …xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx       6   24 B
          ├ …yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy  param ?  f32[3]                 3   12 B
          └ z                                   param ?  f32[3]                 3   12 B

        trainable   14 parameters in 5 arrays, 56 B
        optimizer   116 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_a_long_path_to_a_single_array():
    nested = jnp.ones(2)
    for _ in range(30):
        nested = {"inner": nested}
    shows(
        nested,
        """
                                                                           params  bytes
        dict                                                                    2    8 B
        └ …ner.inner.inner.inner.inner.inner.inner.inner  param ?  f32[2]       2    8 B

        trainable   2 parameters in 1 array, 8 B
        optimizer   20 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_deep_nesting_keeps_the_names():
    nested = jnp.ones(2)
    for _ in range(18):
        nested = {"inner": nested, "w": jnp.ones(1)}
    shows(
        nested,
        """
                                                                           params  bytes
        dict                                                                   20   80 B
        ├ inner                                                                19   76 B
        │ ├ inner                                                              18   72 B
        │ │ ├ inner                                                            17   68 B
        │ │ │ ├ inner                                                          16   64 B
        │ │ │ │ ├ inner                                                        15   60 B
        │ │ │ │ │ ├ inner                                                      14   56 B
        │ │ │ │ │ │ ├ inner                                                    13   52 B
        │ │ │ │ │ │ │ ├ inner                                                  12   48 B
        │ │ │ │ │ │ │ │ ├ inner                                                11   44 B
        │ │ │ │ │ │ │ │ │ ├ inner                                              10   40 B
        │ │ │ │ │ │ │ │ │ │ ├ inner                                             9   36 B
        │ │ │ │ │ │ │ │ │ │ │ ├ inner                                           8   32 B
        │ │ │ │ │ │ │ │ │ │ │ │ ├ inner                                         7   28 B
        │ │ │ │ │ │ │ │ │ │ │ │ │ ├ inner                                       6   24 B
        │ │ │ │ │ │ │ │ │ │ │ │ │ │ ├ inner                                     5   20 B
        │ │ │ │ │ │ │ │ │ │ │ │ │ │ │ ├ inner                                   4   16 B
        … │ │ │ │ │ │ │ │ │ │ │ │ │ │ ├ inner                                   3   12 B
        … │ │ │ │ │ │ │ │ │ │ │ │ │ │ ├ inner  param ?  f32[2]                  2    8 B
        … │ │ │ │ │ │ │ │ │ │ │ │ │ │ └ w      param ?  f32[1]                  1    4 B
        … │ │ │ │ │ │ │ │ │ │ │ │ │ │ └ w      param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ │ │ │ │ │ │ └ w      param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ │ │ │ │ │ └ w        param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ │ │ │ │ └ w          param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ │ │ │ └ w            param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ │ │ └ w              param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ │ └ w                param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ │ └ w                  param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ │ └ w                    param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ │ └ w                      param ?  f32[1]                  1    4 B
        │ │ │ │ │ │ └ w                        param ?  f32[1]                  1    4 B
        │ │ │ │ │ └ w                          param ?  f32[1]                  1    4 B
        │ │ │ │ └ w                            param ?  f32[1]                  1    4 B
        │ │ │ └ w                              param ?  f32[1]                  1    4 B
        │ │ └ w                                param ?  f32[1]                  1    4 B
        │ └ w                                  param ?  f32[1]                  1    4 B
        └ w                                    param ?  f32[1]                  1    4 B

        trainable   20 parameters in 19 arrays, 80 B
        optimizer   164 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_odd_keys():
    shows(
        {
            "a.b": 1,
            "\n": jnp.ones(2),
            "": 2,
            "'": 3,
            "\x1b[31m": jnp.ones(1),
            "é": 0,
            "日本": jnp.ones(2),
        },
        r"""
                                                                           params  bytes
        dict                                                                    5   20 B
        ├ ['']          opaque   2
        ├ ['\n']        param ?  f32[2]                                         2    8 B
        ├ ['\x1b[31m']  param ?  f32[1]                                         1    4 B
        ├ ["'"]         opaque   3
        ├ ['a.b']       opaque   1
        ├ é             opaque   0
        └ 日本          param ?  f32[2]                                         2    8 B

        trainable   5 parameters in 3 arrays, 20 B
        other       4 leaves that are no arrays
        optimizer   44 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_depth_zero_is_the_model_and_its_totals():
    shows(
        layer(),
        """
                                                                           params  bytes
        Layer bias=None, size=4, name='first'                                  20   96 B

        trainable     20 parameters in 2 arrays, 80 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        optimizer     164 B of state for adam
        """,
        depth=0,
    )


def test_depth_one():
    shows(
        [layer(), jnp.ones(1)],
        """
                                                                           params  bytes
        list                                                                   21  100 B
        ├ 0 Layer bias=None, size=4, name='first'                              20   96 B
        └ 1  param ?  f32[1]                                                    1    4 B

        trainable     21 parameters in 3 arrays, 84 B
        buffers       4 elements in 1 array, 16 B
        other         1 leaf that is no array
          lora        8 parameters in 1 array, 32 B
          batch_stat  4 elements in 1 array, 16 B
        optimizer     172 B of state for adam
        ? nobody says a role: Equinox's convention
        """,
        depth=1,
    )


def test_numbers_are_wide_where_they_must_be():
    a = jax.ShapeDtypeStruct((300_000, 40_000), "float32")
    b = jax.ShapeDtypeStruct((99_999,), "int8")
    shows(
        {"a": a, "b": b},
        """
                                                                        params     bytes
        dict                                                            12.0 B  44.7 GiB
        ├ a  param ?   f32[300000,40000]                                12.0 B  44.7 GiB
        └ b  buffer ?  i8[99999]                                                97.7 KiB

        trainable   12,000,000,000 parameters in 1 array, 44.7 GiB
        buffers     99,999 elements in 1 array, 97.7 KiB
        optimizer   89.4 GiB of state for adam
        ? nobody says a role: Equinox's convention
        """,
    )


def test_an_array_on_a_mesh_of_one_device_is_not_sharded():
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    found = anx.summary(jax.device_put(jnp.ones(2), sharding))
    assert found.to_dict()["rows"][0]["sharding"] is None


def test_the_data_of_rows():
    model = anx.adopt([layer(), Plain(None, jnp.tanh)])
    first, module, weight, *_, plain = anx.summary(model).to_dict()["rows"]
    assert first == {
        "path": "",
        "kind": "container",
        "level": 0,
        "class": "list",
        "parameters": 20,
        "bytes": 96,
        "fields": [],
    }
    assert (module["path"], module["kind"], module["class"]) == ("0", "module", "Layer")
    assert [field["name"] for field in module["fields"]] == [
        "bias",
        "activation",
        "size",
        "name",
    ]
    assert module["fields"][2] == {
        "name": "size",
        "value": "4",
        "role": "hyper",
        "static": True,
        "inferred": False,
    }
    assert weight == {
        "path": "0.weight",
        "kind": "leaf",
        "level": 2,
        "class": None,
        "parameters": 12,
        "bytes": 48,
        "role": "param",
        "kind_of_role": "param",
        "trainable": True,
        "origin": "declared",
        "frozen": False,
        "enforced": True,
        "dtype": "float32",
        "shape": [3, 4],
        "axes": ["out_features", "in_features"],
        "tags": [],
        "sharding": None,
        "same_as": None,
        "value": None,
        "doc": "",
    }
    assert [(f["name"], f["static"], f["inferred"]) for f in plain["fields"]] == [
        ("scale", False, False),
        ("function", True, True),
    ]


def test_a_depth_beyond_the_model_changes_nothing():
    assert str(anx.summary(layer(), depth=99)) == str(anx.summary(layer()))
    assert str(anx.summary(layer(), depth=np.int64(1))) == str(anx.summary(layer()))


def test_thirty_levels_stay_within_eighty_columns():
    nested = jnp.ones(2)
    for _ in range(30):
        nested = {"inner": nested, "w": jnp.ones(1)}
    lines = str(anx.summary(nested)).split("\n")
    assert len(lines) == 66
    assert max(map(len, lines)) == 80
    assert lines[31].startswith("… │ │ │ │ │ │ │ │ │ │ │ │ │ │ ├ inner  param ?  f32[2] ")


def test_narrow_tables_wrap_what_is_below():
    assert anx.summary([layer(), *linears(3)]).text(1) == text(
        """
                                   params  bytes
        list                           38  168 B
        ├ 0 Layer bias=None, siz…      20   96 B
        │ ├ weight  param              12   48 B
        │ ├ down  lora (param)  …       8   32 B
        │ ├ mean  batch_stat …  …           16 B
        │ └ …ation  opaque
        └ 1–3 Linear ×3 in_featu…      18   72 B
          ├ weight  param               4   16 B
          └ bias  param         …       2    8 B

        trainable    38 parameters in 8 arrays,
                     152 B
        buffers      4 elements in 1 array, 16 B
        other        1 leaf that is no array
          lora       8 parameters in 1 array, 32
                     B
          batch_stat 4 elements in 1 array, 16 B
        optimizer    308 B of state for adam
        × equal neighbours: the line counts all,
          its contents are those of one
        """
    )


def test_sharded_arrays_tell_how():
    code = """
        import jax, jax.numpy as jnp, annotax as anx
        from jax.sharding import NamedSharding, PartitionSpec as P

        mesh = jax.make_mesh((2, 2), ("data", "model"))

        def put(shape, *spec):
            return jax.device_put(jnp.ones(shape), NamedSharding(mesh, P(*spec)))

        model = {
            "both": put((4, 8), "data", "model"),
            "joint": put((8,), ("data", "model")),
            "one": jnp.ones(3),
            "partly": put((4, 3), "data", None),
            "whole": put((2,)),
        }
        found = anx.summary(model)
        print(found)
        print([row.get("sharding") for row in found.to_dict()["rows"]])
        assert found._repr_html_()
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        },
    )
    assert text(run.stdout) == text(
        """
                                                                           params  bytes
        dict                                                                   57  228 B
        ├ both    param ?  f32[4,8] P('data', 'model')                         32  128 B
        ├ joint   param ?  f32[8] P(('data', 'model'))                          8   32 B
        ├ one     param ?  f32[3]                                               3   12 B
        ├ partly  param ?  f32[4,3] P('data', None)                            12   48 B
        └ whole   param ?  f32[2] P()                                           2    8 B

        trainable   57 parameters in 5 arrays, 228 B
        optimizer   460 B of state for adam
        ? nobody says a role: Equinox's convention
        [None, "P('data', 'model')", "P(('data', 'model'))", None, "P('data', None)", 'P()']
        """
    )
