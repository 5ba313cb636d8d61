"""Time and peak memory of the contrastive loss, forward and backward; prints a table.

    python benchmarks/infonce.py [--n 1024 4096 16384 65536] [--d 128 320 512] [--repeats 3] [--threads 1] [--device cpu]

Three forms of the same thing: sa_toolkit's, the N×N matrix with two cross-entropies (naive), and
torch.nn.functional.linear_cross_entropy with its chunked options, used once for the rows and once for the columns.

Each reading is a process of its own, so that no form inherits another's memory; the forms take turns and each keeps its best.
Inside, a small pass warms up, then passes repeat for a second (one at least). On a CPU the seconds are processor seconds, all
threads together: programs that share the machine lengthen them less. Peak memory is what the resident memory rises by at most
once the inputs are made (VmHWM of Linux, reset before; on a GPU torch.cuda.max_memory_allocated); it includes the gradients,
which every form must return. Naive is left out where five matrices would fill half of the memory.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from sa_toolkit.losses import infonce

def naive(z_a, z_g, scale):
    s, i = scale*z_a@z_g.T, torch.arange(len(z_a), device=z_a.device)
    return F.cross_entropy(s, i, reduction='none'), F.cross_entropy(s.T, i, reduction='none')

def chunked(z_a, z_g, scale):
    i, options = torch.arange(len(z_a), device=z_a.device), torch.nn.LinearCrossEntropyOptions()
    return tuple(F.linear_cross_entropy(x*scale, y, i, reduction='none', options=options) for x, y in ((z_a, z_g), (z_g, z_a)))

FORMS = {'sa_toolkit': infonce, 'naive': naive} | ({'linear_cross_entropy ×2': chunked} if hasattr(F, 'linear_cross_entropy') else {}) # torch ≥ 2.13

def inputs(n, d, device):
    torch.manual_seed(0)
    z = [F.normalize(torch.randn(n, d), dim=1) for _ in range(2)]
    return [x.to(device).requires_grad_() for x in (*z, torch.tensor([14.]))]

def run(form, z):
    "One pass; the weights differ per residue as after selection"
    for x in z: x.grad = None
    w = torch.linspace(0, 1, len(z[0]), device=z[0].device)
    a, g = FORMS[form](*z)
    (a*w).sum().add((g*w.flip(0)).sum()).backward()
    return a, g

def reset(device):
    "Forget how much memory this process has held so far; returns what it holds now"
    if device == 'cuda': torch.cuda.reset_peak_memory_stats()
    else: Path('/proc/self/clear_refs').write_text('5') # Linux
    return high_water(device)

def high_water(device):
    "Bytes this process has held at most since `reset`"
    if device == 'cuda': return torch.cuda.max_memory_allocated()
    return next(int(x.split()[1])*1024 for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM'))

def reading(form, n, d, device):
    "Seconds (best pass) and peak bytes of one form, in this process"
    sync = torch.cuda.synchronize if device == 'cuda' else lambda: None
    run(form, inputs(64, d, device))
    z = inputs(n, d, device)
    sync()
    clock = time.perf_counter if device == 'cuda' else time.process_time
    before, best, start = reset(device), float('inf'), clock()
    while best == float('inf') or clock()-start < 1:
        t = clock()
        run(form, z)
        sync()
        best = min(best, clock()-t)
    return best, high_water(device)-before

def agree(d, device):
    "Losses and gradients of all forms are the same to float32's rounding"
    got = {}
    for form in FORMS:
        z = inputs(500, d, device)
        got[form] = [*(x.detach() for x in run(form, z)), *(x.grad for x in z)]
    for form, found in got.items():
        for p, q in zip(found, got['naive']):
            assert (p-q).abs().max() <= 1e-5*q.abs().max().clamp(min=1), f'{form} differs from naive.'

def child(form, n, d, a):
    "The same in a fresh process"
    out = subprocess.run([sys.executable, __file__, '--reading', form, '--n', str(n), '--d', str(d), '--threads', str(a.threads), '--device', a.device],
        capture_output=True, text=True)
    if out.returncode: sys.exit(f'{form} at N = {n:,}, D = {d} failed: {out.stderr[-2000:]}')
    return json.loads(out.stdout)

def fits(form, n): return form != 'naive' or 5*4*n**2 < os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2

def compare(n, d, a):
    "One line of the table per form"
    forms, found = [f for f in FORMS if fits(f, n)], {}
    for _ in range(a.repeats):
        for f in forms: found.setdefault(f, []).append(child(f, n, d, a))
    best = {f: [min(x) for x in zip(*found[f])] for f in forms}
    for f, (t, m) in best.items():
        print(f'| {n:,} | {d} | {f} | {t:.3f} | {t/best["sa_toolkit"][0]:.2f} | {m/2**20:,.1f} | {m/best["sa_toolkit"][1]:.1f} |', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=int, nargs='+', default=[1024, 4096, 16384, 65536])
    p.add_argument('--d', type=int, nargs='+', default=[128, 320, 512])
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    p.add_argument('--reading', choices=list(FORMS), help=argparse.SUPPRESS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.reading: return print(json.dumps(reading(a.reading, a.n[0], a.d[0], a.device)))
    for d in a.d: agree(d, a.device)
    print(f'torch {torch.__version__}, {a.device}, {a.threads} thread(s), float32\n')
    print('| N | D | form | seconds | × sa_toolkit | peak MiB | × sa_toolkit |\n|---|---|---|---|---|---|---|')
    for n in a.n:
        for d in a.d: compare(n, d, a)

if __name__ == '__main__': main()
