"""Rows of the op table: linear algebra, `torch.nn.functional` (names as researchers write them: "F.softmax"), Fourier.

Nothing here draws random numbers: dropout and its kin are refused, attention takes `dropout_p=0` only. A row is
name → (function, schema); `tracing.graph.ops_schema` explains the schemas.
"""

from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from tracing.graph.ops_schema import Row

_LINEAR: Final[dict[str, Row]] = {
    "matmul": (torch.matmul, "input T, other T, *, out none="),
    "rmatmul": (lambda value, other: torch.matmul(other, value), "input T, other T"),
    "mm": (torch.mm, "input T, mat2 T"),
    "bmm": (torch.bmm, "input T, mat2 T"),
    "mv": (torch.mv, "input T, vec T"),
    "dot": (torch.dot, "input T, tensor T"),
    "vdot": (torch.vdot, "input T, other T"),
    "inner": (torch.inner, "input T, other T"),
    "outer": (torch.outer, "input T, vec2 T"),
    "addmm": (torch.addmm, "input T, mat1 T, mat2 T, *, beta number=, alpha number="),
    "addmv": (torch.addmv, "input T, mat T, vec T, *, beta number=, alpha number="),
    "baddbmm": (torch.baddbmm, "input T, batch1 T, batch2 T, *, beta number=, alpha number="),
    "kron": (torch.kron, "input T, other T"),
    "cross": (torch.cross, "input T, other T, dim dim?="),
    "tensordot": (torch.tensordot, "a T, b T, dims axes=, out none="),
    "einsum": (torch.einsum, "equation equation, *operands Ts"),
    "matrix_power": (torch.matrix_power, "input T, n small"),
    "matrix_exp": (torch.matrix_exp, "input T"),
    "inverse": (torch.inverse, "input T"),
    "pinverse": (torch.pinverse, "input T, rcond number="),
    "det": (torch.det, "input T"),
    "logdet": (torch.logdet, "input T"),
    "slogdet": (torch.slogdet, "input T"),
    "svd": (torch.svd, "input T, some bool=, compute_uv bool="),
    "qr": (torch.qr, "input T, some bool="),
    "cholesky": (torch.cholesky, "input T, upper bool="),
    "cdist": (
        torch.cdist,
        'x1 T, x2 T, p number=, compute_mode "use_mm_for_euclid_dist_if_necessary"|"use_mm_for_euclid_dist"'
        '|"donot_use_mm_for_euclid_dist"=',
    ),
    "cov": (torch.cov, "input T, *, correction int=, fweights T?=, aweights T?="),
    "corrcoef": (torch.corrcoef, "input T"),
    "linalg.norm": (torch.linalg.norm, 'A T, ord number|"fro"|"nuc"?=, dim dims?=, keepdim bool=, *, dtype dtype?='),
    "linalg.vector_norm": (torch.linalg.vector_norm, "x T, ord number=, dim dims?=, keepdim bool=, *, dtype dtype?="),
    "linalg.matrix_norm": (
        torch.linalg.matrix_norm,
        'A T, ord number|"fro"|"nuc"=, dim dims=, keepdim bool=, *, dtype dtype?=',
    ),
    "linalg.svd": (torch.linalg.svd, "A T, full_matrices bool="),
    "linalg.svdvals": (torch.linalg.svdvals, "A T"),
    "linalg.qr": (torch.linalg.qr, 'A T, mode "reduced"|"complete"|"r"='),
    "linalg.eigh": (torch.linalg.eigh, 'A T, UPLO "L"|"U"='),
    "linalg.eigvalsh": (torch.linalg.eigvalsh, 'A T, UPLO "L"|"U"='),
    "linalg.eig": (torch.linalg.eig, "A T"),
    "linalg.eigvals": (torch.linalg.eigvals, "A T"),
    "linalg.pinv": (torch.linalg.pinv, "A T, *, atol N?=, rtol N?=, hermitian bool="),
    "linalg.inv": (torch.linalg.inv, "A T"),
    "linalg.solve": (torch.linalg.solve, "A T, B T, *, left bool="),
    "linalg.lstsq": (torch.linalg.lstsq, "A T, B T, *, rcond number?="),
    "linalg.det": (torch.linalg.det, "A T"),
    "linalg.slogdet": (torch.linalg.slogdet, "A T"),
    "linalg.cholesky": (torch.linalg.cholesky, "A T, *, upper bool="),
    "linalg.matrix_rank": (torch.linalg.matrix_rank, "A T, *, atol N?=, rtol N?=, hermitian bool="),
    "linalg.matrix_power": (torch.linalg.matrix_power, "A T, n small"),
    "linalg.multi_dot": (torch.linalg.multi_dot, "tensors Ts"),
    "linalg.cross": (torch.linalg.cross, "input T, other T, *, dim dim="),
    "linalg.vecdot": (torch.linalg.vecdot, "x T, y T, *, dim dim="),
    "linalg.diagonal": (torch.linalg.diagonal, "A T, *, offset int=, dim1 dim=, dim2 dim="),
}

