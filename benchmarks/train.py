"""A full training step against a straightforward transformers loop, both in one run, step about; prints tables.

    python benchmarks/train.py [SOURCE] [--model esm2-8M] [--chains 64] [--repeats 3] [--threads 1 2] [--precision fp32] [--compile]

A step is masked-LM, token and contrastive losses, the choice of the highest excess losses by a reference model's forward pass, backward, clipping and AdamW.
Straightforward means what one would first write: shuffled batches of eight chains padded to the longest, EsmForMaskedLM of transformers with an attention mask, an
N×N contrastive matrix, torch's default AdamW. Both sides have the same weights, precision and chains per epoch and as many residues per step on
average; that they compute the same losses and gradients is checked first, on one batch. SOURCE is a pack of chains (.npz) or a dataset's folder; without it, the package's
example chains are taken. Sequences and lengths are real; structure states and tokens are random, for speed does not depend on them.

A repeat is one epoch of each side. Each side has its best number of threads. Operations are counted for residues and frame, none for padding, as (6 + 2) ×
parameters × tokens, attention and contrast added: two for the reference's forward pass.
Processor seconds, all threads together, say what a busy machine hides; the share of the matrix peak is of those, on both sides of the division.
"""
import argparse
import copy
import os
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from common import operations, peak, sample
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from sa_toolkit.aligner import Aligner, AlignConfig, total_loss
from sa_toolkit.core import make_chain
from sa_toolkit.data import Example, collate
from sa_toolkit.devices import half
from sa_toolkit.plm import load_plm
from sa_toolkit.train import Learner

SIZE = 8 # chains per batch of the straightforward loop

class Plain(nn.Module):
    "The same weights, and losses, in transformers and torch alone"
    def __init__(self, aligner):
        super().__init__()
        self.lm = transformers.EsmForMaskedLM(aligner.plm.model.config)
        self.lm.load_state_dict(aligner.plm.model.state_dict())
        self.project_a, self.project_g, self.token_head, self.log_scale = copy.deepcopy([aligner.project_a, aligner.project_g, aligner.token_head, aligner.log_scale])

    def forward(self, b):
        out = self.lm(b.masked_BL, attention_mask=b.masked_BL != self.lm.config.pad_token_id, output_hidden_states=True)
        h, logits = out.hidden_states[-1][:, 1:-1], out.logits[:, 1:-1]
        mlm = F.cross_entropy(logits.transpose(1, 2), b.ids_BL[:, 1:-1].masked_fill(~b.hit_BL, -100), reduction='none')[b.hit_BL]
        x = F.normalize(h, dim=-1)
        physical = F.cross_entropy(self.token_head(x).transpose(1, 2), b.tokens_BL, reduction='none')[b.tokens_BL >= 0]
        z_a, z_g = F.normalize(self.project_a(x[b.resolved_BL]), dim=-1), F.normalize(self.project_g(b.g_NG), dim=-1)
        with record_function('contrast'):
            s = self.log_scale.exp().clamp(max=100)*z_a@z_g.T
            i = torch.arange(len(s))
            a2g, g2a = F.cross_entropy(s, i, reduction='none'), F.cross_entropy(s.T, i, reduction='none')
        return SimpleNamespace(mlm=mlm, physical=physical, a2g=a2g, g2a=g2a)

def best_mean(now, reference, rho):
    "Mean of the losses with the highest excess"
    return now[(now-reference).topk(int(rho*len(now))).indices].mean()

class PlainLoop:
    "What one would first write"
    def __init__(self, model, reference, examples, vocab, cfg):
        self.model, self.reference, self.examples, self.vocab, self.cfg = model.train(), reference.eval(), examples, vocab, cfg
        heads = [p for k, p in model.named_parameters() if not k.startswith('lm.')]
        self.opt = torch.optim.AdamW([dict(params=model.lm.parameters(), lr=cfg.lr), dict(params=heads, lr=cfg.head_lr)], betas=(.9, .95), weight_decay=cfg.weight_decay)
        self.epoch, self.todo = 0, []

    def loss(self, b):
        with half(self.cfg.precision, torch.device('cpu')):
            now = self.model(b)
            with torch.no_grad(): ref = self.reference(b)
        pick = lambda k: best_mean(getattr(now, k).float(), getattr(ref, k).float(), self.cfg.rho)
        return self.cfg.mlm*now.mlm.float().mean() + self.cfg.physical*pick('physical') + self.cfg.latent*(pick('a2g') + pick('g2a'))/2

    def one_step(self):
        if not self.todo:
            order = np.random.default_rng(self.epoch).permutation(len(self.examples))
            self.todo, self.epoch = [order[i:i+SIZE] for i in range(0, len(order), SIZE)], self.epoch + 1
        with record_function('data'): b = self.read(self.todo.pop())
        self.opt.zero_grad()
        self.loss(b).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.opt.step()
        return int(b.real_BL.sum()), b.masked_BL.numel()

    def read(self, rows): return collate([self.examples[i] for i in rows], self.vocab, rows=rows, epoch=self.epoch)

