"""What a model is made of, read from the layers and connections of its graph.

Every part of this package that looks into a model asks here. Names decide nothing: layers may be
renamed or stand under a name scope, other layers may come before the CvT and behind it, and the CvT may
be a layer of another model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_cvt._keras_internal import (
    Call,
    calls,
    flatten_layers,
    graph_of,
    own_weights,
    run_graph,
    sublayers,
)
from keras_cvt.architecture import StageConfig
from keras_cvt.layers import ClassToken, ConvEmbedding, CvTBlock, PositionEmbedding

_OF_A_STAGE = (ConvEmbedding, PositionEmbedding, ClassToken, CvTBlock)


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """The layers of one stage of a CvT.

    Attributes:
        embedding: Its convolutional token embedding.
        position_embedding: None where there is none.
        class_token: None where there is none.
        blocks: In the order in which they run.
        inputs: What enters each block, as symbolic tensors: (map,) or (map, class token).
        map: The map that leaves the last block; None where the block computes only the class token.
    """

    embedding: ConvEmbedding
    position_embedding: PositionEmbedding | None
    class_token: ClassToken | None
    blocks: tuple[CvTBlock, ...]
    inputs: tuple[tuple[keras.KerasTensor, ...], ...]
    map: keras.KerasTensor | None

    @property
    def config(self) -> StageConfig:
        """The configuration from which `CvT` makes such a stage."""
        position = self.position_embedding
        return StageConfig.from_layers(
            self.embedding,
            self.blocks,
            class_token=self.class_token is not None,
            position_embedding=False if position is None else position.size,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The linear layer that gives a model's answers, and what follows it.

    Attributes:
        dense: The layer.
        features: What it sees, as a symbolic tensor.
        path: The models, each a layer of the one before, down to the one whose graph has the layer;
            empty where the whole model's own graph has it.
        behind: The operations from the layer to the model's output, such as an Activation.
    """

    dense: keras.layers.Dense
    features: keras.KerasTensor
    path: tuple[keras.Model, ...]
    behind: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A model with one CvT in it.

    Attributes:
        model: The whole model.
        path: The layers, each inside of the one before, from the model down to the model whose graph
            has the CvT's layers. Empty where that is the whole model.
        graph: The functional model whose graph has the CvT's layers.
        doors: For each of `path` its call in the graph around it, where there is exactly one. Shorter
            than `path` where a layer is no functional model, or is called more than once.
        stages: The CvT's stages.
        image: What enters the first embedding: a symbolic tensor of `graph`.
        before: The operations between the model's inputs and `image`, at all levels, in order.
        token_only: Whether the last block computes only the class token.
        norm: The final LayerNormalization behind the last block; None where there is none.
        classifier: The Dense directly on the final norm in `graph`, with nothing between that has
            weights; None where there is none. It is what the official models call their head.
        head: The Dense that gives the whole model's answers, wherever it is. None where something else
            gives them, or where there are several outputs.
    """

    model: keras.Model
    path: tuple[keras.Layer, ...]
    graph: keras.Model
    doors: tuple[Call, ...]
    stages: tuple[Stage, ...]
    image: keras.KerasTensor
    before: tuple[Any, ...]
    token_only: bool
    norm: keras.layers.LayerNormalization | None
    classifier: keras.layers.Dense | None
    head: Head | None

    @property
    def configs(self) -> list[StageConfig]:
        return [stage.config for stage in self.stages]

    def parts(self) -> Iterator[tuple[str, keras.Layer]]:
        """The CvT's layers that have weights, with the names that `CvT` gives to them."""
        for i, stage in enumerate(self.stages):
            yield f"stage{i}_patch_embed", stage.embedding
            if stage.position_embedding is not None:
                yield f"stage{i}_pos_embed", stage.position_embedding
            if stage.class_token is not None:
                yield f"stage{i}_cls_token", stage.class_token
            for j, block in enumerate(stage.blocks):
                yield f"stage{i}_blocks_{j}", block
        if self.norm is not None:
            yield "norm", self.norm
        if self.classifier is not None:
            yield "head", self.classifier

    def around(self) -> list[tuple[keras.Model, Any]]:
        """The graphs around the CvT's, outermost first, each with the tensors that enter the next.

        Raises:
            ValueError: If no path of functional graphs leads to the CvT, naming the layer in the way.
        """
        if len(self.doors) < len(self.path):
            layer = self.path[len(self.doors)]
            inside = self.path[len(self.doors) - 1] if self.doors else self.model
            unseen = next((each for each in (inside, layer) if graph_of(each) is None), None)
            problem = (
                f"{layer.name!r} is called more than once in {inside.name!r}"
                if unseen is None
                else f"{unseen.name!r} ({type(unseen).__name__}) is not one"
            )
            raise ValueError(
                f"The CvT of {self.model.name!r} must be reached through functional models, each "
                f"called once, and {problem}. Give the CvT itself."
            )
        outer = [self.model, *self.path][: len(self.path)]
        return [
            (graph_of(model), door.inputs[0] if len(door.inputs) == 1 else list(door.inputs))
            for model, door in zip(outer, self.doors, strict=True)
        ]

    def compute(self, inputs: Any, tensors: Any) -> Any:
        """The values of symbolic tensors of `graph`, in inference, for inputs of the whole model.

        Raises:
            ValueError: As `around`.
        """
        for graph, entering in self.around():
            inputs = keras.Model(graph.input, entering)(inputs, training=False)
        return keras.Model(self.graph.input, tensors)(inputs, training=False)


