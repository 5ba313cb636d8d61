"""Speed against the naive way, both in one run, alternating; prints a table of ratios.

    python benchmarks/run.py [--threads 1] [--repeats 3]

Naive means what one would write first: random batches of eight chains and an N×N contrastive matrix. Of the contrastive loss both
forms compute the same thing, and that is checked; training differs in how batches are filled. Encoders: benchmarks/encoders.py.
"""
import argparse
import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import sa_toolkit.train as train
from sa_toolkit.core import example_chains
from sa_toolkit.data import encode_chains
from sa_toolkit.losses import infonce
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.plm import load_plm
from sa_toolkit.tokens import load_tokenizer

def naive_infonce(z_a, z_g, scale):
    "The whole matrix at once"
    s, i = scale*z_a@z_g.T, torch.arange(len(z_a))
    return F.cross_entropy(s, i, reduction='none'), F.cross_entropy(s.T, i, reduction='none')

def clock(fns, repeats):
    "Best seconds of each function, taken in turn so that a busy machine slows all alike"
    best = [np.inf]*len(fns)
    for _ in range(repeats):
        for k, fn in enumerate(fns):
            t = time.perf_counter()
            fn()
            best[k] = min(best[k], time.perf_counter()-t)
    return best

def bench_infonce(n, repeats):
    z = [F.normalize(torch.randn(n, 128), dim=1).requires_grad_() for _ in range(2)]
    go = lambda f: sum(x.mean() for x in f(*z, torch.tensor([14.]))).backward()
    ours, theirs = (torch.cat(f(*z, torch.tensor([14.]))).detach() for f in (infonce, naive_infonce))
    assert (ours-theirs).abs().max() < 1e-3
    a, b = clock([lambda: go(infonce), lambda: go(naive_infonce)], repeats)
    return f'InfoNCE forward + backward at N = {n:,}, residues/s', n/a, n/b

def bench_training(repeats):
    examples, plm = encode_chains(example_chains('train')[:96], load_pgnn(), load_tokenizer()), load_plm('esm2-8M', pretrained=False)
    cfg = train.AlignConfig(steps=10**6, budget=1536)
    ours, naive = (train.Learner(train.Aligner(copy.deepcopy(plm), 128), examples, cfg) for _ in range(2))
    naive.order = (0, 0, list(np.random.default_rng(0).permutation(len(examples)).reshape(-1, 8)))
    def steps(learn, contrast):
        train.infonce = contrast
        for _ in range(4): learn.one_step()
    clock([lambda: steps(ours, infonce), lambda: steps(naive, naive_infonce)], min(repeats, 3))
    rate = lambda h: sum(x['residues'] for x in h)/sum(x['seconds'] for x in h)
    train.infonce = infonce
    return 'training step, three losses, residues/s', rate(ours.history[1:]), rate(naive.history[1:])

def peak(size=1024, repeats=20):
    "What the cores can do: float32 matrix product, GFLOP/s"
    x, lin = torch.randn(size, size), nn.Linear(size, size)
    with torch.inference_mode(): t, = clock([lambda: lin(x)], repeats)
    return 2*size**3/t/1e9

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--repeats', type=int, default=3)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    print(f'torch {torch.__version__}, {a.threads} thread(s), float32 matrix product {peak():.0f} GFLOP/s\n')
    print('| what | here | naive | ratio |\n|---|---|---|---|')
    for fn, *args in ((bench_infonce, 1024), (bench_infonce, 4096), (bench_training,)):
        what, ours, naive = fn(*args, a.repeats)
        print(f'| {what} | {ours:,.0f} | {naive:,.0f} | {ours/naive:.2f} |', flush=True)

if __name__ == '__main__': main()
