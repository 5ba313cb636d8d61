"What a suite and the main job say of models without a contact head, of trial runs and of long chains"
import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from sa_toolkit.cli import main
from sa_toolkit.core import example_chain, example_chains, save_chains
from sa_toolkit.data import Example, encode_chains
from sa_toolkit.demo import SHOWN, Demo
from sa_toolkit.evaluate import residue_similarity
from sa_toolkit.perplexity import masked_perplexity
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.plan import Recipe
from sa_toolkit.plm import load_plm
from sa_toolkit.prepare import prepare
from sa_toolkit.results import Measure, Results, cells, open_results
from sa_toolkit.suite import Suite, compare, evaluate
from sa_toolkit.tokens import load_tokenizer
from sa_toolkit.train import Aligner

@pytest.fixture(scope='module')
def tiny(): return load_plm('tiny', pretrained=False)

@pytest.fixture(scope='module')
def suite(): return Suite(*(encode_chains(example_chains(s)[:n], load_pgnn(), load_tokenizer()) for s,n in (('train', 6), ('test', 5))), tasks=('contacts', 'language'))

@pytest.fixture(scope='module')
def results(tiny, suite): return compare(dict(esm2=tiny, amplify=load_plm('amplify-tiny', pretrained=False)), suite, progress=False)

def test_what_was_not_measured_is_no_zero(results):
    own = [k for k in results.names if k.endswith('(own head)')]
    assert len(own) == 12 and not results.get('amplify', own[0]) and results.get('esm2', own[0])
    for a,b in (('amplify', 'esm2'), ('esm2', 'amplify'), ('amplify', 'amplify')): assert not set(results.difference(a, b)) & set(own)
    shown = {r[0]: r[1:] for r in cells(results)}
    assert shown['long P@L (own head)'][2:] == ['–', '–', ''] and '–' not in shown['perplexity']
    assert not any(np.isnan(r['value']) for r in results.table()) and all(v.endswith('too small to judge') for v in results.verdict('esm2', 'amplify'))

def test_every_number_says_what_it_is(results):
    table, text, marked = results.table(), str(results), results.to_markdown()
    assert all(len(r['definition']) > 40 for r in table)
    for part in {x for r in table for x in r['definition'].split('; ', 1)}: assert part in text and part in marked, part

def test_a_suite_measures_an_aligner_like_its_model_and_leaves_it_as_it_was(tiny, suite):
    aligner = Aligner(tiny, 128).train()
    both = replace(suite, tasks=('retrieval', 'crossmodal'))
    got = {m.name: m for m in evaluate(aligner, both, progress=False)}
    assert aligner.plm.training and {'recall@1', 'recall@10'} <= set(got) and got['recall@1'].units[0].tolist() == sorted(e.chain.id for e in suite.test)
    assert not any('recall' in m.name for m in evaluate(tiny.eval(), both, progress=False))

@pytest.mark.parametrize('steps,chains,trial', [(19, 40, True), (20, 19, True), (20, 20, False)])
def test_what_counts_as_a_trial_run(steps, chains, trial, tmp_path, monkeypatch):
    monkeypatch.setattr('sa_toolkit.suite.evaluate', lambda *a, **k: [Measure('Q3', '', ['a'], [[1, 1]])])
    examples = [Example(replace(example_chain(), id=f'{s} {k}'), None, None) for s in 'ab' for k in range(chains)]
    d = Demo(tmp_path, steps, data=dict(train=examples[:chains], test=examples[chains:]), models=dict.fromkeys(('base', 'MLM only', 'aligned')))
    assert d.evaluate().results.trial is trial

def test_the_main_job_with_a_model_without_a_contact_head(tmp_path, capsys):
    Demo(tmp_path/'d', 2, model='amplify-tiny', train_chains=6, test_chains=3).run()
    text, page = capsys.readouterr().out, (tmp_path/'d'/'contacts.html').read_text()
    assert text.count('too small to judge') == 10 and 'better' not in text and 'worse' not in text
    rows = list(csv.DictReader(open(tmp_path/'d'/'results.csv')))
    assert len(rows) == 15 and {r['measure'] for r in rows} == {k for k in SHOWN if 'own head' not in k}
    assert 'base (refitted head)' in page and 'aligned (refitted head)' in page and (tmp_path/'d'/'contacts.png').stat().st_size > 1000
    assert 'too small to judge' in (tmp_path/'d'/'model'/'README.md').read_text()

def test_the_table_is_there_if_a_picture_fails(tmp_path, monkeypatch, tiny, results):
    monkeypatch.setattr('sa_toolkit.viz.contact_figure', lambda *a, **kw: 1/0)
    d = Demo(tmp_path/'d', data=dict(train=[], test=[]), models=dict.fromkeys(('base', 'MLM only', 'aligned'), tiny))
    d.aligner, d.results = Aligner(tiny, 16), Results({m: results.runs['esm2'] for m in d.models})
    with pytest.raises(ZeroDivisionError): d.write()
    assert len((tmp_path/'d'/'results.csv').read_text().splitlines()) == 1 + 3*len(results.runs['esm2'][0])

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

# the command

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    save_chains([c for c in example_chains() if len(c) < 80][:24], folder/'chains.npz')
    prepare(folder/'chains.npz', folder/'data', Recipe(pgnn='', fractions=(.5, .25, .25)), workers=1)
    return folder/'data'

def test_the_command_measures_prints_and_goes_on(data, tiny, tmp_path, capsys):
    tiny.save_pretrained(tmp_path/'run'/'model')
    args = ['evaluate', str(data), 'tiny', str(tmp_path/'run'), '--tasks', 'contacts,language', '--out', str(tmp_path/'out'), '--threads', '1']
    assert main(args) == 0
    text, made = capsys.readouterr().out, open_results(tmp_path/'out'/'results.parquet')
    assert 'perplexity' in text and 'valid split' in text and 'more measures are in' in text and 'too small to judge' in text
    assert made.models == ['tiny', str(tmp_path/'run')] and len(made.names) == 25 and {p.name for p in (tmp_path/'out').iterdir()} == {'results.parquet', 'results.html', 'results.md', 'results.png'}
    before = (tmp_path/'out'/'results.parquet').stat().st_mtime_ns
    assert main(args) == 0 and (tmp_path/'out'/'results.parquet').stat().st_mtime_ns == before
    assert main([*args[:4], '--tasks', 'language', '--out', str(tmp_path/'out')]) == 1 and 'another suite' in capsys.readouterr().err

def test_opening_the_test_split_is_written_down(data, capsys):
    for said in ('opened for the first time', 'opened 1 time before'):
        assert main(['evaluate', str(data), 'tiny', '--tasks', 'language', '--split', 'test']) == 0
        assert said in capsys.readouterr().out

@pytest.mark.parametrize('extra,says', [(['--tasks', 'luck'], "no task 'luck'"), (['--split', 'x'], "no chains in split 'x'"), (['{tmp}/run/modl'], 'Did you mean {tmp}/run/model?'), (['--property', '{tmp}/p.csv'], "no column 'label'")])
def test_what_cannot_work_is_said_before_anything_is_measured(data, tmp_path, capsys, monkeypatch, extra, says):
    monkeypatch.setattr('sa_toolkit.suite.evaluate', lambda *a, **k: 1/0)
    (tmp_path/'run'/'model').mkdir(parents=True)
    (tmp_path/'p.csv').write_text('sequence,x\nMKT,1\n')
    assert main(['evaluate', str(data), 'tiny', *(x.format(tmp=tmp_path) for x in extra)]) == 1
    assert says.format(tmp=tmp_path) in capsys.readouterr().err