def structure_of(model: keras.Model) -> Structure:
    """Reads what a model is made of.

    Args:
        model: Made by `CvT13`, `CvT21`, `CvTW24` or `CvT`; or any model with one such model in it, its
            layers flat or nested: with preprocessing before it, with another head, deployed, quantized,
            loaded or cloned.

    Returns:
        Its `Structure`.

    Raises:
        ValueError: for a model without a CvT, or with more than one.
    """
    found = list(_find(model, (), set()))
    if not found:
        raise ValueError(
            f"Expected a model made by keras_cvt (CvT13, CvT21, CvTW24 or CvT), or one with such a "
            f"model in it. {model.name!r} has no ConvEmbedding."
        )
    if len(found) > 1:
        names = " and ".join(repr((path or (model,))[-1].name) for path, _ in found)
        raise _several(model, f"{len(found)} of its models have ConvEmbeddings: {names}")
    ((path, graph),) = found
    if graph is None:
        layer = (path or (model,))[-1]
        raise ValueError(
            f"The layers of a CvT must be connected in a functional model. {layer.name!r} is a "
            f"{type(layer).__name__} with layers of keras_cvt."
        )
    stages, image = _stages(graph, model)
    last = stages[-1]
    outer = [model, *path][: len(path)]
    doors = _doors(outer, path)
    before = []
    for level, door in zip(outer, doors, strict=False):
        before += _upstream(graph_of(level), door.inputs)
    norm, classifier = _final_layers(graph, last.blocks[-1])
    return Structure(
        model=model,
        path=path,
        graph=graph,
        doors=doors,
        stages=stages,
        image=image,
        before=(*before, *_upstream(graph, (image,))),
        token_only=last.map is None,
        norm=norm,
        classifier=classifier,
        head=_head(model),
    )


def stage_configs(model: keras.Model) -> list[StageConfig]:
    """The configurations of the stages of the CvT in a model.

    Raises:
        ValueError: as `structure_of`.
    """
    return structure_of(model).configs


def weights_by_path(layer: keras.Layer) -> dict[str, keras.Variable]:
    """The weights of a layer by their paths in it, such as "attn/proj_q/kernel", made of the names of
    its sublayers, which their layer has given to them."""
    weights = {weight.name: weight for weight in own_weights(layer)}
    for sublayer in sublayers(layer):
        for path, weight in weights_by_path(sublayer).items():
            weights[f"{sublayer.name}/{path}"] = weight
    return weights


