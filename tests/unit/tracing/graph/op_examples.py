"""Example arguments for every operation of the table: an operation without one fails the suite."""

from typing import Any

import torch
from torch import Tensor

from tracing.graph.ops_schema import words

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Call:
    """Arguments as they would be written."""
    return args, kwargs


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


A = _random(3, 4)
B = _random(3, 4, seed=1)
W = _random(5, 4)
V = _random(4)
C = _random(2, 3, 4)
D = _random(2, 4, 5)
SQUARE = _random(3, 3) + 3 * torch.eye(3)
SYMMETRIC = SQUARE @ SQUARE.T
POSITIVE = A.abs() + 0.5
UNIT = torch.sigmoid(A)
IDS = torch.tensor([[0, 2], [1, 1], [2, 0]])
LABELS = torch.tensor([1, 0, 3])
MASK = A > 0
INTS = torch.tensor([[6, 4, 9], [3, 8, 5]])
LONG = torch.tensor([0, 2, 1, 2])
IMAGE = _random(1, 2, 6, 6)
WAVE = torch.complex(_random(3, 4), _random(3, 4, seed=2))
INDEX = torch.tensor([0, 2])
HEADS = _random(1, 2, 3, 4)

EXAMPLES: dict[str, list[Call]] = {
    "add": [call(A, B), call(A, 2), call(2, A), call(A, B, alpha=0.5), call(3, 4), call(A.shape, (5,)), call(1.5, 2)],
    "sub": [call(A, B), call(2, A), call(A, B, alpha=2), call(3, 4)],
    "rsub": [call(A, 2), call(A, B)],
    "mul": [call(A, B), call(2.5, A), call(3, 4)],
    "div": [call(A, B), call(1, POSITIVE), call(A, 2, rounding_mode="floor"), call(3, 4)],
    "rdiv": [call(POSITIVE, 2)],
    "floor_divide": [call(A, POSITIVE), call(7, POSITIVE), call(7, 2)],
    "rfloor_divide": [call(POSITIVE, 2)],
    "remainder": [call(A, 2), call(7, POSITIVE), call(7, 4)],
    "rremainder": [call(POSITIVE, 2)],
    "pow": [call(A, 2), call(2, A), call(POSITIVE, B), call(3, 4)],
    "rpow": [call(A, 2)],
    "neg": [call(A), call(3)],
    "positive": [call(A), call(3)],
    "abs": [call(A), call(-3)],
    **{
        name: [call(A, B), call(A, 0), call(INTS, INTS), call(2, 3), call(0.0, A)]
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    **{
        f"bitwise_{name}": [call(MASK, ~MASK), call(INTS, 5), call(5, INTS), call(6, 3)]
        for name in ("and", "or", "xor")
    },
    "bitwise_not": [call(MASK), call(INTS)],
    **{name: [call(INTS, INTS.flip(0))] for name in ("gcd", "lcm")},
    "logical_and": [call(MASK, B > 0)],
    "logical_or": [call(MASK, B > 0)],
    "logical_xor": [call(MASK, B > 0)],
    "logical_not": [call(MASK)],
    **{name: [call(UNIT)] for name in ("asin", "acos", "atanh", "erfinv")},
    "acosh": [call(POSITIVE + 1)],
    **{name: [call(POSITIVE)] for name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "lgamma", "digamma")},
    "real": [call(WAVE), call(A)],
    "imag": [call(WAVE)],
    "angle": [call(WAVE)],
    "sgn": [call(WAVE), call(A)],
    "fmod": [call(A, 2), call(A, POSITIVE)],
    "copysign": [call(A, B), call(A, -1.0)],
    "float_power": [call(POSITIVE, 2), call(2, A)],
    "ldexp": [call(A, LONG)],
    "xlogy": [call(A, POSITIVE), call(2.0, POSITIVE)],
    "clamp": [call(A, 0), call(A, min=-0.5, max=0.5), call(A, None, 0.1), call(A, B, B + 1)],
    "clamp_min": [call(A, 0)],
    "clamp_max": [call(A, 0)],
    "round": [call(A), call(A, decimals=2)],
    "nan_to_num": [call(A / 0), call(A, nan=0.0, posinf=1.0, neginf=-1.0)],
    "logit": [call(UNIT), call(UNIT, 1e-3)],
    "lerp": [call(A, B, 0.3), call(A, B, UNIT)],
    "addcmul": [call(A, B, A), call(A, B, A, value=0.1)],
    "addcdiv": [call(A, B, POSITIVE, value=0.1)],
    "softmax": [call(A, -1), call(A, dim=0, dtype=torch.float64)],
    "log_softmax": [call(A, -1), call(A, dim=0, dtype=torch.float64)],
    "prelu": [call(A, torch.tensor([0.2]))],
    "hardshrink": [call(A), call(A, 0.3)],
    "isclose": [call(A, A + 1e-9), call(A, B, rtol=1.0, atol=0.1, equal_nan=True)],
    "allclose": [call(A, A + 1e-9), call(A, B)],
    "equal": [call(A, A), call(A, B)],
    "complex": [call(A, B)],
    "polar": [call(POSITIVE, B)],
    "view_as_real": [call(WAVE)],
    "view_as_complex": [call(_random(3, 2))],
    "special.entr": [call(UNIT)],
    "special.logsumexp": [call(A, 1)],
    "special.softmax": [call(A, 1)],
    "special.log_softmax": [call(A, 1)],
    "special.ndtr": [call(A)],
    # -- reductions --------------------------------------------------------------------------------------------------
    **{
        name: [call(A), call(A, 1), call(A, (0, 1), keepdim=True), call(A, dim=0, dtype=torch.float64)]
        for name in ("mean", "sum", "nansum", "nanmean")
    },
    "prod": [call(A), call(A, 1, True)],
    **{
        name: [call(A), call(A, 1), call(A, (0, 1), keepdim=True), call(A, 1, correction=0), call(A, 1, False)]
        for name in ("std", "var", "std_mean", "var_mean")
    },
    **{name: [call(A), call(A, 1), call(A, B), call(A, dim=0, keepdim=True)] for name in ("max", "min")},
    **{name: [call(A, 1), call(A, (0, 1), True)] for name in ("amax", "amin")},
    "aminmax": [call(A), call(A, dim=1)],
    **{name: [call(A), call(A, 1), call(A, dim=0, keepdim=True)] for name in ("argmax", "argmin")},
    **{name: [call(MASK), call(MASK, 1), call(MASK, dim=0, keepdim=True)] for name in ("all", "any")},
    **{name: [call(A), call(A, 1, keepdim=True)] for name in ("median", "nanmedian")},
    "mode": [call(INTS), call(INTS, 0)],
    **{
        name: [call(A, 0.3), call(A, torch.tensor([0.2, 0.8]), dim=1), call(A, 0.5, 0, True, interpolation="lower")]
        for name in ("quantile", "nanquantile")
    },
    "logsumexp": [call(A, 1), call(A, (0, 1), keepdim=True)],
    **{name: [call(A, 1), call(A, dim=0, dtype=torch.float64)] for name in ("cumsum", "cumprod")},
    **{name: [call(A, 1)] for name in ("cummax", "cummin", "logcumsumexp")},
    "count_nonzero": [call(MASK), call(MASK, 1)],
    "norm": [call(A), call(A, dim=-1), call(A, 1, -1, True), call(A, "fro"), call(A, p="nuc")],
    "dist": [call(A, B), call(A, B, 1)],
    "diff": [call(A), call(A, 1, 0), call(A, dim=1, prepend=A[:, :1])],
    "trace": [call(SQUARE)],
    "topk": [call(A, 2), call(A, 2, dim=0, largest=False)],
    "kthvalue": [call(A, 2), call(A, 2, 0)],
    "sort": [call(A), call(A, 0, True), call(A, dim=1, descending=True)],
    "argsort": [call(A), call(A, 0, True), call(A, dim=1, stable=True)],
    "msort": [call(A)],
    "unique": [call(LONG), call(IDS, return_inverse=True, return_counts=True), call(IDS, dim=0)],
    "bincount": [call(LONG), call(LONG, V, minlength=7)],
    "histc": [call(A), call(A, 4, -1, 1)],
    "bucketize": [call(A, torch.tensor([-1.0, 0.0, 1.0])), call(A, torch.tensor([0.0]), right=True)],
    "searchsorted": [call(torch.tensor([-1.0, 0.0, 1.0]), A), call(torch.tensor([-1.0, 0.0]), 0.5, right=True)],
    # -- indexing ----------------------------------------------------------------------------------------------------
    "getitem": [
        call(A, 0),
        call(A, slice(None, None, 2)),
        call(A, (slice(None), -1)),
        call(A, (Ellipsis, None)),
        call(A, MASK),
        call(A, (INDEX, INDEX)),
        call(A, [0, 1]),
        call((A, B), 1),
        call({"a": A}, "a"),
        call(A.shape, slice(0, -1)),
        call([A, B], 0),
        call(A, (0, 1)),
    ],
    "where": [call(MASK, A, B), call(MASK, A, 0.0), call(MASK, 1.0, 0.0), call(MASK)],
    "tensor_where": [call(A, MASK, B), call(A, MASK, 0.0)],
    "gather": [call(A, 1, IDS), call(A, dim=1, index=IDS)],
    "take_along_dim": [call(A, IDS, 1), call(A, torch.tensor([3, 1]))],
    "take": [call(A, IDS)],
    "index_select": [call(A, 0, INDEX), call(A, dim=1, index=INDEX)],
    "index_add": [call(A, 0, INDEX, B[:2]), call(A, 0, INDEX, B[:2], alpha=2)],
    "index_copy": [call(A, 0, INDEX, B[:2])],
    "index_fill": [call(A, 0, INDEX, 1.5)],
    "index_put": [call(A, (INDEX, INDEX), V[:2]), call(A, [INDEX], B[:2], accumulate=True)],
    "scatter": [call(A, 1, IDS, B), call(A, 1, IDS, 2.5), call(A, 1, IDS, B, reduce="add"), call(A, 1, IDS, value=1.0)],
    "scatter_add": [call(A, 1, IDS, B)],
    "scatter_reduce": [call(A, 1, IDS, B, "amax"), call(A, 1, IDS, B, reduce="mean", include_self=False)],
    "select_scatter": [call(A, V, 0, 1)],
    "slice_scatter": [call(A, B[:2], 0, 1, 3), call(A, B[:2], start=1)],
    "diagonal_scatter": [call(SQUARE, V[:3])],
    "masked_fill": [call(A, MASK, 0.0), call(A, MASK, torch.tensor(2.0)), call(A, mask=MASK, value=-1)],
    "masked_select": [call(A, MASK)],
    "masked_scatter": [call(A, MASK, B)],
    "nonzero": [call(MASK), call(MASK, as_tuple=True)],
    "argwhere": [call(MASK)],
    "isin": [call(LONG, torch.tensor([1, 2])), call(LONG, 2, invert=True)],
    "select": [call(A, 1, 2), call(A, 0, -1)],
    "narrow": [call(A, 1, 1, 2)],
    **{name: [call(A), call(A, 1), call(A, diagonal=-1)] for name in ("tril", "triu")},
    "diagonal": [call(A), call(C, 1, 1, 2), call(C, offset=0, dim1=-2, dim2=-1)],
    "diag": [call(V), call(A, 1)],
    "diag_embed": [call(A), call(V, 1)],
    # -- shapes ------------------------------------------------------------------------------------------------------
    "reshape": [call(A, 4, 3), call(A, (2, 6)), call(A.T, -1), call(A, shape=(12,))],
    "view": [call(A, 4, 3), call(A, (2, 6)), call(A, torch.int32), call(A, dtype=torch.int32)],
    "view_as": [call(A, B.reshape(4, 3))],
    "reshape_as": [call(A, B.reshape(4, 3))],
    "flatten": [call(C), call(C, 1), call(C, start_dim=0, end_dim=1)],
    "unflatten": [call(A, 1, (2, 2)), call(A, -1, (2, -1))],
    "ravel": [call(A)],
    "squeeze": [call(A[None]), call(A[None], 0), call(A[None, :, None], (0, 2))],
    "unsqueeze": [call(A, 1), call(A, dim=-1)],
    **{name: [call(C, 1, 2), call(C, -1, 0)] for name in ("transpose", "swapaxes", "swapdims")},
    "permute": [call(C, 2, 0, 1), call(C, (1, 0, 2)), call(C, dims=(1, 0, 2))],
    "movedim": [call(C, 0, -1), call(C, (0, 1), (1, 2))],
    "moveaxis": [call(C, 0, -1)],
    "t": [call(A)],
    "adjoint": [call(C)],
    "expand": [call(V, 3, 4), call(V, (3, -1)), call(A, 2, -1, -1)],
    "expand_as": [call(V, A)],
    "broadcast_to": [call(V, (3, 4))],
    "repeat": [call(A, 2, 1), call(A, (1, 2))],
    "tile": [call(A, 2, 1), call(A, (2,))],
    "repeat_interleave": [call(A, 2), call(A, 2, 0), call(V, LONG), call(V, LONG, dim=0, output_size=5)],
    "flip": [call(A, 0), call(A, (0, 1)), call(A, dims=(1,)), call(A, 0, 1)],
    "fliplr": [call(A)],
    "flipud": [call(A)],
    "roll": [call(A, 1), call(A, (1, 2), (0, 1)), call(A, 1, -1)],
    "rot90": [call(A), call(A, 1, (0, 1))],
    "unbind": [call(A), call(A, 1)],
    "chunk": [call(A, 2), call(A, 2, dim=-1)],
    "split": [call(A, 2), call(A, 2, dim=1), call(A, (1, 3), 1)],
    "split_with_sizes": [call(A, (1, 3), 1)],
    "tensor_split": [call(A, 2), call(A, (1, 2), 1)],
    "unfold": [call(A, 1, 2, 1)],
    "cat": [call((A, B)), call([A, B], 1), call([A, B], dim=-1)],
    "stack": [call((A, B)), call([A, B], 1), call([A, B], dim=-1)],
    **{name: [call((A, B))] for name in ("vstack", "hstack", "dstack", "column_stack")},
    **{name: [call(A), call(V.sum())] for name in ("atleast_1d", "atleast_2d")},
    "broadcast_tensors": [call(A, V)],
    "meshgrid": [call(V, A[0], indexing="ij"), call(V, A[0], indexing="xy")],
    "block_diag": [call(A, SQUARE)],
    **{name: [call(A)] for name in ("T", "H")},
    **{name: [call(C)] for name in ("mT", "mH")},
    # -- conversions -------------------------------------------------------------------------------------------------
    **{
        name: [call(A), call(INTS)]
        for name in words("float double half bfloat16 long int short char byte bool detach tolist")
    },
    "item": [call(A.sum()), call(INTS[0, 0]), call(MASK.any())],
    "to": [
        call(A, torch.float64),
        call(A, "cpu"),
        call(A, INTS),
        call(A, "cpu", torch.float16),
        call(A, dtype=torch.int64),
        call(A, device="cpu", dtype=torch.float16),
        call(A, torch.device("cpu")),
        call(A, torch.float64, copy=True),
    ],
    "cpu": [call(A)],
    "type_as": [call(A, INTS)],
    "contiguous": [call(A.T), call(A, memory_format=torch.contiguous_format)],
    "clone": [call(A), call(A.T, memory_format=torch.contiguous_format)],
    "copy_to": [call(A, V), call(A, 2), call(INTS, INTS.double())],
    "numel": [call(A)],
    "size": [call(A), call(A, 1), call(A, dim=-1)],
    "dim": [call(A)],
    "stride": [call(A.T), call(A, 0)],
    **{name: [call(A)] for name in ("is_contiguous", "element_size", "is_floating_point", "is_complex")},
    **{name: [call(A)] for name in ("shape", "dtype", "device")},
    **{name: [call(A), call(A, dtype=torch.int64), call(A, device="cpu")] for name in ("zeros_like", "ones_like")},
    "full_like": [call(A, 1.5), call(A, 2, dtype=torch.int64)],
    "fill": [call(A, 1.5), call(A, torch.tensor(2.0))],
    **{name: [call(A, 2, 3), call(A, (2, 3)), call(A, 2, dtype=torch.int64)] for name in ("new_zeros", "new_ones")},
    "new_full": [call(A, (2, 3), 1.5)],
    **{name: [call(2, 3), call((2, 3)), call(2, dtype=torch.int64), call(size=(2,))] for name in ("zeros", "ones")},
    "full": [call((2, 3), 1.5)],
    "arange": [call(4), call(1, 5), call(0, 1, 0.25), call(4, dtype=torch.float32), call(start=1, end=3)],
    "eye": [call(3), call(3, 4)],
    "linspace": [call(0, 1, 5), call(0.0, 2.0, steps=3)],
    # -- linear algebra ----------------------------------------------------------------------------------------------
    "matmul": [call(A, V), call(C, D)],
    "rmatmul": [call(A.T, B)],
    "mm": [call(A, B.T)],
    "bmm": [call(C, D)],
    "mv": [call(A, V)],
    "dot": [call(V, W[0])],
    "vdot": [call(V, W[0])],
    "inner": [call(V, W[0]), call(A, W)],
    "outer": [call(V, W[0])],
    "addmm": [call(SQUARE, A, B.T), call(SQUARE, A, B.T, beta=0.5, alpha=2)],
    "addmv": [call(V[:3], A, V)],
    "baddbmm": [call(C @ D, C, D), call(C @ D, C, D, alpha=0.1)],
    "kron": [call(A, SQUARE)],
    "cross": [call(SQUARE, SQUARE.T), call(SQUARE, SQUARE.T, dim=0)],
    "tensordot": [call(A, B, 2), call(A, B, dims=([1], [1]))],
    "einsum": [call("ab,cb->ac", A, B), call("b p d -> b d p", C), call("...a,a", A, V), call("ab,cb->ac", [A, B])],
    "matrix_power": [call(SQUARE, 3)],
    "matrix_exp": [call(SQUARE)],
    "inverse": [call(SQUARE)],
    "pinverse": [call(A)],
    "det": [call(SQUARE)],
    "logdet": [call(SYMMETRIC)],
    "slogdet": [call(SQUARE)],
    "svd": [call(A), call(A, some=False)],
    "qr": [call(A)],
    "cholesky": [call(SYMMETRIC)],
    "cdist": [call(A, W), call(A, W, p=1.0)],
    "cov": [call(A), call(A, correction=0)],
    "corrcoef": [call(A)],
    "linalg.norm": [call(A), call(A, 2, -1), call(A, "nuc")],
    "linalg.vector_norm": [call(A), call(A, 1, dim=-1)],
    "linalg.matrix_norm": [call(A), call(C, "nuc")],
    "linalg.svd": [call(A), call(A, full_matrices=False)],
    "linalg.svdvals": [call(A)],
    "linalg.qr": [call(A), call(A, mode="complete")],
    "linalg.eigh": [call(SYMMETRIC), call(SYMMETRIC, UPLO="U")],
    "linalg.eigvalsh": [call(SYMMETRIC)],
    "linalg.eig": [call(SQUARE)],
    "linalg.eigvals": [call(SQUARE)],
    "linalg.pinv": [call(A), call(A, rtol=1e-3)],
    "linalg.inv": [call(SQUARE)],
    "linalg.solve": [call(SQUARE, A), call(SQUARE, A.T, left=False)],
    "linalg.lstsq": [call(SQUARE, A)],
    "linalg.det": [call(SQUARE)],
    "linalg.slogdet": [call(SQUARE)],
    "linalg.cholesky": [call(SYMMETRIC)],
    "linalg.matrix_rank": [call(A)],
    "linalg.matrix_power": [call(SQUARE, 2)],
    "linalg.multi_dot": [call([A, B.T, A])],
    "linalg.cross": [call(SQUARE, SQUARE.T)],
    "linalg.vecdot": [call(A, B)],
    "linalg.diagonal": [call(C)],
    # -- torch.nn.functional -----------------------------------------------------------------------------------------
    **{
        f"F.{name}": [call(A, -1), call(A, dim=0, dtype=torch.float64)]
        for name in ("softmax", "log_softmax", "softmin")
    },
    **{
        f"F.{name}": [call(A)]
        for name in words("relu relu6 silu mish selu hardsigmoid hardswish logsigmoid softsign tanhshrink")
    },
    "F.elu": [call(A), call(A, 0.5)],
    "F.celu": [call(A), call(A, 0.5)],
    "F.leaky_relu": [call(A), call(A, 0.2)],
    "F.hardtanh": [call(A), call(A, -0.5, 0.5)],
    "F.threshold": [call(A, 0.1, 0.0)],
    "F.gelu": [call(A), call(A, approximate="tanh")],
    "F.softplus": [call(A), call(A, beta=2)],
    "F.softshrink": [call(A), call(A, 0.3)],
    "F.glu": [call(A), call(A, 1)],
    "F.linear": [call(A, W), call(A, W, bias=_random(5))],
    "F.bilinear": [call(A, B, _random(2, 4, 4))],
    "F.layer_norm": [call(A, (4,)), call(A, (4,), V, V, 1e-3)],
    "F.rms_norm": [call(A, (4,)), call(A, (4,), weight=V, eps=1e-6)],
    "F.group_norm": [call(C, 3), call(C, 1, eps=1e-3)],
    "F.normalize": [call(A), call(A, dim=-1), call(A, p=1.0, dim=0)],
    "cosine_similarity": [call(A, B), call(A, B, dim=-1)],
    "F.pairwise_distance": [call(A, B), call(A, B, p=1.0)],
    "F.one_hot": [call(LABELS), call(LABELS, 6), call(LABELS, num_classes=5)],
    "F.embedding": [call(IDS, W), call(IDS, W, padding_idx=0)],
    "F.scaled_dot_product_attention": [call(HEADS, HEADS, HEADS), call(HEADS, HEADS, HEADS, is_causal=True, scale=0.3)],
    "F.pad": [call(A, (1, 2)), call(A, (1, 1), value=-1.0), call(C, (1, 1), mode="reflect")],
    "F.cross_entropy": [call(A, LABELS), call(A, LABELS, reduction="none", label_smoothing=0.1)],
    "F.nll_loss": [call(A, LABELS), call(A, LABELS, reduction="sum")],
    "F.kl_div": [call(A, UNIT), call(A, B, reduction="batchmean", log_target=True)],
    "F.mse_loss": [call(A, B), call(A, B, reduction="none")],
    "F.l1_loss": [call(A, B), call(A, B, reduction="sum")],
    "F.smooth_l1_loss": [call(A, B), call(A, B, beta=0.5)],
    "F.huber_loss": [call(A, B), call(A, B, delta=0.5)],
    "F.binary_cross_entropy": [call(UNIT, MASK.float())],
    "F.binary_cross_entropy_with_logits": [call(A, MASK.float())],
    "F.cosine_embedding_loss": [call(A, B, torch.tensor([1, -1, 1]))],
    "F.margin_ranking_loss": [call(A, B, torch.ones(3, 4))],
    "F.avg_pool1d": [call(C, 2), call(C, 2, stride=1)],
    "F.avg_pool2d": [call(IMAGE, 2), call(IMAGE, (2, 3), stride=1)],
    "F.max_pool1d": [call(C, 2), call(C, 2, stride=1)],
    "F.max_pool2d": [call(IMAGE, 2)],
    "F.conv1d": [call(C, _random(5, 3, 2)), call(C, _random(5, 3, 2), padding=1)],
    "F.conv2d": [call(IMAGE, _random(3, 2, 2, 2)), call(IMAGE, _random(3, 2, 2, 2), stride=(2, 1))],
    "F.interpolate": [call(IMAGE, size=(3, 3)), call(IMAGE, scale_factor=2.0, mode="bilinear")],
    **{f"fft.{name}": [call(A), call(A, dim=0, norm="ortho")] for name in ("fft", "rfft", "fft2", "fftshift")},
    **{f"fft.{name}": [call(WAVE), call(WAVE, dim=0)] for name in ("ifft", "irfft", "ifft2", "ifftshift")},
    "fill_diagonal_": [call(A, 2.0), call(SQUARE, 1.0, wrap=True)],
    "zero_": [call(A), call(INTS)],
}
for _name in ("fft2", "ifft2"):
    EXAMPLES[f"fft.{_name}"] = [call(C), call(C, dim=(0, 1), norm="ortho")]
for _name in ("fftshift", "ifftshift"):
    EXAMPLES[f"fft.{_name}"] = [call(A), call(A, dim=0)]

_TWO = words("maximum minimum fmax fmin atan2 hypot logaddexp logaddexp2 nextafter heaviside")


def examples_of(name: str) -> list[Call]:
    """The examples of one op: its own, or for the many functions of one or two tensors, a tensor or two."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    if name.endswith("_"):
        return [given for given in examples_of({"copy_": "copy_to"}.get(name, name[:-1])) if _can_be_written(*given)]
    if name in _TWO:
        return [call(A, B)]
    return [call(A)] if name in _ONE else []


def _can_be_written(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0], Tensor) and "dtype" not in kwargs


_ONE = words(
    "exp exp2 expm1 square reciprocal sin cos tan atan sinh cosh tanh asinh sigmoid relu ceil floor trunc frac erf "
    "erfc sign signbit sinc deg2rad rad2deg isnan isinf isfinite isposinf isneginf"
)
