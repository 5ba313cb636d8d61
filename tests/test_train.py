"Nothing is lost: killed, told to stop, out of space or out of numbers, a run keeps what it had, and goes on to the same weights"
import copy
import math
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import (EVALUATING, EXAMPLES, LONG, SAVING, STEP, At, Often, aligner, apart, break_gradient, break_weight, forks, gradients, learner, long_run, rows,
    rows_apart, saved_rows, tell, untouched, weights)

from sa_toolkit.core import make_chain
from sa_toolkit.data import Batch, Example, cover
from sa_toolkit.esm2 import ESM
from sa_toolkit.language import residues, tokenize
from sa_toolkit.saving import Best, Checkpoint

FULL = bool(os.environ.get('SA_FULL'))

@pytest.fixture(scope='module')
def ctx(): return forks()

# a step in parts

def first(**kw):
    learn = learner(budget=700, steps=1, **kw)
    learn.one_step()
    return learn

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
@pytest.mark.parametrize('kw', [dict(latent=0., judged=False), dict(latent=0., selection='all'), dict(mlm=0., latent=0., judged=False)])
def test_parts_make_the_large_batch(name, kw):
    large, parts = first(name=name, **kw), first(name=name, accumulate=3, **kw)
    assert len(parts.batches[0])==3 and len({b.real_BL.sum().item() for b in parts.batches[0]}) > 1 # uneven
    assert rows_apart(large.history, parts.history) < 1e-6 and apart(gradients(large), gradients(parts)) < 1e-6

def test_the_mean_is_over_residues_not_over_parts():
    parts = first(latent=0., judged=False, accumulate=3, lr=0., head_lr=0.)
    with torch.no_grad(): mlm = [parts.model(b, parts.cfg)[0].mlm for b in parts.batches[0]]
    assert abs(torch.cat(mlm).mean().item() - parts.history[0]['mlm']) < 1e-6
    assert abs(sum(x.mean().item() for x in mlm)/3 - parts.history[0]['mlm']) > 1e-4

@pytest.mark.parametrize('kw', [dict(), dict(judged=False), dict(selection='lowest'), dict(name='amplify-tiny'), dict(physical=0.), dict(mlm=0.), dict(lora=2), dict(rho=.31)])
def test_the_contrast_needs_the_cache(kw):
    large, parts, cached = first(**kw), first(accumulate=3, **kw), first(accumulate=3, cached=True, **kw)
    assert large.history[0]['latent'] - parts.history[0]['latent'] > .1 # a third of the candidates
    assert rows_apart(large.history, cached.history) < 2e-6 and apart(gradients(large), gradients(cached)) < 1e-6
    kept = {k: dict(zip(zip(s.rows_N.tolist(), s.places_N.tolist()), s.keep_N.tolist())) for k,s in large.selected.items()}
    assert kept == {k: dict(zip(zip(s.rows_N.tolist(), s.places_N.tolist()), s.keep_N.tolist())) for k,s in cached.selected.items()}

# kill −9