def copy_weights(source: keras.Layer, target: keras.Layer) -> None:
    """Gives a layer or model the weights of another one that is made of the same layers.

    Unlike `set_weights`, it tells each layer, as loading from a file does: an adapted Normalization
    computes with copies of its weights, which it makes then.

    Raises:
        ValueError: If the layers or their weights are not the same.
    """
    for ours, theirs in zip(flatten_layers(target), flatten_layers(source), strict=True):
        if own_weights(theirs):
            store: dict[str, Any] = {}
            theirs.save_own_variables(store)
            # Copies: JAX's `fit` and `predict` give a model's arrays away, and put back new ones in
            # that model alone. Another with the same arrays would have none any more.
            ours.load_own_variables(
                {name: np.array(keras.ops.convert_to_numpy(v)) for name, v in store.items()}
            )


def with_features(model: keras.Model) -> keras.Model:
    """The model with two outputs: its own, and what its head sees. It shares the layers.

    Args:
        model: One whose `Structure` has a head.
    """
    head = structure_of(model).head

    def extended(model, path):
        graph = graph_of(model)
        if not path:
            return keras.Model(graph.input, [graph.output, head.features], name=model.name)
        inner = extended(path[0], path[1:])
        features = []

        def call(operation, *args, **kwargs):
            if operation is not path[0]:
                return operation(*args, **kwargs)
            answers, seen = inner(*args, **kwargs)
            features.append(seen)
            return answers

        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), graph.input
        )
        answers = run_graph(graph, inputs, call)
        return keras.Model(inputs, [answers, features[-1]], name=model.name)

    return extended(model, head.path)


def _several(model: keras.Model, found: str) -> ValueError:
    return ValueError(f"Expected a model with one CvT. Of {model.name!r}, {found}.")


def _find(layer, path, seen) -> Iterator[tuple[tuple[keras.Layer, ...], keras.Model | None]]:
    """The models with ConvEmbeddings of their own: (path to it, its graph or None)."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    graph = graph_of(layer)
    inside = sublayers(layer) if graph is None else graph.operations
    if any(isinstance(operation, ConvEmbedding) for operation in inside):
        yield path, graph
    for operation in inside:
        if isinstance(operation, keras.Layer) and not isinstance(operation, _OF_A_STAGE):
            yield from _find(operation, (*path, operation), seen)


def _doors(outer, path) -> tuple[Call, ...]:
    doors = []
    for model, layer in zip(outer, path, strict=True):
        graph = graph_of(model)
        found = [] if graph is None else [c for c in calls(graph) if c.operation is layer]
        if len(found) != 1 or graph_of(layer) is None:
            break
        doors += found
    return tuple(doors)


def _producers(graph: keras.Function) -> dict[int, Call]:
    return {id(tensor): call for call in calls(graph) for tensor in call.outputs}


def _upstream(graph: keras.Function, tensors: tuple[keras.KerasTensor, ...]) -> list[Any]:
    """The operations on which tensors depend, in the order in which they run; inputs left out."""
    needed = {id(tensor) for tensor in tensors}
    operations = []
    for call in reversed(calls(graph)):
        if needed.intersection(map(id, call.outputs)):
            needed.update(map(id, call.inputs))
            operations.insert(0, call.operation)
    return operations


class _StageCalls:
    """The calls of one stage's layers, as they are found along the graph."""

    def __init__(self, embedding: ConvEmbedding):
        self.embedding = embedding
        self.position_embedding = self.class_token = None
        self.blocks: dict[int, list[Call]] = {}  # a pyramid calls its last block a second time

    def add(self, call: Call) -> None:
        if isinstance(call.operation, PositionEmbedding):
            self.position_embedding = call.operation
        elif isinstance(call.operation, ClassToken):
            self.class_token = call.operation
        elif isinstance(call.operation, CvTBlock):
            self.blocks.setdefault(id(call.operation), []).append(call)

    def stage(self) -> Stage:
        *_, last = self.blocks.values()
        # Called with the class token, a block that returns one tensor returns the class token.
        maps = [call.outputs[0] for call in last if len(call.outputs) == len(call.inputs)]
        return Stage(
            embedding=self.embedding,
            position_embedding=self.position_embedding,
            class_token=self.class_token,
            blocks=tuple(found[0].operation for found in self.blocks.values()),
            inputs=tuple(found[0].inputs for found in self.blocks.values()),
            map=maps[0] if maps else None,
        )


