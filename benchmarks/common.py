"""What several benchmarks need: a clock that takes turns, what the cores can do, sequences of real lengths"""
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sa_toolkit.core import example_chains

def clock(fns, repeats, now=time.perf_counter):
    "Best seconds of each function, taken in turn so that a busy machine slows all alike; with `time.process_time`, processor seconds of all threads"
    best = [np.inf]*len(fns)
    for _ in range(repeats):
        for k, fn in enumerate(fns):
            t = now()
            fn()
            best[k] = min(best[k], now()-t)
    return best

def peak(size=1024, repeats=20, now=time.perf_counter):
    "What the cores can do: float32 matrix product, GFLOP/s"
    x, lin = torch.randn(size, size), nn.Linear(size, size)
    with torch.inference_mode(): t, = clock([lambda: lin(x)], repeats, now)
    return 2*size**3/t/1e9

def sample(source, n, seed=0):
    "Sequences of random chains: of a pack (.npz with `seq`, one string over all chains, and their `length`), a dataset's folder, or None for the package's examples"
    if source is None: sequences = [c.sequence for c in example_chains()]
    elif Path(source).is_dir():
        from sa_toolkit.shards import open_dataset
        sequences = open_dataset(source).table['sequence'].to_pylist()
    else:
        z = np.load(source)
        whole, stop = str(z['seq']), np.cumsum(z['length'])
        sequences = [whole[b-k:b] for b, k in zip(stop, z['length'])]
    return [sequences[i] for i in np.random.default_rng(seed).permutation(len(sequences))[:n]]

def operations(config, lengths):
    "Multiplications and additions of a pLM's forward pass: four square maps, two wide ones, and attention, per layer; frame included"
    h, wide, n = config.hidden_size, config.intermediate_size, np.asarray(lengths, float) + 2
    return config.num_hidden_layers*(2*n*(4*h*h + 2*h*wide) + 4*n*n*h).sum()