@pytest.fixture(scope='module')
def undisturbed(ctx, tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    run = ctx.Process(target=long_run, args=(folder, ctx.RawValue('i'), ctx.RawValue('i')))
    run.start()
    run.join()
    return {f: torch.load(folder/f) for f in ('run.pt', 'best.pt')} | dict(rows=saved_rows(folder/'run.pt'))

def kill_once(ctx, folder, rng, phase):
    "Start or resume; a step or two later, kill somewhere in or after a phase; where that was, and what was left behind"
    now, step = ctx.RawValue('i'), ctx.RawValue('i', -1)
    run = ctx.Process(target=long_run, args=(folder, now, step))
    run.start()
    while step.value < 0 and run.is_alive(): time.sleep(.001)
    aim, began = step.value + rng.choice((0, 1, 1, 2)), time.monotonic()
    while run.is_alive() and not (step.value >= aim and now.value==phase): time.sleep(.0005)
    time.sleep(rng.random()*(time.monotonic()-began)/4) # the pace of this machine
    was = now.value if run.is_alive() else 0
    run.kill()
    run.join()
    return was, run.exitcode, sum('.part' in f for f in os.listdir(folder))

def test_kill_9_twenty_times(ctx, undisturbed, tmp_path):
    seed = random.randrange(10**6)
    print('seed', seed)
    rng, met, left = random.Random(seed), [], []
    for k in range(200 if FULL else 20):
        if FULL and k and k % 20==0: shutil.rmtree(tmp_path)
        tmp_path.mkdir(exist_ok=True)
        was, code, parts = kill_once(ctx, tmp_path, rng, (SAVING, STEP, EVALUATING)[k % 3])
        met.append(was if code==-signal.SIGKILL else 0)
        left.append(parts)
    print('killed in saves, steps, evaluations:', [met.count(k) for k in (SAVING, STEP, EVALUATING)], 'half files left:', left)
    assert all(met.count(k) > 1 for k in (SAVING, STEP, EVALUATING)) and max(left) < 3 # of run.pt and of best.pt
    end = ctx.Process(target=long_run, args=(tmp_path, ctx.RawValue('i'), ctx.RawValue('i')))
    end.start()
    end.join()
    assert end.exitcode==0 and sorted(os.listdir(tmp_path))==['best.pt', 'run.pt']
    for f in ('run.pt', 'best.pt'):
        x, y = undisturbed[f], torch.load(tmp_path/f)
        assert all(torch.equal(x['model'][k], y['model'][k]) for k in x['model']) and x['step']==y['step'], f
    x, y = undisturbed['run.pt'], torch.load(tmp_path/'run.pt')
    assert undisturbed['rows']==saved_rows(tmp_path/'run.pt') and [r['step'] for r in undisturbed['rows']]==list(range(1, LONG['steps']+1))
    assert rows(x['evals'])==rows(y['evals']) and [r['step'] for r in y['evals']]==list(range(0, LONG['steps']+1, LONG['eval_every']))
    assert all(torch.equal(a, b) for k in x['opt']['state'] for a,b in zip(x['opt']['state'][k].values(), y['opt']['state'][k].values()))

def test_killed_before_the_first_step_after_resuming(tmp_path):
    "What a resumed run saves before it has done anything is what it read, optimiser and all"
    file = tmp_path/'run.pt'
    with pytest.raises(SystemExit): learner([Checkpoint(file), At(2, tell(signal.SIGTERM))], steps=5).fit()
    class Gone(Exception): pass
    class Die:
        def before_step(self, learn): raise Gone
    with pytest.raises(Gone): learner([Often(file), Die()], steps=5).fit()
    assert apart(weights(learner([Checkpoint(file)], steps=5).fit()), weights(untouched(steps=5)))==0

# told to stop

def told(folder, *signals, ctrl_c_in_step=False):
    "A run of five steps that gets its signals after the second"
    learn = learner([Checkpoint(folder/'run.pt'), *(At(2, tell(s)) for s in signals)], steps=5)
    if ctrl_c_in_step:
        learn.start()
        step = learn.opt.step
        def half(*a, **k): # weights are new, the step is not counted yet
            step(*a, **k)
            if learn.step==1: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
        learn.opt.step = half
    learn.fit()

@pytest.mark.parametrize('signals, code, done', [((signal.SIGTERM,), 143, 2), ((signal.SIGTERM, signal.SIGTERM), 143, 2), ((signal.SIGINT,), 1, 2), ((signal.SIGINT, signal.SIGTERM), 143, 2)])
def test_told_to_stop(ctx, tmp_path, signals, code, done):
    run = ctx.Process(target=told, args=(tmp_path, *signals))
    run.start()
    run.join()
    assert run.exitcode==code and torch.load(tmp_path/'run.pt')['step']==done and os.listdir(tmp_path)==['run.pt']
    resumed = learner([Checkpoint(tmp_path/'run.pt')], steps=5).fit()
    assert apart(weights(resumed), weights(untouched(steps=5)))==0

def test_second_ctrl_c_ends_at_once_and_half_a_step_is_never_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt): told(tmp_path, ctrl_c_in_step=True)
    assert not (tmp_path/'run.pt').exists() or torch.load(tmp_path/'run.pt')['step'] < 2
    learn = learner([Checkpoint(tmp_path/'run.pt')], steps=5).fit()
    assert apart(weights(learn), weights(untouched(steps=5)))==0

@pytest.mark.parametrize('off', [dict(physical=0., latent=0.), dict(mlm=0.), dict(latent=0.)])
def test_a_run_with_a_task_off_goes_on(tmp_path, off):
    "Weights of a task that is off have no state in the optimiser"
    learner([Checkpoint(tmp_path/'run.pt'), At(2, lambda learn: learn.stop('enough'))], steps=4, **off).fit()
    again = learner([Checkpoint(tmp_path/'run.pt')], steps=4, **off).fit()
    whole = learner(steps=4, **off).fit()
    assert again.step==4 and apart(weights(again), weights(whole))==0 and rows(again.history)==rows(whole.history)