def _stages(graph, model) -> tuple[tuple[Stage, ...], keras.KerasTensor]:
    """The stages in a graph, and what enters the first."""
    producers = _producers(graph)
    stages: list[_StageCalls] = []
    stage_of: dict[int, _StageCalls] = {}

    def nearest(tensors) -> set[_StageCalls]:
        """The stages of the layers that are met first on the way back."""
        found, seen, waiting = set(), set(), list(tensors)
        while waiting:
            call = producers.get(id(waiting.pop()))
            if call is None or id(call) in seen:
                continue
            seen.add(id(call))
            if id(call.operation) in stage_of:
                found.add(stage_of[id(call.operation)])
            else:
                waiting += call.inputs
        return found

    image = None
    for call in calls(graph):
        layer = call.operation
        if not isinstance(layer, _OF_A_STAGE):
            continue
        if id(layer) not in stage_of:
            before = nearest(call.inputs)
            if (stages[-1] not in before) if stages else before:
                raise _several(model, f"{layer.name!r} does not follow {_name_of(stages[-1])}")
            if isinstance(layer, ConvEmbedding):
                if not stages:
                    (image,) = call.inputs
                stages.append(_StageCalls(layer))
            elif not stages:
                raise _several(model, f"{layer.name!r} follows no ConvEmbedding")
            stage_of[id(layer)] = stages[-1]
        stage_of[id(layer)].add(call)
    for stage in stages:
        if not stage.blocks:
            raise ValueError(
                f"Expected a CvT, which has blocks in each stage. In {model.name!r}, no CvTBlock "
                f"follows {_name_of(stage)}."
            )
    return tuple(stage.stage() for stage in stages), image


def _name_of(stage: _StageCalls) -> str:
    return repr(stage.embedding.name)


def _has_weights(operation: Any) -> bool:
    return isinstance(operation, keras.Layer) and bool(operation.weights)


def _final_layers(graph, last_block):
    """The final norm and the classifier behind the last block; each may be None."""
    producers = _producers(graph)

    def origin(call: Call) -> Any:
        """The operation before, without those that have no weights."""
        while len(call.inputs) == 1 and (call := producers.get(id(call.inputs[0]))) is not None:
            if _has_weights(call.operation):
                return call.operation
        return None

    def behind(kind, operation):
        return next(
            (
                call.operation
                for call in calls(graph)
                if isinstance(call.operation, kind) and origin(call) is operation
            ),
            None,
        )

    norm = behind(keras.layers.LayerNormalization, last_block)
    return norm, None if norm is None else behind(keras.layers.Dense, norm)


def ending(model: Any, path: tuple = ()) -> Iterator[tuple[Call, tuple[keras.Model, ...]]]:
    """The calls from a model's output backwards, to the first one that has weights.

    Args:
        model: Its answers are one tensor, or there is nothing to follow.
        path: The models around it, each a layer of the one before.

    Yields:
        A call, and the models down to the one whose graph has it.
    """
    graph = graph_of(model)
    if graph is None or len(graph.outputs) != 1:
        return
    producers = _producers(graph)
    tensor = graph.outputs[0]
    while (call := producers.get(id(tensor))) is not None:
        if graph_of(call.operation) is not None:
            yield from ending(call.operation, (*path, call.operation))
            return
        yield call, path
        if _has_weights(call.operation) or len(call.inputs) != 1:
            return
        tensor = call.inputs[0]


def _head(model: Any) -> Head | None:
    """The Dense from which the output comes, looked for from there backwards."""
    behind: tuple = ()
    for call, path in ending(model):
        if isinstance(call.operation, keras.layers.Dense):
            return Head(call.operation, call.inputs[0], path, behind)
        behind = (call.operation, *behind)
    return None
