"""Embedding against plain transformers, both in one run, alternating; prints a table.

    python benchmarks/embed.py [SOURCE] [--model esm2-8M] [--chains 100] [--repeats 2]

Plain means what transformers' own examples do: EsmTokenizer and EsmModel, batches of 8 or 16 sequences in the order given, padded to the longest
of each, SDPA, inference mode. Both sides have the same random weights (speed does not depend on their values) and give one array per sequence, which
is checked. Each side has its best number of threads. SOURCE is a pack of chains (.npz) or a dataset's folder; without it, the package's example
chains are taken. The share of the matrix peak counts the model's operations on residues and frame, none on padding.
"""
import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from common import clock, operations, peak, sample
from transformers import EsmModel, EsmTokenizer

from sa_toolkit.embed import embed
from sa_toolkit.esm2 import ESM
from sa_toolkit.plm import load_plm

def plain(plm):
    "The same weights in transformers alone: sequences and batch size → arrays"
    model = EsmModel(plm.model.config, add_pooling_layer=False).eval()
    model.load_state_dict(plm.model.esm.state_dict())
    with tempfile.TemporaryDirectory() as d:
        (Path(d)/'vocab.txt').write_text('\n'.join(ESM.tokens))
        tokenizer = EsmTokenizer(str(Path(d)/'vocab.txt'))
    @torch.inference_mode()
    def run(sequences, size):
        out = []
        for k in range(0, len(sequences), size):
            some = sequences[k:k+size]
            h = model(**tokenizer(some, padding=True, return_tensors='pt')).last_hidden_state
            out += [x[1:len(s)+1].numpy() for x, s in zip(h, some)]
        return out
    return run

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('source', nargs='?')
    p.add_argument('--model', default='esm2-8M')
    p.add_argument('--chains', type=int, default=100)
    p.add_argument('--repeats', type=int, default=2)
    p.add_argument('--threads', type=int, nargs='+', default=sorted({1, os.cpu_count()}))
    a = p.parse_args()
    plm, sequences = load_plm(a.model, pretrained=False), sample(a.source, a.chains)
    theirs, lengths = plain(plm), [len(s) for s in sequences]
    few = sequences[:20]
    for x, y in zip(embed(few, plm, progress=False), theirs(few, 8)): assert np.allclose(x, y, atol=1e-4)
    sides = {'here': lambda: embed(sequences, plm, progress=False), 'plain, batches of 8': lambda: theirs(sequences, 8), 'plain, batches of 16': lambda: theirs(sequences, 16)}
    def on(threads, fn):
        def go():
            torch.set_num_threads(threads)
            fn()
        return go
    runs = [(name, t) for t in a.threads for name in sides]
    seconds = dict(zip(runs, clock([on(t, sides[name]) for name, t in runs], a.repeats)))
    best = {name: min((seconds[name, t], t) for t in a.threads) for name in sides}
    top = {}
    for t in a.threads:
        torch.set_num_threads(t)
        top[t] = max(peak(size) for size in (512, 1024, 2048))
    n, work = sum(lengths), operations(plm.model.config, lengths)
    print(f'{a.model} at random weights, torch {torch.__version__}, transformers {transformers.__version__}, {len(sequences)} chains, {n:,} residues, {min(lengths)}–{max(lengths)} long')
    print('float32 matrix product, GFLOP/s:', ', '.join(f'{v:.0f} with {k} thread(s)' for k, v in top.items()), '\n')
    print('| what | residues/s | threads | here is faster by | share of the matrix peak |\n|---|---|---|---|---|')
    for name, (s, t) in best.items(): print(f'| {name} | {n/s:,.0f} | {t} | {s/best["here"][0]:.2f} | {work/s/1e9/top[t]:.0%} |')

if __name__ == '__main__': main()