def test_after_ctrl_c_fit_again(tmp_path):
    "In a notebook: the same learner goes on"
    learn = learner([Checkpoint(tmp_path/'run.pt'), At(2, tell(signal.SIGINT))], steps=5, valid=EXAMPLES[:3], eval_every=2)
    with pytest.raises(KeyboardInterrupt): learn.fit()
    assert learn.step==2 and learn.stopped=='interrupted' and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    learn.fit()
    whole = learner(steps=5, valid=EXAMPLES[:3], eval_every=2).fit()
    assert apart(weights(learn), weights(whole))==0 and rows(learn.history)==rows(whole.history) and rows(learn.evals)==rows(whole.evals)

def one_of_two(rank, port, folder, shard):
    "Rank 0 fails after the second step; rank 1 waits for it"
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    def fail(_): raise ValueError('enough')
    learner([At(2, fail, rank=0), Checkpoint(folder/'run.pt')], steps=5, budget=340, shard=shard).fit()

@pytest.mark.parametrize('shard', [False, True])
def test_a_rank_that_fails_ends_the_other(ctx, tmp_path, shard):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    both = [ctx.Process(target=one_of_two, args=(rank, port, tmp_path, shard)) for rank in (0, 1)]
    for run in both: run.start()
    for run in both: run.join(100)
    codes = [run.exitcode for run in both]
    for run in both: run.kill()
    assert codes==[1, 1] # None: still waiting
    if shard: return # its parts could not be gathered any more: what there is was saved before
    assert torch.load(tmp_path/'run.pt')['step']==2
    resumed, whole = learner([Checkpoint(tmp_path/'run.pt')], steps=5, budget=340).fit(), untouched(steps=5, budget=340)
    assert apart(weights(resumed), weights(whole)) < 1e-6

# what is not this run's checkpoint

class Code:
    def __reduce__(self): return os.mkdir, ('ran',)

@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    file = tmp_path_factory.mktemp('finished')/'run.pt'
    return file, learner([Checkpoint(file)]).fit()

@pytest.mark.parametrize('harm, says', [
    (lambda f: f.write_bytes(f.read_bytes()[:-5000]), 'is not a readable checkpoint'),
    (lambda f: f.write_bytes(f.read_bytes()[:3000]), 'is not a readable checkpoint'),
    (lambda f: f.write_bytes(b''), 'is not a readable checkpoint'),
    (lambda f: f.write_bytes(pickle.dumps(dict(model=1))), 'is not a readable checkpoint'),
    (lambda f: f.write_bytes(pickle.dumps(Code())), 'is not a readable checkpoint'),
    (lambda f: torch.save(dict(model=Code()), f), 'is not a readable checkpoint'),
    (lambda f: (f.unlink(), f.mkdir()), 'is not a readable checkpoint'),
    (lambda f: torch.save([1, 2], f), 'is no checkpoint of a run'),
    (lambda f: torch.save({k: v for k,v in torch.load(f).items() if k != 'evals'}, f), 'or one of an older version'),
    (lambda f: torch.save(torch.load(f) | dict(run='{"steps": 3}'), f), 'belongs to another run: budget None there')])
def test_a_damaged_checkpoint_is_a_sentence(finished, tmp_path, monkeypatch, harm, says):
    monkeypatch.chdir(tmp_path)
    file = Path(shutil.copy(finished[0], tmp_path))
    harm(file)
    with pytest.raises(ValueError, match=says) as e: learner([Checkpoint(file)]).fit()
    assert str(file) in str(e.value) and '\n' not in str(e.value) and 'elete it' in str(e.value) and not Path('ran').exists()

@pytest.mark.parametrize('other, says', [
    (dict(lr=2e-3), 'lr 0.001 there, 0.002 here'), (dict(steps=4, seed=1), 'steps 3 there, 4 here, seed 0 there, 1 here'),
    (dict(examples=EXAMPLES[:-1]), 'other chains or other starting weights'), (dict(judged=False), 'other chains or other starting weights'),
    (dict(model='seed 2'), 'other chains or other starting weights')])
