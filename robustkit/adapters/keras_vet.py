"""Is a Keras file data? Read before Keras may open it: by its layers, its archive, its links, its TensorFlow operators.

`.keras` and `.h5` hold a description that names Python classes and functions; HDF5 can lead to other files; the graph
of a SavedModel can read and write them. What is accepted here is what an image classifier consists of; everything
else is refused by name. Keras' own safe mode is on as well; it does not cover all of this in every version and format.
"""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustkit.adapters import sniff
from robustkit.adapters.sniff import CURE
from robustkit.errors import ModelError

EXPORT = "; export it with model.export(NAME, format='onnx')"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
GRAPH_FILES = ("saved_model.pb", "fingerprint.pb", "keras_metadata.pb")
DATA_MODULES = re.compile(
    r"keras(\.src)?\.(initializers|regularizers|constraints|losses|metrics|optimizers|dtype_policies|quantizers)\b[\w.]*\Z"
)
OPERATION_MODULES = re.compile(r"keras\.src\.ops\.(nn|numpy|math|image|linalg)\Z")
FUNCTION_MODULES = re.compile(r"builtins\Z|keras(\.src)?\.(activations|losses|metrics|ops)\b[\w.]*\Z")
VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__")
MODELS = ("Functional", "Sequential", "Model", "DTypePolicy", "DTypePolicyMap", "FloatDTypePolicy", "Policy")
LAYERS = _words(
    """
    InputLayer Dense EinsumDense Activation Identity Embedding Masking TimeDistributed Bidirectional LSTM GRU
    Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose SeparableConv1D SeparableConv2D DepthwiseConv1D
    DepthwiseConv2D Convolution1D Convolution2D Convolution3D ConvLSTM2D
    MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D MaxPool1D MaxPool2D
    MaxPool3D AvgPool1D AvgPool2D AvgPool3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPool2D GlobalAvgPool2D
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D
    AdaptiveMaxPooling3D
    BatchNormalization BatchNormalizationV1 LayerNormalization GroupNormalization UnitNormalization RMSNormalization
    SpectralNormalization Normalization Rescaling Resizing CenterCrop
    Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout AlphaDropout GaussianNoise
    ActivityRegularization RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast RandomBrightness
    Flatten Reshape Permute RepeatVector Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    UpSampling1D UpSampling2D UpSampling3D
    Add Subtract Multiply Average Maximum Minimum Concatenate Dot Attention AdditiveAttention MultiHeadAttention
    GroupQueryAttention ReLU LeakyReLU PReLU ELU Softmax ThresholdedReLU
    """
)
"""Layers whose description holds numbers and nothing else; one that names a file or code is not among them."""
PLAIN = _words(
    """
    Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling GlorotNormal GlorotUniform HeNormal
    HeUniform LecunNormal LecunUniform Orthogonal Identity L1 L2 L1L2 OrthogonalRegularizer MaxNorm NonNeg UnitNorm
    MinMaxNorm
    """
)
"""Parts of layers as Keras 2 wrote them, without their module."""
FUNCTIONS = _words(
    """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear log_sigmoid
    log_softmax mish relu relu6 selu sigmoid silu softmax softplus softsign soft_shrink sparse_plus sparse_sigmoid
    sparsemax squareplus swish tanh tanh_shrink threshold categorical_crossentropy sparse_categorical_crossentropy
    binary_crossentropy mean_squared_error
    """
)
GRAPH = _words(
    """
    Abs Add AddN AddV2 All Any ArgMax ArgMin Assert AssignVariableOp AvgPool AvgPool3D BatchMatMul BatchMatMulV2
    BatchMatMulV3 BiasAdd BroadcastArgs BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv2D
    Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 Cos Cumsum DepthToSpace DepthwiseConv2dNative DisableCopyOnRead Div
    DivNoNan Einsum Elu Equal Erf Erfc Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual Identity IdentityN If InvertPermutation IsFinite
    IsInf IsNan L2Loss LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool
    MaxPool3D MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mod Mul Neg NextIteration NoOp NotEqual OneHot OnesLike Pack
    Pad PadV2 PartitionedCall Placeholder PlaceholderWithDefault Pow PreventGradient Prod Range Rank ReadVariableOp
    RealDiv Reciprocal Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2 Rint
    Round Rsqrt Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Size Slice Snapshot Softmax Softplus Softsign
    SpaceToBatchND BatchToSpaceND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessIf StatelessWhile StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose
    TruncateDiv Unpack VarHandleOp VarIsInitializedOp VariableShape Where While Xdivy Xlogy ZerosLike
    StatelessRandomGetKeyCounter StatelessRandomUniformV2 StatelessRandomNormalV2 StatelessRandomGetAlg
    """
)
"""TensorFlow operators that compute with tensors and reach nothing else."""
SAVING = _words("MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch StringJoin")
"""What TensorFlow's own saver consists of; accepted in functions that nothing calls."""


