"""Speed against the naive way, both in one run, alternating; prints a table of ratios.

    python benchmarks/run.py [--threads 1] [--repeats 3]

Naive means what one would write first: every chain by itself with all pairs of atoms (pGNN), random batches of eight chains and an
N×N contrastive matrix (training). Of encoder and contrastive loss both forms compute the same thing, and that is checked; training differs in how batches are filled.
"""
import argparse
import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import sa_toolkit.train as train
from sa_toolkit.core import example_chains, virtual_cb
from sa_toolkit.data import encode_chains
from sa_toolkit.losses import infonce
from sa_toolkit.pgnn import _pairs, load_pgnn
from sa_toolkit.plm import load_plm
from sa_toolkit.tokens import load_tokenizer

def naive_infonce(z_a, z_g, scale):
    "The whole matrix at once"
    s, i = scale*z_a@z_g.T, torch.arange(len(z_a))
    return F.cross_entropy(s, i, reduction='none'), F.cross_entropy(s.T, i, reduction='none')

def naive_edges(m, x, idx, pos):
    "All L×L distances of the 25 atom pairs, gathered afterwards; one wide linear map of the concatenation"
    rows = torch.arange(len(x))[:, None]
    rbf = []
    for a, b in _pairs:
        d = ((x[:, None, a] - x[None, :, b]).square().sum(-1) + 1e-6).sqrt()[rows, idx]
        rbf.append(torch.exp(-((d[..., None] - torch.linspace(2, 22, 16))/1.25)**2))
    offset = F.one_hot((pos[:, None] - pos[idx] + 32).clamp(0, 64), 66).float()
    f = m.features
    return m.W_e(f.norm_edges(f.edge_embedding(torch.cat([f.embeddings['linear'](offset), *rbf], -1))))

@torch.inference_mode()
def naive_encode(m, chain):
    "One chain at a time; messages from the concatenation of both nodes and the edge"
    pos = torch.from_numpy(np.flatnonzero(chain.resolved))
    x = torch.from_numpy(chain.coords[chain.resolved])
    x = torch.cat([x, virtual_cb(x)[:, None]], 1)
    idx = torch.cdist(x[:, 1], x[:, 1]).topk(min(48, len(x)), largest=False).indices
    e, h = naive_edges(m, x, idx, pos), torch.zeros(len(x), 128)
    for layer in m.encoder_layers:
        cat = lambda h, e: torch.cat([h[:, None].expand(-1, idx.shape[1], -1), e, h[idx]], -1)
        msg = layer.W3(F.gelu(layer.W2(F.gelu(layer.W1(cat(h, e))))))
        h = layer.norm1(h + msg.sum(1)/30)
        h = layer.norm2(h + layer.dense['W_out'](F.gelu(layer.dense['W_in'](h))))
        e = layer.norm3(e + layer.W13(F.gelu(layer.W12(F.gelu(layer.W11(cat(h, e)))))))
    return h.numpy()

def clock(fns, repeats):
    "Best seconds of each function, taken in turn so that a busy machine slows all alike"
    best = [np.inf]*len(fns)
    for _ in range(repeats):
        for k, fn in enumerate(fns):
            t = time.perf_counter()
            fn()
            best[k] = min(best[k], time.perf_counter()-t)
    return best

def bench_pgnn(repeats):
    m, chains = load_pgnn(), example_chains('valid')[:12]
    diff = max(np.abs(g[c.resolved] - naive_encode(m, c)).max() for g, c in zip(m.encode(chains), chains))
    assert diff < 1e-4, diff
    a, b = clock([lambda: m.encode(chains), lambda: [naive_encode(m, c) for c in chains]], repeats)
    n = sum(int(c.resolved.sum()) for c in chains)
    return 'pGNN encoding, residues/s', n/a, n/b

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
    for fn, *args in ((bench_pgnn,), (bench_infonce, 1024), (bench_infonce, 4096), (bench_training,)):
        what, ours, naive = fn(*args, a.repeats)
        print(f'| {what} | {ours:,.0f} | {naive:,.0f} | {ours/naive:.2f} |', flush=True)

if __name__ == '__main__': main()