def test_the_checkpoint_of_another_run(finished, other, says):
    if 'model' in other: other = dict(model=aligner(seed=2))
    before = finished[0].read_bytes()
    with pytest.raises(ValueError, match=f'belongs to another run: {says}. Choose another folder or delete it.'): learner([Checkpoint(finished[0])], **other).fit()
    assert finished[0].read_bytes()==before

def test_a_finished_run_is_not_trained_again(finished):
    learn = learner([Checkpoint(finished[0])]).fit()
    assert rows(learn.history)==rows(finished[1].history) and apart(weights(learn), weights(finished[1]))==0

# not a number

@pytest.mark.parametrize('kw', [dict(judged=False), dict(), dict(judged=False, accumulate=2), dict(accumulate=2, cached=True), dict(selection='random')])
def test_loss_that_is_not_a_number(tmp_path, kw):
    kw = dict(steps=5, budget=400) | kw
    saved = Often(tmp_path/'run.pt')
    learn = learner([saved, At(2, break_weight)], out=tmp_path/'run', **kw)
    with pytest.raises(FloatingPointError, match='The loss is nan after step 2; the weights are still those of that step. What it read, and the weights, are kept in') as e: learn.fit()
    file, = (tmp_path/'run').iterdir()
    assert str(file) in str(e.value) and '\n' not in str(e.value)
    replay, model = torch.load(file), aligner()
    model.load_state_dict(replay['model'])
    losses = [model(Batch(**b), learn.cfg)[0] for b in replay['batches']]
    assert len(losses)==kw.get('accumulate', 1) and all(x.physical.isnan().any() and x.mlm.isfinite().all() for x in losses)
    assert all(torch.equal(x.nan_to_num(9), weights(learn)[k].nan_to_num(9)) for k,x in replay['model'].items()) and torch.load(tmp_path/'run.pt')['step']==2
    read = learn.batches[2]
    assert all(torch.equal(b['ids_BL'], r.ids_BL) and torch.equal(b['masked_BL'], r.masked_BL) for b,r in zip(replay['batches'], read))

@pytest.mark.parametrize('kw', [dict(), dict(judged=False), dict(accumulate=2, cached=True)])
def test_gradient_that_is_not_a_number_does_not_reach_the_weights(tmp_path, kw):
    "Its loss is finite; the next one would not be"
    kw = dict(steps=5, budget=400) | kw
    learn = learner([Often(tmp_path/'run.pt'), At(2, break_gradient)], out=tmp_path, **kw)
    with pytest.raises(FloatingPointError, match='The norm of the gradient is nan after step 2; the weights are still those of that step'): learn.fit()
    s = torch.load(tmp_path/'run.pt')
    assert s['step']==2 and all(x.isfinite().all() for x in s['model'].values()) and all(x.isfinite().all() for p in s['opt']['state'].values() for x in p.values())
    resumed = learner([Checkpoint(tmp_path/'run.pt')], **kw).fit()
    assert apart(weights(resumed), weights(untouched(**kw)))==0

# no space

def out_of_space(folder, limit):
    "The kernel refuses files beyond a size from step 2 on, as a full disk would"
    shrink = lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try: learner([At(2, shrink), Often(folder/'run.pt'), Best(folder/'best.pt')], steps=5).fit()
    except OSError as e: (folder/'said').write_text(f'{type(e).__name__} {e} {e.__cause__} {e.__context__}')

@pytest.mark.parametrize('limit', [1000, 50_000])
def test_no_space_for_a_checkpoint(ctx, tmp_path, limit):
    run = ctx.Process(target=out_of_space, args=(tmp_path, limit))
    run.start()
    run.join()
    said = (tmp_path/'said').read_text()
    assert f'{tmp_path/"run.pt"} could not be written ([Errno 27] File too large). The checkpoint before it is whole: make room' in said and '\n' not in said
    assert sorted(os.listdir(tmp_path))==['run.pt', 'said'] and torch.load(tmp_path/'run.pt')['step']==1
    assert apart(weights(learner([Checkpoint(tmp_path/'run.pt')], steps=5).fit()), weights(untouched(steps=5)))==0

def test_no_space_for_what_broke(monkeypatch, tmp_path):
    def full(*_): raise OSError(28, 'No space left on device')
    learn = learner([At(1, break_weight)], out=tmp_path/'run')
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(FloatingPointError, match=r'loss is nan after step 1.*What it read is lost: .*No space left on device'): learn.fit()
    assert not list((tmp_path/'run').iterdir())