def check_archive(path: Path) -> None:
    """Refuse a `.keras` archive with anything but standard layers and weights in it (ModelError)."""
    for name in sniff.zip_members(path):
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise ModelError(f"{path.name} holds {name!r:.80}, which leads outside its folder{EXPORT}")
        if name not in MEMBERS and name != "assets/":
            raise ModelError(f"{path.name} holds {name!r:.80}, which is neither layers nor weights{EXPORT}")
    config = sniff.json_member(path, "config.json")
    if isinstance(config, dict):
        config = {**config, "compile_config": None}  # how it was trained is not read
    check_config(path.name, config)
    weights = sniff.read_member(path, "model.weights.h5", limit=2**33)
    check_hdf5(path.name, io.BytesIO(weights), len(weights))


def check_hdf5_model(path: Path) -> None:
    """Refuse an `.h5` model with anything but standard layers and weights in it (ModelError)."""
    text = check_hdf5(path.name, path, path.stat().st_size).get("model_config")
    if text is None:
        raise ModelError(
            f"{path.name} holds weights without a network; save the whole model with model.save('NAME.keras')"
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"model_config in {path.name} is damaged; save the model again") from None
    check_config(path.name, config)


def check_config(name: str, config: Any) -> None:
    """Refuse a description of a network that names a class or function beyond those listed here (ModelError)."""
    for entry in _dicts(config):
        kind = entry.get("class_name")
        if kind is None:
            continue
        module, registered = entry.get("module"), entry.get("registered_name")
        if kind in ("Lambda", "__lambda__"):
            inner = entry.get("config")
            which = inner.get("name") if isinstance(inner, Mapping) else None
            raise ModelError(
                f"{name} has a Lambda layer{f' ({which})' if which else ''}, and loading one runs code; build it from "
                f"standard layers or keras.ops, or export the model to ONNX where it was made{CURE}"
            )
        if kind == "function":
            function = entry.get("config")
            if function not in FUNCTIONS or not _matches(FUNCTION_MODULES, module):
                raise _custom(name, "function", f"{module}.{function}" if module else function)
        elif kind in VALUES:
            continue
        elif registered not in (None, kind) or not _is_known(kind, module):
            raise _custom(name, "object", registered or (f"{module}.{kind}" if module else kind))


def check_hdf5(name: str, source: Any, size: int) -> dict[str, str]:
    """Return the text attributes of an HDF5 file without links, external or virtual data, else ModelError.

    Parameters
    ----------
    name : for messages. source : a path or binary stream. size : its bytes, which its content may not exceed far.
    """
    import h5py

    try:
        with h5py.File(source, "r") as archive:
            _check_group(name, archive, size, set())
            found = {key: archive.attrs[key] for key in archive.attrs if key in ("model_config", "robustkit.spec")}
            return {key: v.decode() if isinstance(v, bytes) else str(v) for key, v in found.items()}
    except ModelError:
        raise
    except Exception:  # h5py raises a dozen kinds for damaged files
        raise ModelError(f"{name} is truncated or damaged; copy or save it again") from None


def check_saved_model(path: Path) -> None:
    """Refuse a SavedModel whose functions do more than compute with tensors, or which brings other files (ModelError).

    Notes
    -----
    TensorFlow runs the functions that the object graph names, and what those call. Its saver's functions are named by
    the main graph alone, which is not run; models of TensorFlow 1, where it is, are refused.
    """
    _check_folder(path)
    graph = _meta_graph(path)
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind in ("asset", "resource") or node.registered_saver:
            raise ModelError(f"{path.name} holds a table, a file or a saver of its own, not only weights{EXPORT}")
    functions = {f.signature.name: f.node_def for f in graph.graph_def.library.function}
    called = set(graph.object_graph_def.concrete_functions)
    called |= {g.gradient_func for g in graph.graph_def.library.gradient}
    called |= {name for nodes in functions.values() for name in _names_in(nodes)}
    for function, nodes in functions.items():
        allowed = GRAPH if function in called else GRAPH | SAVING
        strange = sorted({node.op for node in nodes} - allowed - {name for name in functions if name.startswith("__")})
        if strange:
            raise ModelError(f"{path.name} uses {', '.join(strange):.120}, which is no tensor operator{CURE}")


