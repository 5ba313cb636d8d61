"Perplexity, mutation score and the guard that stops a run: against scipy and plain transformers, on hard input, after a resume and over two processes"
import copy
import gzip
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sa_toolkit.core import example_chains
from sa_toolkit.drift import DriftGuard, drift, drift_plot, held_out
from sa_toolkit.mutations import GB1, Scan, gb1_scan, mutation_effects, mutation_score, read_scan
from sa_toolkit.perplexity import mask_places, masked_perplexity
from sa_toolkit.plm import load_plm
from sa_toolkit.results import spearman

SEQS = ['MKT', 'MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ', GB1, 'MXXK'*8, 'GSHMKTAYIA'*6]

@pytest.fixture(scope='module')
def tiny(): return load_plm('tiny', pretrained=False)

class Learn:
    "What the guard sees of a learner"
    def __init__(self, plm, valid=None, examples=()):
        self.model, self.valid, self.examples = SimpleNamespace(plm=plm), valid, list(examples)
        self.evals, self.step, self.stopped = [], 0, None
    def stop(self, reason): self.stopped = reason
    def evaluate(self, guard, step):
        self.step = step
        self.evals.append(dict(step=step, valid_loss=1.))
        guard.after_eval(self)

def examples(split, n): return [SimpleNamespace(chain=c) for c in example_chains(split)[:n]]

def disturb(plm, scale):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in plm.model.esm.encoder.parameters(): p.add_(torch.randn(p.shape, generator=g)*p.std()*scale)

# perplexity

def test_masks_stay_those_of_earlier_versions():
    assert np.flatnonzero(mask_places('MKTAYIAKQRQISFVKSHFSRQ')[0]).tolist() == [10, 18, 21]
    assert np.array_equal(mask_places('mktayiakqr'), mask_places('MKTAYIAKQR'))
    every = mask_places('MKTAYIAKQR', .5, 2)
    assert every.sum(0).tolist() == [1]*10 and mask_places('MK', .5, 4).sum(1).tolist() == [1, 1, 0, 0]

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny', 'esmc-tiny'])
def test_company_order_and_padding_change_nothing(name):
    plm = load_plm(name, pretrained=False)
    p, rows = masked_perplexity(plm, SEQS)
    assert np.array_equal(rows[:,1], [mask_places(s).sum() for s in SEQS]) # the same residues for every alphabet
    for budget in (1, 130, 10**6):
        q, turned = masked_perplexity(plm, SEQS[::-1], budget=budget)
        assert np.allclose(turned[::-1], rows, rtol=1e-4) and q == pytest.approx(p, rel=1e-5)
    assert p == pytest.approx(np.exp(rows[:,0].sum()/rows[:,1].sum()))