# half precision, compiled, in less memory, in part

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_stays_near(name, precision):
    full, low = untouched(name=name, steps=6), untouched(name=name, steps=6, precision=precision)
    off = max(abs(a['loss']-b['loss']) for a,b in zip(full.history, low.history))
    assert 0 < off < dict(bf16=.03, fp16=.006)[precision] # of a loss of 8; bf16 has 8 bits, fp16 11
    assert full.history[-1]['loss'] < full.history[0]['loss']-.2 and all(p.dtype==torch.float32 for p in low.model.parameters())

def test_float16_steps_back_and_resumes(tmp_path):
    "Gradients beyond float16 skip a step and lower the scale, which the checkpoint keeps"
    def run(*callbacks):
        learn = learner(callbacks, precision='fp16', steps=7)
        learn.scaler = torch.amp.GradScaler('cpu', 2.**16)
        return learn
    whole = run().fit()
    with pytest.raises(SystemExit): run(Checkpoint(tmp_path/'run.pt'), At(3, tell(signal.SIGTERM))).fit()
    resumed = run(Checkpoint(tmp_path/'run.pt')).fit()
    assert not math.isfinite(whole.history[0]['grad_norm']) and math.isfinite(whole.history[-1]['grad_norm']) and whole.scaler.get_scale() < 2**16
    assert all(math.isfinite(h['loss']) for h in whole.history)
    assert apart(weights(resumed), weights(whole))==0 and resumed.scaler.state_dict()==whole.scaler.state_dict()

compiler = next(filter(shutil.which, (os.environ.get('CXX', ''), 'g++', 'clang++')), None)

@pytest.mark.skipif(not FULL or not compiler, reason='takes a minute: SA_FULL=1, and a C++ compiler')
def test_compiled():
    a, b = learner(), learner(compile=True)
    assert apart(weights(a.fit()), weights(b.fit())) < 1e-5 and rows_apart(a.history, b.history) < 1e-4

def test_no_compiled_form():
    with pytest.raises(ValueError, match='amplify-tiny at random weights cannot be compiled. Leave compile out.'): learner(name='amplify-tiny', compile=True)

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_less_memory_same_result(name):
    plain, again = untouched(name=name), learner(name=name, recompute=True).fit()
    assert again.model.plm.recompute and apart(weights(plain), weights(again)) < 1e-6 and rows_apart(plain.history, again.history) < 1e-5

def moved(learn): # names of parameters of the language model that training changed
    return {k for (k,p),q in zip(learn.model.plm.named_parameters(), aligner(learn.model.plm.name.split()[0]).plm.parameters()) if not torch.equal(p, q)}

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_frozen_layers_stay(name):
    learn = learner(name=name, freeze=1, budget=700).fit()
    frozen, free = [[n for n,_ in learn.model.plm.layers[k].named_parameters()] for k in (0, 1)]
    stem = next(n for n,m in learn.model.plm.named_modules() if m is learn.model.plm.layers)
    assert not {f'{stem}.0.{n}' for n in frozen} & moved(learn) and {f'{stem}.1.{n}' for n in free} <= moved(learn)
    assert not any('embeddings' in n or n=='model.encoder.weight' for n in moved(learn))

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_adapters_train_alone_resume_and_merge(name, tmp_path):
    whole = learner(name=name, lora=2, steps=4).fit()
    with pytest.raises(SystemExit): learner([Checkpoint(tmp_path/'run.pt'), At(2, tell(signal.SIGTERM))], name=name, lora=2, steps=4).fit()
    learn = learner([Checkpoint(tmp_path/'run.pt')], name=name, lora=2, steps=4).fit()
    assert apart(weights(learn), weights(whole))==0
    ids = learn.batches[0][0].ids_BL
    before = learn.model.plm.states(ids)
    learn.finish()
    fresh = aligner(name).plm
    assert learn.model.plm.state_dict().keys()==fresh.state_dict().keys() and (learn.model.plm.states(ids)-before).abs().max() < 1e-5
    assert (before-fresh.states(ids)).abs().max() > 1e-4 and all('.0.' in k or '.1.' in k for k in moved(learn))

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_a_copy_trains_its_own_weights(name):
    model = aligner(name)
    twin, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    learn = learner(name=name, model=twin).fit()
    assert apart(model.state_dict(), start)==0 and apart(weights(learn), weights(untouched(name=name)))==0
    assert twin.plm.layers[0] is not model.plm.layers[0] and apart(twin.state_dict(), start) > 1e-4