def last_graph_operator(path: Path) -> str | None:
    """Return the ONNX name of the operator that makes a SavedModel's only output, seen through calls; None: unknown."""
    graph = _meta_graph(path)
    library = {f.signature.name: f for f in graph.graph_def.library.function}
    kind, function = "", ""
    for node in graph.object_graph_def.nodes:  # its signatures' functions end in the same operator
        if node.HasField("bare_concrete_function"):
            function = node.bare_concrete_function.concrete_function_name
    for _ in library:
        body = library.get(function)
        if body is None:
            break
        nodes = {node.name: node for node in body.node_def}
        place = next(iter(body.ret.values()), "") if len(body.ret) == 1 else ""
        found = nodes.get(place.partition(":")[0])
        for _ in nodes:
            if found is None or found.op not in ("Identity", "Cast", "Reshape", "Squeeze") or not found.input:
                break
            found = nodes.get(found.input[0].partition(":")[0])
        if found is None:
            return None
        kind, function = found.op, found.attr["f"].func.name
    return {"Softmax": "Softmax", "Sigmoid": "Sigmoid", "BiasAdd": "Gemm", "AddV2": "Gemm", "MatMul": "Gemm"}.get(kind)


def _is_known(kind: Any, module: Any) -> bool:
    if not isinstance(kind, str) or not kind.isidentifier():
        return False
    if module is None:
        return kind in LAYERS or kind in MODELS or kind in PLAIN
    if _matches(DATA_MODULES, module) or (_matches(OPERATION_MODULES, module) and kind[0].isupper()):
        return True
    return str(module).partition(".")[0] == "keras" and (kind in LAYERS or kind in MODELS)


def _matches(pattern: re.Pattern[str], module: Any) -> bool:
    return isinstance(module, str) and pattern.match(module) is not None


def _custom(name: str, what: str, which: Any) -> ModelError:
    return ModelError(
        f"{name} wants the custom {what} {which!r:.80}, which is code outside the file; build it from standard layers, "
        f"or export the model to ONNX where it was made{CURE}"
    )


def _dicts(node: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > 200:
        raise ModelError("the description of the network is nested too deeply; save the model again")
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _dicts(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from _dicts(value, depth + 1)


def _check_group(name: str, group: Any, size: int, seen: set[int]) -> None:
    """Walk a group by its links; `seen` holds the addresses of objects, which several names may share."""
    import h5py

    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ModelError(f"{name} keeps {key!r:.60} as a link, not as weights; save the model again")
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            _check_group(name, item, size, seen)
        elif item.external or item.is_virtual:
            raise ModelError(f"{name} keeps {key!r:.60} in another file; save the model again, as one file")
        elif item.nbytes > sniff.INFLATION * size + 2**26:
            raise ModelError(f"{name} would unpack to {item.nbytes / 2**20:.0f} MiB; save the model again")


def _check_folder(path: Path) -> None:
    for item in sorted(path.rglob("*")):
        place = item.relative_to(path).as_posix()
        status = item.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ModelError(f"{path.name} holds {place!r:.80}, a link to a file elsewhere; copy it in its place")
        if place not in GRAPH_FILES and not place.startswith("variables/"):
            raise ModelError(f"{path.name} holds {place!r:.80}, which is neither graph nor weights{EXPORT}")


def _meta_graph(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception:  # protobuf's exceptions differ between its implementations
        raise ModelError(f"{path.name} is truncated or damaged; export it again") from None
    if len(content.meta_graphs) != 1 or not content.meta_graphs[0].HasField("object_graph_def"):
        raise ModelError(f"{path.name} is no SavedModel of TensorFlow 2{EXPORT}")
    return content.meta_graphs[0]


def _names_in(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (f.name for f in value.list.func)
