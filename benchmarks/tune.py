"""Try settings of the alignment on the study's validation chains; prints one row, and appends it to a CSV that `study.tuning` reads.

    python benchmarks/tune.py DATA [setting=value ...] [--valid 60] [--out tuning.csv] [--threads 1]

DATA is a dataset of `sa-toolkit prepare` with CATH annotations, structural tokens and ProteinMPNN states. A setting is a field of
`AlignConfig` (steps=300 lr=5e-5 physical=1), or one that did not earn a place there: `layer` (align the states after that many
layers before the last), `scaled` (states divided by the root of their dimension, not normalised), `unmasked` (both structure tasks on a
second, unmasked pass), `seen` (both only at residues that are not masked), `tau` (first temperature), `flat` (the rate stays where the warm-up
brought it), `mix` (how far the weights go from the base's to the trained ones); or `chains`, how many to train on. `rho` selects residues with the
study's reference model, which lies in `work` beside the CSV or is trained there. Without settings the base is measured.

Measured on validation chains of each kind (`--valid 0`: all of them), never on test chains: long- and all-range P@L with the model's own
contact head, with a refitted head and with the probe of frozen states, masked-LM perplexity, and the rank correlation with the effects of
GB1's mutations.
"""
import argparse
import csv
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import sa_toolkit.train as training
from sa_toolkit.aligner import AlignConfig, Aligner, ResidueLosses
from sa_toolkit.attention import EndToEnd
from sa_toolkit.losses import infonce, mlm_loss, token_loss
from sa_toolkit.plm import load_plm
from sa_toolkit.study import Cell, Study, reference
from sa_toolkit.suite import Suite, evaluate

OURS = dict(chains=3000, layer=0, scaled=False, unmasked=False, seen=False, tau=.07, flat=False, mix=1)
SHOWN = {f'{r} P@L ({h})': f'{t} {r}' for h, t in {'own head': 'own', 'refitted head': 'refit', 'pair probe': 'probe'}.items() for r in ('long', 'all')}

class Variant(Aligner):
    def norm(self, h): return h/math.sqrt(h.shape[-1]) if self.how['scaled'] else F.normalize(h, dim=-1)
    def sequence_space(self, h): return F.normalize(self.project_a(self.norm(h)), dim=-1)

    def states(self, ids): # last states, and those that are aligned
        through, seen = self.plm.through, []
        if not self.how['layer']: return [self.plm.states(ids)]*2
        def keep(fn, *a):
            seen.append(through(fn, *a))
            return seen[-1]
        self.plm.through = keep
        try: last = self.plm.states(ids)
        finally: del self.plm.through
        early = F.layer_norm(seen[-1-self.how['layer']], last.shape[-1:])
        return last, EndToEnd(ids!=self.plm.vocab.id(self.plm.vocab.pad)).pad(early)[:, 1:-1]

    def forward(self, b, cfg, over_ranks=False, contrast=True):
        h, s = self.states(b.masked_BL)
        if self.how['unmasked']: s = self.states(b.ids_BL)[1]
        none, defined, at, g = h.new_zeros(0), b.tokens_BL >= 0, b.resolved_BL, b.g_NG
        if self.how['seen']: defined, at, g = defined & ~b.hit_BL, at & ~b.hit_BL, g[~b.hit_BL[at]]
        mlm = mlm_loss(self.plm.head(h[b.hit_BL]), b.ids_BL[:, 1:-1][b.hit_BL]) if cfg.mlm else none
        physical = token_loss(self.token_head(self.norm(s[defined])), b.tokens_BL[defined]) if cfg.physical else none
        if not cfg.latent: return ResidueLosses(mlm, physical, none, none), None
        z = self.sequence_space(s[at]), self.structure_space(g), self.scale
        return ResidueLosses(mlm, physical, *infonce(*z, max_scale=cfg.max_scale)), z

def train(study, how, cfg):
    model = Variant(load_plm(study.model), 128, 20, cfg.seed)
    base = {k: x.clone() for k, x in model.plm.state_dict().items() if x.is_floating_point()}
    model.how = how
    with torch.no_grad(): model.log_scale.fill_(math.log(1/how['tau']))
    ref = reference(study, Cell('dual', 0, 6000)) if cfg.selection=='excess' else None
    if how['flat']: training.rate = lambda step, cfg: min(1, (step+1)/max(1, round(cfg.warmup*cfg.steps)))
    learn = training.Learner(model, study.pick('train', how['chains']), cfg, ref, [])
    for step in range(cfg.steps):
        learn.one_step()
        if step % 25 == 24: print(step+1, {k: round(learn.history[-1][k], 3) for k in ('mlm', 'physical', 'latent')}, flush=True)
    model.plm.load_state_dict({k: x.lerp(model.plm.state_dict()[k], how['mix']) for k, x in base.items()}, strict=False)
    return model.plm

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data')
    p.add_argument('settings', nargs='*')
    p.add_argument('--valid', type=int, default=60)
    p.add_argument('--out', default='tuning.csv')
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    if bad := [s for s in a.settings if s.count('=') != 1]: p.error(f'{bad[0]!r} is no setting=value.')
    if a.settings and not any(s.startswith('steps=') for s in a.settings): p.error('Settings need steps=; without any the base is measured.')
    torch.set_num_threads(a.threads)
    given = {k: json.loads('0'*v.startswith('.') + v) for k, v in (s.split('=') for s in a.settings)}
    how, given = {k: given.get(k, v) for k, v in OURS.items()}, {k: v for k, v in given.items() if k not in OURS}
    study, start = Study(a.data, Path(a.out).parent), time.perf_counter()
    valid = [e for kind in ('valid cluster', 'valid topology') for e in study.pick(kind, a.valid)]
    suite = Suite(list(study.pick('fit', 120, longest=200)), valid, tasks=('contacts', 'pairs', 'language', 'mutations'), split='valid')
    cfg = AlignConfig(selection='excess' if 'rho' in given else 'all', **given)
    plm = train(study, how, cfg) if a.settings else load_plm(study.model)
    minutes = round((time.perf_counter()-start)/60)
    got = {m.name: m.value() for m in evaluate(plm, suite)}
    said = ' '.join(x for x in a.settings if not x.startswith(('steps=', 'chains='))) or 'base, nothing trained'
    row = dict(settings=said, steps=cfg.steps*bool(a.settings), chains=how['chains']*bool(a.settings), measured=len(valid)) | {t: f'{got[n]:.4f}' for n, t in SHOWN.items()}
    row |= dict(perplexity=f'{got["perplexity"]:.3f}', GB1=f'{next(v for n, v in got.items() if n.startswith("GB1")):.3f}', minutes=minutes)
    print(row)
    new = not Path(a.out).exists()
    with open(a.out, 'a', newline='') as f:
        out = csv.DictWriter(f, row)
        if new: out.writeheader()
        out.writerow(row)

if __name__ == '__main__': main()
