"Two processes equal one with the joint batch; what ends one rank ends all, and the run goes on with any number of them"
import os
import subprocess
import sys
import time

import pytest
import torch
from ranks import BROKEN, CASES, LONG, STOPPED, WIDE
from runs import At, apart, gradients, learner, rows_apart, saved_rows, tell, untouched, weights

from sa_toolkit.saving import Checkpoint

NEAR = 1e-5 # weights: a hundredth of one step of Adam, which divides a gradient near nothing, and its rounding, by itself

@pytest.fixture(scope='module')
def two(root, tmp_path_factory):
    "One start of torchrun for all tests"
    folder = tmp_path_factory.mktemp('ranks')
    for shard in (False, True):
        with pytest.raises(SystemExit): learner([Checkpoint(folder/f'taken over {shard}.pt'), At(3, tell(15))], **LONG).fit()
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone', root/'tests/ranks.py', folder]
    with (folder/'log').open('w') as log: code = subprocess.run(command, env=os.environ | dict(OMP_NUM_THREADS='1'), stdout=log, stderr=log, timeout=600).returncode
    print((folder/'log').read_text()[-3000:])
    return folder, code, [torch.load(folder/f'ends{r}.pt') for r in (0, 1)], time.time()-float((folder/'last').read_text())

def one(kw): # the same in this process, as one large batch
    return learner(**WIDE | {k: v for k,v in kw.items() if k not in ('accumulate', 'cached', 'shard', 'recompute')}).fit()

@pytest.mark.parametrize('name', CASES)
def test_two_processes_equal_one(two, name):
    there, here = torch.load(two[0]/f'{name}.pt'), one(CASES[name])
    off = dict(weights=apart(there['weights'], weights(here)), gradients=apart(there['gradients'], gradients(here)), history=rows_apart(there['history'], here.history),
        evals=rows_apart(there['evals'], here.evals))
    print(off)
    if name=='apart': assert off['gradients'] > 1e-3 and off['history'] > .1 and off['evals'] > .1 # half of the candidates: another loss
    else: assert off['weights'] < NEAR and max(x for k,x in off.items() if k!='weights') < 1e-6

@pytest.mark.parametrize('name', BROKEN)
def test_what_is_no_number_on_one_rank_ends_both(two, name):
    folder, _, ends, _ = two
    for rank,end in enumerate(ends):
        assert end['broken', name][0]=='FloatingPointError' and end['broken', name][2]==2, end['broken', name]
        assert f'nan-step2-rank{rank}.pt' in end['broken', name][1] and 'those of that step' in end['broken', name][1]
    kept = [torch.load(folder/f'broken {name}'/f'nan-step2-rank{r}.pt') for r in (0, 1)]
    rows = [{i for b in x['batches'] for i in b['rows_B'].tolist()} for x in kept]
    assert not rows[0] & rows[1] and kept[0]['model'].keys()==weights(learner()).keys() and not kept[1]['model']
    assert torch.load(folder/f'broken {name}'/'run.pt')['step']==2 and [h['step'] for h in saved_rows(folder/f'broken {name}'/'run.pt')]==[1, 2]

@pytest.mark.parametrize('name', STOPPED)
def test_one_is_told_to_stop_and_one_process_goes_on(two, name):
    folder, _, ends, _ = two
    how = 'KeyboardInterrupt' if name=='ctrl-c' else 'SystemExit'
    assert [e['stopped', name] for e in ends]==[(how, '' if name=='ctrl-c' else '143', 2, 'interrupted' if name=='ctrl-c' else 'terminated')]*2
    learn, whole = learner([Checkpoint(folder/f'stopped {name}.pt')], **LONG), untouched(**LONG)
    learn.fit()
    assert len(learn.history)==6 and rows_apart(learn.history, whole.history) < 1e-6 and apart(weights(learn), weights(whole)) < NEAR

@pytest.mark.parametrize('shard', [False, True])
def test_two_take_over_from_one(two, shard):
    folder, _, ends, _ = two
    assert [e['taken over', shard] for e in ends]==[('end', '', 6, None)]*2
    assert apart(torch.load(folder/f'taken over {shard}.pt')['model'], weights(untouched(**LONG))) < NEAR

def test_a_rank_that_is_gone_does_not_leave_the_other_waiting(two):
    assert two[1] != 0 and two[3] < 60