def test_perplexity_is_that_of_plain_transformers(tiny):
    nll, n = 0., 0
    with torch.no_grad():
        for s in SEQS[:3]:
            for hit in mask_places(s):
                ids = tiny.tokenize([s])
                masked, where = ids.clone(), torch.from_numpy(np.r_[False, hit, False])
                masked[0,where] = 32
                log_p = tiny.model(input_ids=masked, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
                nll, n = nll - log_p[where,ids[0,where]].sum().item(), n + int(hit.sum())
    assert masked_perplexity(tiny, SEQS[:3])[0] == pytest.approx(np.exp(nll/n), rel=1e-4)

def test_longer_than_the_model_reads_at_once(tiny):
    long = GB1*20
    p, rows = masked_perplexity(tiny, [GB1, long])
    assert rows[1,1] == 2*round(.15*len(long)) > 300 and np.isfinite(p)

@pytest.mark.parametrize('bad, said', [([''], 'Sequence 1 is empty'), (['MK*'], 'at position 3'), ('MKT', 'Pass a list'), ([None], 'not str')])
def test_what_is_no_sequence(tiny, bad, said):
    with pytest.raises(ValueError, match=said): masked_perplexity(tiny, bad)

# mutation score

def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = int(rng.integers(3, 60))
        a, b = rng.integers(0, rng.integers(2, 40), (2, n)).astype(float)
        want = np.nan if len(set(a)) == 1 or len(set(b)) == 1 else spearmanr(a, b).statistic
        assert spearman(a, b) == pytest.approx(want, abs=1e-12, nan_ok=True)

def test_log_odds_are_those_of_plain_transformers(tiny):
    scan = gb1_scan()
    masked, plain = mutation_effects(tiny, scan), mutation_effects(tiny, scan, 'wild-type')
    with torch.no_grad():
        for m in ('T2A', 'F30A', 'E56L'):
            for got, hide in ((masked, True), (plain, False)):
                ids, i = tiny.tokenize([GB1]), int(m[1:-1])
                if hide: ids[0,i] = 32
                log_p = tiny.model(input_ids=ids).logits[0,i].log_softmax(-1)
                want = log_p[tiny.vocab.id(m[-1])] - log_p[tiny.vocab.id(m[0])]
                assert got[scan.mutants.index(m)] == pytest.approx(want.item(), abs=1e-4)

def test_score_follows_the_sign_of_the_effect_and_the_interval_is_the_same_each_time(tiny):
    scan = gb1_scan()
    turned = Scan('turned', GB1, scan.mutants, -scan.effect)
    a, b = mutation_score(tiny, scan, n=50), mutation_score(tiny, turned, n=50)
    assert a == mutation_score(tiny, scan, n=50) and a[1] < a[0] < a[2]
    assert np.allclose(a, [-b[0], -b[2], -b[1]])
    perfect = Scan('its own opinion', GB1, scan.mutants, mutation_effects(tiny, scan))
    assert np.allclose(mutation_score(tiny, perfect, n=20), 1)

def test_scan_from_a_table(tmp_path):
    path = tmp_path/'scan.csv.gz'
    with gzip.open(path, 'wt', encoding='utf-8-sig') as f: f.write('x,y\nAYKL,-1\nTYRL,.5\nTYKP,2e-1\n')
    scan = read_scan(path, 'TYKL', mutant='x', effect='y', sign=-1)
    assert scan.changes == [(0, 'A'), (2, 'R'), (3, 'P')] and scan.effect.tolist() == [1, -.5, -.2]

@pytest.mark.parametrize('table, said', [
    ('mutant,effect\nT1A,1\nT2A,2\n', 'scan.csv, mutant 2: T2A says that residue 2 is T, but the wild type has Y there'),
    ('mutant,effect\nT1A,1\nY2A,nan\n', r'mutant 2 \(Y2A\): its effect is nan'),
    ('mutant,effect\nT1A,1\nY2A,inf\n', 'its effect is inf'),
    ('mutant,effect\nT1A,1\nY2A\n', r'mutant 2 \(Y2A\): its effect None is no number'),
    ('mutant,effect\nT1A:Y2A,1\n', 'only those are scored'),
    ('mutant,effect\nAAKL,1\n', 'changes 2 residues'),
    ('mutant,effect\nTYKL,1\n', 'changes 0 residues'),
    ('mutant,effect\nTYKLL,1\n', '5 residues, the wild type 4'),
    ('mutant,effect\nL5A,1\n', 'outside'),
    ('mutant,effect\nL0A,1\n', 'outside'),
    ('mutant,effect\nL4X,1\n', 'no change to another of the twenty'),
    ('mutant,effect\n,1\n', "'' is no single mutant"),
    ('mutant,effect\nT1A,1\nT1G,1\nT1C,1\n', 'three different effects'),
    ('mutant,effect\n', 'three different effects'),
    ('', "no column 'mutant'; it has none"),
    ('name,y\nT1A,1\n', "no column 'mutant'; it has 'name', 'y'")])
def test_a_table_that_does_not_fit(tmp_path, table, said):
    path = tmp_path/'scan.csv'
    path.write_text(table)
    with pytest.raises(ValueError, match=said): read_scan(path, 'TYKL')

def test_scan_checks_itself():
    with pytest.raises(ValueError, match='2 mutants and 1 effects'): Scan('x', 'TYKL', ['T1A', 'Y2A'], [1.])
    with pytest.raises(ValueError, match='twenty amino acids, in capitals'): Scan('x', 'TYXL', ['T1A'], [1.])

# the guard

def test_measuring_leaves_no_trace(tiny):
    plm = copy.deepcopy(tiny).train()
    before, rng = {k: v.clone() for k,v in plm.state_dict().items()}, torch.get_rng_state()
    learn, guard = Learn(plm, examples('valid', 3)), DriftGuard(max_mutation_drop=.1)
    guard.before_fit(learn)
    learn.evaluate(guard, 5)
    assert plm.training and torch.equal(rng, torch.get_rng_state()) and all(torch.equal(v, plm.state_dict()[k]) for k,v in before.items())
    base, row = learn.evals
    assert base == {'step': 0} | {k: row[k] for k in base if k != 'step'} and row['perplexity_change'] == row['mutation_change'] == 0
    assert row['valid_loss'] == 1 and {type(v) for r in learn.evals for v in r.values()} == {int, float, bool} # a checkpoint holds plain numbers only

def test_stops_after_so_many_in_a_row_and_not_before(tiny):
    good, bad = copy.deepcopy(tiny), copy.deepcopy(tiny)
    disturb(bad, 3.)
    learn, guard = Learn(good, examples('valid', 3)), DriftGuard(max_mutation_drop=2., max_perplexity_rise=.001)
    guard.before_fit(learn)
    for step, plm in enumerate((good, bad, good, bad), 1):
        learn.model.plm = plm
        learn.evaluate(guard, step)
        assert learn.stopped is None
    learn.evaluate(guard, 5)
    base, row = learn.evals[0], learn.evals[-1]
    assert [r['drifted'] for r in learn.evals] == [False, False, True, False, True, True]
    assert row['perplexity'] > row['perplexity_limit'] == pytest.approx(1.001*base['perplexity'])
    assert learn.stopped == (f'The model drifts: beyond its limits in 2 evaluations in a row, at step 5 with perplexity {row["perplexity"]:.2f} '
        f'(base {base["perplexity"]:.2f}, limit {row["perplexity_limit"]:.2f}).')
    assert drift(learn.evals, 3) is None and len(drift_plot(learn.evals).axes) == 2

def test_a_resumed_run_keeps_base_and_limits(tiny):
    learn, guard = Learn(copy.deepcopy(tiny), examples('valid', 3)), DriftGuard(max_mutation_drop=.1, patience=1)
    guard.before_fit(learn)
    disturb(learn.model.plm, 3.)
    again, evals = DriftGuard(max_mutation_drop=.1, patience=1), copy.deepcopy(learn.evals)
    learn.step = 7
    again.before_fit(learn)
    assert learn.evals == evals
    learn.evaluate(again, 8)
    assert learn.evals[1]['perplexity_change'] > 0 and learn.evals[1]['perplexity_limit'] == evals[0]['perplexity_limit']
    learn.evals = [dict(step=5)]
    with pytest.raises(ValueError, match='resumed at step 8 and never measured its base'): again.before_fit(learn)

def test_a_run_that_was_stopped_stays_stopped(tiny):
    learn, guard = Learn(tiny, examples('valid', 2)), DriftGuard(max_mutation_drop=.1, max_perplexity_rise=-.5)
    guard.before_fit(learn)
    for step in (1, 2): learn.evaluate(guard, step)
    said, learn.stopped = learn.stopped, None
    guard.before_fit(learn)
    assert learn.stopped == said and said.startswith('The model drifts')

def test_base_row_that_the_learner_made_is_filled_once(tiny, monkeypatch):
    learn, guard = Learn(tiny, examples('valid', 2)), DriftGuard(max_mutation_drop=.1)
    learn.evals = [dict(step=0, valid_loss=3.)]
    guard.before_fit(learn)
    assert len(learn.evals) == 1 and learn.evals[0]['valid_loss'] == 3 and learn.evals[0]['perplexity'] > 1
    monkeypatch.setattr('sa_toolkit.drift.masked_perplexity', None)
    guard.after_eval(learn) # nothing is measured twice

def test_weights_that_are_no_numbers_stop_the_run_and_no_run_begins_with_them(tiny):
    learn, guard = Learn(copy.deepcopy(tiny), examples('valid', 2)), DriftGuard(max_mutation_drop=.1, patience=1)
    guard.before_fit(learn)
    with torch.no_grad(): next(learn.model.plm.model.esm.encoder.parameters()).fill_(float('nan'))
    learn.evaluate(guard, 3)
    assert 'perplexity nan' in learn.stopped and 'mutation score nan' in learn.stopped
    with pytest.raises(ValueError, match='perplexity of .* is nan before training'): guard.before_fit(Learn(learn.model.plm, learn.valid))

def test_a_model_without_mutation_signal_is_judged_by_perplexity(tiny):
    learn, guard = Learn(tiny, examples('valid', 2)), DriftGuard(reference=50.)
    with pytest.warns(UserWarning, match='no mutation signal on GB1 stability'): guard.before_fit(learn)
    assert np.isnan(learn.evals[0]['mutation_limit']) and learn.evals[0]['perplexity_limit'] == pytest.approx(51)
    assert len(drift_plot(learn.evals).axes) == 2 and drift([*learn.evals, learn.evals[0] | dict(mutation=-1.)], 1) is None

@pytest.fixture(scope='module')
def chains():
    from sa_toolkit.data import encode_chains
    from sa_toolkit.pgnn import load_pgnn
    from sa_toolkit.tokens import load_tokenizer
    return encode_chains([min(example_chains(s), key=len) for s in ('train', 'valid')], load_pgnn(), load_tokenizer())

def learner(chains, callbacks, steps=3, **kw):
    from sa_toolkit.train import Aligner, AlignConfig, Learner
    cfg = AlignConfig(steps=steps, budget=300, lr=1e-2, eval_every=1, **kw)
    return Learner(Aligner(load_plm('tiny', pretrained=False), 128), chains[:1], cfg, callbacks=callbacks, valid=chains[1:])

def test_guarded_training_is_the_same_training(chains, tmp_path):
    from sa_toolkit.saving import Checkpoint
    plain, whole = learner(chains, []).fit(), learner(chains, [DriftGuard(max_mutation_drop=2., max_perplexity_rise=9.)]).fit()
    class Kill:
        def after_step(self, learn):
            if learn.step == 2: raise KeyboardInterrupt
    def cut(*more): return learner(chains, [DriftGuard(max_mutation_drop=2., max_perplexity_rise=9.), Checkpoint(tmp_path/'run.pt'), *more])
    with pytest.raises(KeyboardInterrupt): cut(Kill()).fit()
    resumed = cut().fit()
    for other in (whole, resumed): assert all(torch.equal(v, other.model.state_dict()[k]) for k,v in plain.model.state_dict().items())
    assert [e['step'] for e in whole.evals] == [0, 1, 2, 3] and all({'valid_loss', 'perplexity', 'mutation', 'drifted'} <= set(e) for e in whole.evals)
    timeless = lambda evals: [{k: v for k, v in e.items() if k != 'seconds'} for e in evals]
    assert timeless(resumed.evals) == timeless(whole.evals) and not resumed.stopped

def test_guard_stops_the_learner(chains):
    learn = learner(chains, [DriftGuard(max_mutation_drop=2., max_perplexity_rise=-.5)], steps=9).fit()
    assert learn.step == 2 and learn.stopped.startswith('The model drifts: beyond its limits in 2 evaluations in a row, at step 2')

def test_held_out_is_never_trained_on(tiny):
    valid = examples('valid', 8)
    assert held_out(Learn(tiny, valid, examples('train', 3))) == [e.chain.sequence for e in valid]
    drawn = held_out(Learn(tiny, valid), limit=3)
    assert len(set(drawn)) == 3 and drawn == held_out(Learn(tiny, valid), limit=3) != held_out(Learn(tiny, valid), limit=3, seed=5)
    with pytest.raises(ValueError, match='both trained on and held out'): held_out(Learn(tiny, valid, [*examples('train', 3), valid[2]]))
    with pytest.raises(ValueError, match='no held-out chains'): DriftGuard().before_fit(Learn(tiny))
    with pytest.raises(ValueError, match='Pass a list'): DriftGuard(sequences='MKT').before_fit(Learn(tiny))

def _rank(rank, plm, sequences, meet, said):
    torch.distributed.init_process_group('gloo', init_method=f'file://{meet}', rank=rank, world_size=2)
    learn, guard = Learn(plm), DriftGuard(sequences, max_mutation_drop=2., max_perplexity_rise=.001, patience=1)
    guard.before_fit(learn)
    disturb(plm, 3. if rank == 0 else .01) # far more than what two devices differ by
    learn.evaluate(guard, 1)
    torch.distributed.destroy_process_group()
    said.put((rank, learn.evals, learn.stopped))

def test_ranks_that_differ_still_decide_alike(tiny, tmp_path):
    fork = multiprocessing.get_context('fork') # a fresh process would spend ten seconds on imports
    said = fork.Queue()
    ranks = [fork.Process(target=_rank, args=(r, copy.deepcopy(tiny), [c.sequence for c in example_chains('valid')[:3]], tmp_path/'meet', said), daemon=True) for r in range(2)]
    for r in ranks: r.start()
    (_, evals, stopped), (_, others, also) = sorted(said.get(timeout=60) for _ in ranks)
    assert evals == others and evals[1]['perplexity_change'] > .001 and stopped == also and stopped.startswith('The model drifts')
