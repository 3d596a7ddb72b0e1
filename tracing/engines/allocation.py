"""Running out of memory: how the allocators say it, and what a device has."""

import os

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had no memory left; that of the CPU says so by a plain `RuntimeError`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def free(device: torch.device) -> None:
    """Give cached blocks back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_bytes(device: torch.device) -> int | None:
    """Memory that tensors may take: what is free on a GPU, all there is on the CPU; None where nobody can tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
