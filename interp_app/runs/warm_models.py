"""Loaded models, kept while they fit: a least-recently-used cache bounded in bytes. The only place that loads torch.

A model is known by the hashes of its weights, tokenizer and config, so two catalog entries of the same files share one
copy, and a folder of which any was changed after it was registered is refused rather than computed with under the old
hashes.
"""

import gc
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from interp_app.catalog import files
from interp_app.catalog.models import ModelSource
from interp_app.core.canonical import sha256_of
from tracing.errors import ModelError

if TYPE_CHECKING:
    from tracing.families.certificate import CheckReport
    from tracing.models import LanguageModel

Key = tuple[str, str, str]


@dataclass(slots=True)
class _Loaded:
    model: "LanguageModel"
    size: int
    sources: set[uuid.UUID] = field(default_factory=set)
    slugs: set[str] = field(default_factory=set)


class WarmModels:
    """The models one process has in memory, on its one device."""

    def __init__(self, device: str, limit_bytes: int | None = None) -> None:
        self.device = device
        self._limit = settings.MODEL_CACHE_BYTES if limit_bytes is None else limit_bytes
        self._loaded: OrderedDict[Key, _Loaded] = OrderedDict()
        self._hashes: dict[tuple[str, int, int], str] = {}

    @property
    def source_ids(self) -> list[uuid.UUID]:
        """Ids of the catalog's models that need no loading."""
        return [source for entry in self._loaded.values() for source in entry.sources]

    @property
    def slugs(self) -> list[str]:
        """Their slugs, for the worker's row."""
        return sorted({slug for entry in self._loaded.values() for slug in entry.slugs})

    def has(self, source: ModelSource, dtype: str) -> bool:
        """Whether `get` would answer without loading."""
        return self._key(source, dtype) in self._loaded

    def get(self, source: ModelSource, dtype: str) -> "LanguageModel":
        """The model, loaded if need be. Raises `ModelError` or `ServiceError` where it cannot be."""
        key = self._key(source, dtype)
        entry = self._loaded.get(key)
        if entry is None:
            folder = files.resolve_location(source.location)
            weights = files.weight_files(folder)
            self._require_registered(source, folder, weights)
            self._make_room(_expected_bytes(weights, dtype))
            entry = self._load(folder, dtype)
            self._loaded[key] = entry
            self._make_room(0, keep=key)
        self._loaded.move_to_end(key)
        entry.sources.add(source.pk)
        entry.slugs.add(source.slug)
        return entry.model

    def clear(self) -> None:
        """Forget every model and give its memory back."""
        self._loaded.clear()
        _collect()

    def _key(self, source: ModelSource, dtype: str) -> Key:
        files_hash = sha256_of([source.weights_sha256, source.tokenizer_sha256, source.config_sha256])
        return files_hash, dtype, self.device

    def _load(self, folder: Path, dtype: str) -> _Loaded:
        from transformers.utils import logging as transformers_logging

        from tracing.models import LanguageModel  # loads torch, which only a worker may

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a worker's log is read by machines
        model = LanguageModel(folder, dtype=dtype, device=self.device)
        tensors: list[Any] = [*model.module.parameters(), *model.module.buffers()]
        return _Loaded(model, sum(tensor.nbytes for tensor in tensors))

    def _make_room(self, wanted: int, keep: Key | None = None) -> None:
        """Drop the models used longest ago until `wanted` more bytes fit; a model larger than the limit stays alone."""
        dropped = False
        while self._loaded and sum(entry.size for entry in self._loaded.values()) + wanted > self._limit:
            oldest = next(iter(self._loaded))
            if oldest == keep:
                break
            del self._loaded[oldest]
            dropped = True
        if dropped:
            _collect()

    def _require_registered(self, source: ModelSource, folder: Path, weights: list[Path]) -> None:
        registered = {
            **source.weights_sha256,
            "tokenizer.json": source.tokenizer_sha256,
            "config.json": source.config_sha256,
        }
        paths = [*weights, *(files.plain_file(folder, name) for name in ("tokenizer.json", "config.json"))]
        found = {path.name: self._hash(path) for path in paths}
        if found != registered:
            changed = sorted(name for name in {*found, *registered} if found.get(name) != registered.get(name))
            raise ModelError(
                f"The files of {source.title} on this worker are not the ones that were registered: "
                f"{', '.join(changed)}.",
                remedy="Copy the registered files to the worker, or register the model again.",
                where={"files": changed},
            )

    def _hash(self, path: Path) -> str:
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        if key not in self._hashes:
            self._hashes[key] = files.sha256_of_file(path)
        return self._hashes[key]


def certify(source: ModelSource) -> "CheckReport":
    """Load a model and verify its adapter, identity by identity. Raises `ModelError` or `ServiceError`."""
    from tracing.families import check
    from tracing.models import LanguageModel

    folder = files.resolve_location(source.location)
    return check(LanguageModel(folder, device=pick_device(settings.DEVICE), verify=False), strict=False)


def pick_device(wanted: str) -> str:
    """The device of `settings.DEVICE`; `auto` is the first CUDA device, else the processor."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _expected_bytes(weights: list[Path], dtype: str) -> int:
    """Files are mostly float32: an estimate that only decides what to drop before loading."""
    scale = {"float64": 2.0, "bfloat16": 0.5, "float16": 0.5}.get(dtype, 1.0)
    return int(sum(path.stat().st_size for path in weights) * scale)


def _collect() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
