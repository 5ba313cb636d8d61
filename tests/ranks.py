"What two processes do, started by torchrun: `torchrun --nproc_per_node=2 tests/ranks.py FOLDER`; test_ranks.py compares it with one process"
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from runs import EXAMPLES, At, Often, break_gradient, break_weight, gradients, learner, tell, weights

from sa_toolkit.saving import Checkpoint

WIDE = dict(steps=3, budget=340, valid=EXAMPLES[:4], eval_every=2) # two steps per epoch, each for up to four parts

# what each must equal in one process: its own settings, but for those that spread the work
CASES = {'ddp':dict(), 'fsdp':dict(shard=True), 'alone':dict(judged=False), 'all':dict(selection='all'), 'lowest':dict(selection='lowest', rho=.5),
    'cached':dict(accumulate=2, cached=True), 'cached fsdp':dict(accumulate=2, cached=True, shard=True), 'cached no mlm':dict(accumulate=2, cached=True, mlm=0.),
    'parts':dict(accumulate=2, latent=0., judged=False), 'parts fsdp':dict(accumulate=2, latent=0., judged=False, shard=True),
    'lora':dict(lora=2), 'frozen':dict(freeze=1), 'no latent':dict(latent=0.), 'no physical':dict(physical=0.), 'recompute':dict(recompute=True), 'recompute fsdp':dict(recompute=True, shard=True),
    'amplify':dict(name='amplify-tiny'), 'amplify fsdp':dict(name='amplify-tiny', shard=True), 'apart':dict(gather=False)}

# what breaks on one rank
BROKEN = {'loss':(break_weight, dict()), 'loss, no reference':(break_weight, dict(judged=False)), 'loss fsdp':(break_weight, dict(shard=True, judged=False)),
    'gradient':(break_gradient, dict()), 'cached':(break_weight, dict(accumulate=2, cached=True))}

# who is told to stop, and how the work is spread before and after
STOPPED = {'ddp':(signal.SIGTERM, dict()), 'fsdp':(signal.SIGTERM, dict(shard=True)), 'ctrl-c':(signal.SIGINT, dict())}
LONG = dict(steps=6, budget=340)


def attempt(learn): # how a run ends
    try: learn.fit()
    except BaseException as e: return type(e).__name__, str(e), learn.step, learn.stopped # SystemExit among them
    return 'end', '', learn.step, learn.stopped


def all_of(folder, rank):
    for name, kw in CASES.items():
        learn = learner(**WIDE | kw).fit()
        found = dict(weights=weights(learn), gradients=gradients(learn), history=learn.history, evals=learn.evals)
        if rank==0: torch.save(found, folder/f'{name}.pt')
    ends = {}
    for name, (harm, kw) in BROKEN.items():
        out = folder/f'broken {name}'
        ends['broken', name] = attempt(learner([Often(out/'run.pt'), At(2, harm, rank=1)], out=out, **LONG | kw))
    for name, (number, kw) in STOPPED.items():
        ends['stopped', name] = attempt(learner([Checkpoint(folder/f'stopped {name}.pt'), At(2, tell(number), rank=1)], **LONG | kw))
    for shard in (False, True):
        ends['taken over', shard] = attempt(learner([Checkpoint(folder/f'taken over {shard}.pt')], shard=shard, **LONG)) # the tests began it
    torch.save(ends, folder/f'ends{rank}.pt')
    dist.barrier()
    if rank==0: (folder/'last').write_text(str(time.time()))
    attempt(learner([At(2, lambda _: os._exit(3), rank=0)], **LONG)) # rank 1 hears nothing from rank 0 any more
    sys.exit(5)


if __name__ == '__main__': all_of(Path(sys.argv[1]), int(os.environ['RANK']))
