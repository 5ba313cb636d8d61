"What a measurement and the main job say of models without a contact head, of trial runs and of long chains"
import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sa_toolkit.core import example_chain, example_chains
from sa_toolkit.data import Example
from sa_toolkit.demo import Demo
from sa_toolkit.evaluate import COLUMNS, Results, bootstrap, measure, residue_similarity
from sa_toolkit.perplexity import masked_perplexity
from sa_toolkit.plm import load_plm
from sa_toolkit.tokens import load_tokenizer
from sa_toolkit.train import Aligner

OWN = {'long P@L', 'all P@L'}

@pytest.fixture(scope='module')
def tiny(): return load_plm('tiny', pretrained=False)

@pytest.fixture(scope='module')
def results(tiny):
    test, train = example_chains('test')[:3], example_chains('train')[:3]
    plms = dict(esm2=tiny, amplify=load_plm('amplify-tiny', pretrained=False))
    return Results({k: measure(p, test, train, load_tokenizer()) for k,p in plms.items()}, [c.id for c in test])

def row(x, y): return np.array([[x, 1.], [y, 1.], [x, 1.]])

def test_a_column_that_was_not_measured_is_no_zero(results):
    assert results._cells()[0][1:3] == ['long P@L', 'all P@L'] and '–' not in results._cells()[1]
    assert results._cells()[2][:3] == ['amplify', '–', '–'] and '–' not in results._cells()[2][3:]
    assert str(results).count('–') == results._repr_html_().count('>–<') == 2
    for a,b in (('amplify', 'esm2'), ('esm2', 'amplify'), ('amplify', 'amplify')):
        assert set(results.difference(a, b)) == set(COLUMNS)-OWN
        assert [v.split(':')[0] for v in results.verdict(a, b)] == [c for c in COLUMNS if c not in OWN]
    assert len(results.table()) == 2*len(COLUMNS)-2 and not any(np.isnan(r['value']) for r in results.table())

def test_nothing_measured_is_nan_and_a_chain_without_a_value_does_not_count():
    for c in ('x', 'perplexity'): assert np.isnan(bootstrap(c, np.zeros((3,2)))).all() and np.isnan(bootstrap(c, np.zeros((3,2)), row(1, 1))).all()
    assert bootstrap('x', np.array([[0,0], [0,0], [.5,1]])) == (.5, .5, .5)

def test_words_of_a_verdict():
    r = Results({'a': {'x': row(2, 3), 'perplexity': row(2, 3)}, 'b': {'x': row(1, 1), 'perplexity': row(1, 1)}}, list('pqr'))
    last = lambda r, a, b: [v.split('] ')[1] for v in r.verdict(a, b)]
    assert last(r, 'a', 'b') == ['better', 'worse'] and last(r, 'b', 'a') == ['worse', 'better'] and last(r, 'a', 'a') == ['no difference shown']*2
    assert last(replace(r, trial=True), 'a', 'b') == ['a trial run: too small to judge']*2

@pytest.mark.parametrize('steps,chains,trial', [(19, 40, True), (20, 19, True), (20, 20, False)])
def test_what_counts_as_a_trial_run(steps, chains, trial, tmp_path, monkeypatch):
    monkeypatch.setattr('sa_toolkit.evaluate.measure', lambda *a: {'x': row(1, 1)})
    monkeypatch.setattr('sa_toolkit.evaluate.fit_contact_head', lambda *a: None)
    examples = [SimpleNamespace(chain=example_chain())]*chains
    d = Demo(tmp_path, steps, data=dict(train=examples, test=examples), models=dict.fromkeys(('base', 'MLM only', 'aligned')))
    assert d.evaluate().results.trial is trial

def test_the_main_job_with_a_model_without_a_contact_head(tmp_path, capsys):
    d = Demo(tmp_path/'d', 2, model='amplify-tiny', train_chains=6, test_chains=3).run()
    text, page = capsys.readouterr().out, (tmp_path/'d'/'contacts.html').read_text()
    assert text.count('a trial run: too small to judge') == 8 and 'better' not in text and 'worse' not in text
    rows = list(csv.DictReader(open(tmp_path/'d'/'results.csv')))
    assert len(rows) == 12 and {r['column'] for r in rows} == set(COLUMNS)-OWN
    assert 'base (refitted head)' in page and 'aligned (refitted head)' in page and (tmp_path/'d'/'contacts.png').stat().st_size > 1000
    assert list(d.heads) == ['base', 'MLM only', 'aligned'] and 'too small to judge' in (tmp_path/'d'/'model'/'README.md').read_text()

def test_the_table_is_there_if_a_picture_fails(tmp_path, monkeypatch, tiny, results):
    monkeypatch.setattr('sa_toolkit.viz.contact_figure', lambda *a, **kw: 1/0)
    d = Demo(tmp_path/'d', data=dict(train=[], test=[]), models=dict.fromkeys(('base', 'MLM only', 'aligned'), tiny))
    d.aligner, d.results = Aligner(tiny, 16), Results({m: results.rows['esm2'] for m in d.models}, results.ids)
    with pytest.raises(ZeroDivisionError): d.write()
    assert len((tmp_path/'d'/'results.csv').read_text().splitlines()) == 19

def test_explore_says_how_to_get_a_contact_head():
    from sa_toolkit.widgets import explore
    with pytest.raises(ValueError, match=r'has no contact head.*fit_contact_head\(plm, chains\)'): explore('1UBI', contacts=load_plm('amplify-tiny', pretrained=False))

def watched(plm, monkeypatch, see): # `see` is called with the ids of each pass
    states = plm.states
    monkeypatch.setattr(plm, 'states', lambda ids: (see(ids), states(ids))[1])

def test_measuring_leaves_no_inference_tensors_behind(tiny, monkeypatch):
    "What a model keeps of a pass would break the next training step"
    chain, seen = example_chain(), []
    watched(tiny, monkeypatch, lambda _: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())))
    masked_perplexity(tiny, [chain.sequence])
    residue_similarity(Aligner(tiny, 16), Example(chain, np.zeros(len(chain), np.int64), np.ones((len(chain), 16), np.float32)))
    assert seen == [(False, False)]*2

def test_similarity_of_a_chain_above_the_limit_is_read_in_windows(tiny, monkeypatch):
    chain, read = example_chain(), []
    example = Example(chain, np.zeros(len(chain), np.int64), np.random.default_rng(0).normal(size=(len(chain), 16)).astype(np.float32))
    monkeypatch.setattr(tiny, 'max_length', 40)
    watched(tiny, monkeypatch, lambda ids: read.append(ids.shape[1]))
    sim = residue_similarity(Aligner(tiny, 16), example)
    assert sim.shape == (len(chain),)*2 and np.isfinite(sim).all() and len(read) > 1 and max(read) == 42