class Here:
    "The package's own step"
    def __init__(self, *args):
        self.learn = Learner(*args)
        self.learn.model.train()
        read = self.learn.read
        def named(step):
            with record_function('data'): return read(step)
        self.learn.read = named

    def one_step(self):
        self.learn.one_step()
        n = self.learn.history[-1]['residues']
        return n, n

def agree(aligner, reference, b, cfg):
    "The same losses and gradients on both sides, or an error; returns the largest differences"
    plain, ours = PlainLoop(Plain(aligner), Plain(reference), [], None, cfg), copy.deepcopy(aligner).train()
    with torch.no_grad(): ref = reference(b, cfg)[0]
    now, theirs = ours(b, cfg)[0], plain.model(b)
    losses = max((getattr(now, k)-getattr(theirs, k)).abs().max().item() for k in ('mlm', 'physical', 'a2g', 'g2a'))
    total_loss(now, ref, cfg)[0].backward()
    plain.loss(b).backward()
    pairs = [(p.grad, q.grad) for p, q in zip(ours.plm.model.parameters(), plain.model.lm.parameters()) if p.grad is not None]
    grads = max(((p-q).norm()/q.norm()).item() for p, q in pairs if q.norm() > 1e-6)
    assert losses < 1e-4 and grads < 1e-3, f'The two sides differ: losses by {losses:.1e}, gradients by {grads:.1e}.'
    return losses, grads

def work(aligner, examples, steps):
    "Operations of an epoch: forward, twice that backward, and the reference's forward pass"
    n = [len(e.chain) for e in examples]
    heads = sum(p.numel() for x in (aligner.token_head, aligner.project_a, aligner.project_g) for p in x.parameters())
    return 4*(operations(aligner.plm.model.config, n) + 2*sum(n)*heads + 2*sum(n)**2/steps*aligner.project_g.out_features)

def measure(sides, threads, steps, repeats):
    "(side, threads) → (residues/s, residues per processor second, share of tokens that are residues) of each repeat; sides take turns step by step"
    found = {(name, t): [] for t in threads for name in sides}
    for _ in range(repeats):
        for t in threads:
            torch.set_num_threads(t)
            total = {name: np.zeros(4) for name in sides}
            for _ in range(steps):
                for name, side in sides.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    n, cells = side.one_step()
                    total[name] += n, cells, time.perf_counter()-wall, time.process_time()-cpu
            for name, (n, cells, wall, cpu) in total.items(): found[name, t].append((n/wall, n/cpu, n/cells))
    return {k: np.array(v) for k, v in found.items()}

MATRIX = {'aten::addmm', 'aten::mm', 'aten::bmm', 'aten::baddbmm', 'aten::addmm_', 'mkl::_mkl_linear', 'mkldnn::_linear_pointwise'}
GROUPS = 'matrix products', 'attention', 'contrastive loss', 'elementwise, normalisation, gathering', 'optimiser and clipping', 'data', 'outside of torch'

def group(event, contrast):
    "What an event of the profiler belongs to; `contrast` are the numbers of the contrastive loss's operations, which their gradients bear too"
    names, e = [], event
    while e is not None:
        if e.name in ('contrast', '_InfoNCE') or e.sequence_nr in contrast and 'evaluate_function' in e.name: return 'contrastive loss'
        names.append(e.name)
        e = e.cpu_parent
    has = lambda *words: any(w in n for n in names for w in words)
    if 'data' in names: return 'data'
    if has('Optimizer', '_foreach', '_fused_adam'): return 'optimiser and clipping'
    if has('scaled_dot_product', 'ScaledDotProduct'): return 'attention'
    return 'matrix products' if event.name in MATRIX else 'elementwise, normalisation, gathering'

