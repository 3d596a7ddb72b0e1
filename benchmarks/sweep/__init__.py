"""Speed of activation-patching sweeps on GPT-2's shape, every contestant in a process of its own.

    python -m benchmarks.sweep [--tasks resid heads …] [--repetitions 5] [--threads 2] [--shape small]
                               [--device cpu] [--dtype float32] [--without nnsight …]

Random weights of GPT-2's shape (small: 12 layers, 12 heads, width 768; medium: 24, 16, 1024; tiny: for a trial), pairs
of prompts that differ at every position, so that no cell is known without running. Tasks are in
`benchmarks.sweep.tasks`, contestants in `contestants` (ours, hooks one by one, written by hand) and `peers` (nnsight,
TransformerLens, `make peers`). The contestants take turns, so whatever else loads the machine loads them all; ratios
are taken within a repetition, and their median is the figure. What would take minutes is run on a sample of the cells
and scaled, which the table says. All cells that were run are compared. Writes benchmarks/results/sweep_*.md.
"""