def test_settings_that_nothing_knows_are_refused():
    with pytest.raises(ValueError, match='No precision'): learner(precision='fp8').fit()
    with pytest.raises(ValueError, match='No selection'): learner(selection='best').fit()
    with pytest.raises(ValueError, match='2 layers; 3 of them cannot be frozen'): learner(freeze=3)
    with pytest.raises(ValueError, match='no example'): learner(examples=[])
    with pytest.raises(ValueError, match='another alphabet'): type(learner())(aligner(), EXAMPLES, learner().cfg, aligner('amplify-tiny'))
    bare = [replace(EXAMPLES[0], tokens=None), *EXAMPLES[1:]]
    with pytest.raises(ValueError, match='has no structural tokens'): learner(examples=bare, budget=700).fit()

# the trunk without padding

SEQUENCES = ['MKTAYIAKQRQISFVKSHFSRQ', 'G', 'GSHMLEDPXBUZOW', 'MKVLLAGSTERTIDPKQNFYMHWC'*3]

def padded(plm, ids): # the published forward pass, with padding; frame removed
    if plm.vocab is ESM: return plm.model.esm(ids, attention_mask=(ids != ESM.id('<pad>')).long()).last_hidden_state[:,1:-1]
    return plm.model(ids)[:,1:-1]

@pytest.mark.parametrize('masked', [0, .15, .9])
@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_states_and_gradients_are_those_of_the_padded_model(name, masked):
    ours, theirs = aligner(name).plm, aligner(name).plm
    ids, gen = tokenize(SEQUENCES, ours.vocab), torch.Generator().manual_seed(0)
    real = residues(ids, ours.vocab)
    hit = real & (torch.rand(real.shape, generator=gen) < masked)
    hit[1] = masked==.9 # the sequence of one residue, wholly masked
    ids, toward = cover(ids, hit, ours.vocab), torch.randn(*real.shape, ours.dim, generator=gen)
    states = ours.states(ids), padded(theirs, ids)
    assert (states[0]-states[1])[real].abs().max() < 1e-5 and states[0].shape==states[1].shape
    for h in states: (h*toward)[real].sum().backward()
    grads = [{k: p.grad for k,p in plm.named_parameters() if p.grad is not None and p.grad.any()} for plm in (ours, theirs)]
    size = max(g.abs().max().item() for g in grads[1].values())
    assert len(grads[0]) > 10 and apart(*grads)/size < 1e-5

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_rows_without_a_token_and_chains_of_one_residue(name):
    plm = aligner(name).plm
    ids = tokenize(SEQUENCES, plm.vocab)
    empty = torch.full_like(ids[:1], plm.vocab.id(plm.vocab.pad))
    states = plm.states(torch.cat([ids[:2], empty, ids[2:]]))
    assert torch.equal(states[2], torch.zeros_like(states[2])) and (states[[0, 1, 3, 4]]-plm.states(ids)).abs().max() < 1e-6
    alone = torch.cat([plm.states(tokenize([s], plm.vocab))[0] for s in SEQUENCES])
    assert (plm.states(ids)[residues(ids, plm.vocab)]-alone).abs().max() < 1e-5
    short = [Example(make_chain(f's{k}', s[:1], np.zeros((1,4,3))), np.zeros(1, np.int8), np.zeros((1,128), np.float32)+k) for k,s in enumerate(SEQUENCES)]
    assert all(math.isfinite(h['loss']) for h in learner(name=name, examples=short, judged=False).fit().history)

def test_one_resolved_residue_or_none(tmp_path):
    "Chains without structure, or nearly: a loss may have nothing to say, the others go on"
    g = [np.full_like(e.g, np.nan) for e in EXAMPLES]
    none = [replace(e, g=x, tokens=np.full_like(e.tokens, -100)) for e,x in zip(EXAMPLES, g)]
    for examples in (none, [replace(none[0], g=np.where(np.arange(len(g[0]))[:,None]==7, 1., g[0])), *none[1:]]):
        for kw in (dict(), dict(judged=False), dict(accumulate=2, budget=400), dict(accumulate=2, budget=400, cached=True)):
            learn = learner(examples=examples, **kw).fit()
            assert all(math.isfinite(h['loss']) and h['physical']==0 and abs(h['latent']) < 1e-6 and h['mlm'] > 0 for h in learn.history), (examples is none, kw)