def shares(side, steps):
    "Where the time of a step goes: group → milliseconds per 1,000 residues"
    n, out = 0, Counter()
    with profile(activities=[ProfilerActivity.CPU]) as p:
        start = time.perf_counter()
        for _ in range(steps): n += side.one_step()[0]
        total = time.perf_counter()-start
    inside = lambda e: e is not None and (e.name in ('contrast', '_InfoNCE') or inside(e.cpu_parent))
    contrast = {e.sequence_nr for e in p.events() if e.sequence_nr >= 0 and inside(e)}
    for e in p.events(): out[group(e, contrast)] += e.self_cpu_time_total/1e6
    out['outside of torch'] = total-sum(out.values())
    return {k: 1e6*out[k]/n for k in GROUPS}

def report(sides, found, per_residue, threads):
    top = {}
    for t in threads:
        torch.set_num_threads(t)
        top[t] = peak(), peak(now=time.process_time)
    best = {name: max(threads, key=lambda t: found[name, t][:, 0].max()) for name in sides}
    theirs = found['transformers loop', best['transformers loop']]
    print('float32 matrix product, GFLOP/s:', ', '.join(f'{wall:.0f} with {t} thread(s), {cpu:.0f} per processor second' for t, (wall, cpu) in top.items()), '\n')
    print('| what | threads | residues/s | faster by, over repeats | per processor second | faster by | residues among tokens | share of the matrix peak |')
    print('|---|---|---|---|---|---|---|---|')
    for name, t in best.items():
        r = found[name, t]
        ratio = r[:, :2]/theirs[:, :2]
        print(f'| {name} | {t} | {r[:,0].max():,.0f} | {np.median(ratio[:,0]):.2f} ({ratio[:,0].min():.2f}–{ratio[:,0].max():.2f}) | {r[:,1].max():,.0f} | {np.median(ratio[:,1]):.2f} '
            f'| {r[:,2].mean():.0%} | {per_residue*r[:,1].max()/1e9/top[t][1]:.0%} |')
    print('\n| milliseconds per 1,000 residues | ' + ' | '.join(f'{name}, {best[name]} thread(s)' for name in sides) + ' |\n|---|' + '---|'*len(sides))
    columns = []
    for name, side in sides.items():
        torch.set_num_threads(best[name])
        columns.append(shares(side, 2))
    for g in GROUPS: print(f'| {g} | ' + ' | '.join(f'{c[g]:.0f} ({c[g]/sum(c.values()):.0%})' for c in columns) + ' |')

def make(sequences, width, seed=0):
    "Examples with random tokens and states"
    rng, x = np.random.default_rng(seed), np.full((1, 4, 3), np.nan)
    return [Example(make_chain(str(k), s, x.repeat(len(s), 0)), rng.integers(0, 20, len(s)), rng.standard_normal((len(s), width)).astype(np.float32)) for k, s in enumerate(sequences)]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('source', nargs='?')
    p.add_argument('--model', default='esm2-8M')
    p.add_argument('--chains', type=int, default=64)
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--threads', type=int, nargs='+', default=sorted({1, os.cpu_count()}))
    p.add_argument('--precision', choices=['fp32', 'bf16'], default='fp32')
    p.add_argument('--compile', action='store_true', help='also with torch.compile')
    a = p.parse_args()
    torch.set_num_threads(1)
    examples = make([s[:1022] for s in sample(a.source, a.chains)], 128)
    n, steps = [len(e.chain) for e in examples], -(-len(examples)//SIZE)
    aligner, reference = (Aligner(load_plm(a.model, pretrained=False, seed=k), 128, seed=k) for k in (0, 1))
    cfg = AlignConfig(steps=10**6, budget=(sum(n) + 2*len(n))//steps, precision=a.precision)
    losses, grads = agree(aligner, reference, collate(examples[:SIZE], aligner.plm.vocab), replace(cfg, precision='fp32'))
    run = lambda **kw: Here(copy.deepcopy(aligner), examples, replace(cfg, **kw), copy.deepcopy(reference))
    sides = {'here': run(), 'transformers loop': PlainLoop(Plain(aligner), Plain(reference), examples, aligner.plm.vocab, cfg)}
    if a.compile: sides['here, compiled'] = run(compile=True)
    for side in sides.values():
        for _ in range(2): side.one_step()
    print(f'{a.model} at random weights, {a.precision}, torch {torch.__version__}, transformers {transformers.__version__}')
    print(f'{len(n)} chains of {min(n)} to {max(n)} residues, {sum(n):,} in all; {steps} steps per epoch, {a.repeats} epochs per side and number of threads')
    print(f'On one batch, in float32, losses differ by {losses:.0e} at most, gradients by {grads:.0e} (relative)\n')
    report(sides, measure(sides, a.threads, steps, a.repeats), work(aligner, examples, steps)/sum(n), a.threads)

if __name__ == '__main__': main()