_REDUCE: Final = 'size_average none=, reduce none=, reduction "none"|"mean"|"sum"='
_CLASSES: Final = (
    'input T, target T, weight T?=, size_average none=, ignore_index int=, reduce none=, reduction "none"|"mean"|"sum"='
)
_SOFT: Final = "input T, dim dim?=, _stacklevel small=, dtype dtype?="

_FUNCTIONAL: Final[dict[str, Row]] = {
    "F.softmax": (F.softmax, _SOFT),
    "F.log_softmax": (F.log_softmax, _SOFT),
    "F.softmin": (F.softmin, _SOFT),
    "F.relu": (F.relu, "input T, inplace false="),
    "F.relu6": (F.relu6, "input T, inplace false="),
    "F.silu": (F.silu, "input T, inplace false="),
    "F.mish": (F.mish, "input T, inplace false="),
    "F.selu": (F.selu, "input T, inplace false="),
    "F.elu": (F.elu, "input T, alpha number=, inplace false="),
    "F.celu": (F.celu, "input T, alpha number=, inplace false="),
    "F.leaky_relu": (F.leaky_relu, "input T, negative_slope number=, inplace false="),
    "F.hardtanh": (F.hardtanh, "input T, min_val number=, max_val number=, inplace false="),
    "F.hardsigmoid": (F.hardsigmoid, "input T, inplace false="),
    "F.hardswish": (F.hardswish, "input T, inplace false="),
    "F.threshold": (F.threshold, "input T, threshold number, value number, inplace false="),
    "F.gelu": (F.gelu, 'input T, *, approximate "none"|"tanh"='),
    "F.softplus": (F.softplus, "input T, beta number=, threshold number="),
    "F.logsigmoid": (F.logsigmoid, "input T"),
    "F.softsign": (F.softsign, "input T"),
    "F.tanhshrink": (F.tanhshrink, "input T"),
    "F.softshrink": (F.softshrink, "input T, lambd number="),
    "F.glu": (F.glu, "input T, dim dim="),
    "F.linear": (F.linear, "input T, weight T, bias T?="),
    "F.bilinear": (F.bilinear, "input1 T, input2 T, weight T, bias T?="),
    "F.layer_norm": (F.layer_norm, "input T, normalized_shape sizes, weight T?=, bias T?=, eps number="),
    "F.rms_norm": (F.rms_norm, "input T, normalized_shape sizes, weight T?=, eps number?="),
    "F.group_norm": (F.group_norm, "input T, num_groups count, weight T?=, bias T?=, eps number="),
    "F.normalize": (F.normalize, "input T, p number=, dim dims=, eps number=, out none="),
    "cosine_similarity": (torch.cosine_similarity, "x1 T, x2 T, dim dim=, eps number="),
    "F.pairwise_distance": (F.pairwise_distance, "x1 T, x2 T, p number=, eps number=, keepdim bool="),
    "F.one_hot": (F.one_hot, "tensor T, num_classes small="),
    # max_norm would write to the weight
    "F.embedding": (
        F.embedding,
        "input T, weight T, padding_idx int?=, max_norm none=, norm_type number=, scale_grad_by_freq bool=, "
        "sparse false=",
    ),
    "F.scaled_dot_product_attention": (
        F.scaled_dot_product_attention,
        "query T, key T, value T, attn_mask T?=, dropout_p zero=, is_causal bool=, *, scale number?=, enable_gqa bool=",
    ),
    "F.pad": (F.pad, 'input T, pad pads, mode "constant"|"reflect"|"replicate"|"circular"=, value number?='),
    "F.cross_entropy": (F.cross_entropy, f"{_CLASSES}, label_smoothing number="),
    "F.nll_loss": (F.nll_loss, _CLASSES),
    "F.kl_div": (
        F.kl_div,
        'input T, target T, size_average none=, reduce none=, reduction "none"|"mean"|"sum"|"batchmean"=, '
        "log_target bool=",
    ),
    "F.mse_loss": (F.mse_loss, f"input T, target T, {_REDUCE}, weight T?="),
    "F.l1_loss": (F.l1_loss, f"input T, target T, {_REDUCE}, weight T?="),
    "F.smooth_l1_loss": (F.smooth_l1_loss, f"input T, target T, {_REDUCE}, beta number="),
    "F.huber_loss": (
        F.huber_loss,
        'input T, target T, reduction "none"|"mean"|"sum"=, delta number=, weight T?=',
    ),
    "F.binary_cross_entropy": (F.binary_cross_entropy, f"input T, target T, weight T?=, {_REDUCE}"),
    "F.binary_cross_entropy_with_logits": (
        F.binary_cross_entropy_with_logits,
        f"input T, target T, weight T?=, {_REDUCE}, pos_weight T?=",
    ),
    "F.cosine_embedding_loss": (
        F.cosine_embedding_loss,
        f"input1 T, input2 T, target T, margin number=, {_REDUCE}",
    ),
    "F.margin_ranking_loss": (F.margin_ranking_loss, f"input1 T, input2 T, target T, margin number=, {_REDUCE}"),
    "F.avg_pool1d": (
        F.avg_pool1d,
        "input T, kernel_size window, stride window=, padding window=, ceil_mode bool=, count_include_pad bool=",
    ),
    "F.avg_pool2d": (
        F.avg_pool2d,
        "input T, kernel_size window, stride window?=, padding window=, ceil_mode bool=, count_include_pad bool=, "
        "divisor_override count?=",
    ),
    "F.max_pool1d": (
        F.max_pool1d,
        "input T, kernel_size window, stride window?=, padding window=, dilation window=, ceil_mode bool=, "
        "return_indices false=",
    ),
    "F.max_pool2d": (
        F.max_pool2d,
        "input T, kernel_size window, stride window?=, padding window=, dilation window=, ceil_mode bool=, "
        "return_indices false=",
    ),
    "F.conv1d": (
        F.conv1d,
        "input T, weight T, bias T?=, stride window=, padding window=, dilation window=, groups count=",
    ),
    "F.conv2d": (
        F.conv2d,
        "input T, weight T, bias T?=, stride window=, padding window=, dilation window=, groups count=",
    ),
    "F.interpolate": (
        F.interpolate,
        'input T, size window?=, scale_factor scale?=, mode "nearest"|"nearest-exact"|"linear"|"bilinear"|"bicubic"'
        '|"trilinear"|"area"=, align_corners bool?=, recompute_scale_factor bool?=, antialias bool=',
    ),
}

_TRANSFORM: Final = 'input T, n count?=, dim dim=, norm "forward"|"backward"|"ortho"|none=, *, out none='
_FOURIER: Final[dict[str, Row]] = {
    "fft.fft": (torch.fft.fft, _TRANSFORM),
    "fft.ifft": (torch.fft.ifft, _TRANSFORM),
    "fft.rfft": (torch.fft.rfft, _TRANSFORM),
    "fft.irfft": (torch.fft.irfft, _TRANSFORM),
    "fft.fft2": (torch.fft.fft2, 'input T, s window?=, dim dims=, norm "forward"|"backward"|"ortho"|none='),
    "fft.ifft2": (torch.fft.ifft2, 'input T, s window?=, dim dims=, norm "forward"|"backward"|"ortho"|none='),
    "fft.fftshift": (torch.fft.fftshift, "input T, dim dims?="),
    "fft.ifftshift": (torch.fft.ifftshift, "input T, dim dims?="),
}

ROWS: Final[dict[str, Row]] = {**_LINEAR, **_FUNCTIONAL, **_FOURIER}
