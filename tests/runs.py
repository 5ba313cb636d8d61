"Short training runs that several tests share; a process that imports this has loaded all that a run needs"
import multiprocessing as mp
import os
import signal
from functools import lru_cache
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import torch
import torch.distributed.checkpoint.state_dict  # noqa: F401

from sa_toolkit.core import example_chains
from sa_toolkit.data import encode_chains
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.plm import load_plm
from sa_toolkit.saving import Best, Checkpoint
from sa_toolkit.saving import rows as as_rows
from sa_toolkit.tokens import load_tokenizer
from sa_toolkit.train import Aligner, AlignConfig, Learner, whole_state

torch.set_num_threads(1)
EXAMPLES = encode_chains(sorted(example_chains('train'), key=len)[:60:6], load_pgnn(), load_tokenizer()) # ten, of 50 to 78 residues
load_plm('tiny') # loads transformers


def aligner(name='tiny', seed=1): return Aligner(load_plm(name, pretrained=False, seed=seed), 128, seed=seed)


def learner(
    callbacks=(),
    name='tiny',
    judged=True, # by a reference model
    model=None, # None: a fresh one
    examples=EXAMPLES,
    valid=None,
    out=None,
    **kw, # of `AlignConfig`
):
    return Learner(model or aligner(name), examples, AlignConfig(**dict(steps=3, budget=200, lr=1e-3) | kw), aligner(name, 3) if judged else None, callbacks, valid, out)


@lru_cache
def untouched(**kw): return learner(**kw).fit() # a run that nothing disturbs


def whole(x): return x.full_tensor() if hasattr(x, 'full_tensor') else x


def weights(learn): return {k: x.clone() for k, x in whole_state(learn)[0].items()}


def gradients(learn): return {k: whole(p.grad).clone() for k, p in learn.model.named_parameters() if p.grad is not None}


def apart(a, b): # largest difference of two dicts of tensors
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return torch.stack([(a[k].double() - b[k].double()).abs().max() for k in a]).max().item() # NaN where there is one


def saved_rows(file): return rows(as_rows(torch.load(file)['history']))


def rows(log): return [{k: v for k, v in r.items() if k != 'seconds'} for r in log] # of history or evals, without the clock


def rows_apart(a, b): # largest difference of two logs, as a share of numbers above 1
    assert [r.keys() for r in a] == [r.keys() for r in b]
    return torch.tensor([abs(x[k] - y[k])/max(1, abs(x[k])) for x, y in zip(rows(a), rows(b)) for k in x]).max().item()


class At:
    "Do something after a step"
    def __init__(self, step, do, rank=None): self.step, self.do, self.rank = step, do, rank # rank: None for all
    def after_step(self, learn):
        if learn.step == self.step and self.rank in (None, learn.ranks.rank): self.do(learn)


def tell(number): return lambda learn: signal.raise_signal(number)


def break_weight(learn): # where it is sharded, this rank's part
    w = learn.model.token_head[0].weight.data
    (w.to_local() if hasattr(w, 'to_local') else w)[0, 0] = float('nan')


def break_gradient(learn): learn.model.project_a.weight.register_hook(lambda g: g*float('nan'))


class Phase:
    "Tell the process outside what a run is about to do"
    def __init__(self, now, step, name): self.now, self.step, self.name = now, step, name
    def before_step(self, learn): self.now.value, self.step.value = self.name, learn.step


SAVING, STEP, EVALUATING = range(1, 4)


class Often(Checkpoint):
    "A checkpoint before every step, however long that takes"
    def before_step(self, learn):
        self.every = self.took = 0
        super().before_step(learn)


class Evaluating(Phase):
    def after_step(self, learn): self.now.value = self.name if learn.step % learn.cfg.eval_every == 0 else 0
    def before_step(self, learn): pass


LONG = dict(steps=24, eval_every=2, budget=200)


def long_run(folder, now, step): # what is killed
    seen = [Phase(now, step, SAVING), Often(folder/'run.pt'), Phase(now, step, STEP), Evaluating(now, step, EVALUATING), Best(folder/'best.pt')]
    return learner(seen, valid=EXAMPLES[:4], **LONG).fit()


def forks():
    "A context whose processes start with everything loaded, forked from a clean process"
    ctx, before = mp.get_context('forkserver'), os.environ.get('PYTHONPATH')
    ctx.set_forkserver_preload(['runs'])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before))) # the server does not know this process's sys.path
    try: ensure_running()
    finally: os.environ['PYTHONPATH'] = before or ''
    return ctx
