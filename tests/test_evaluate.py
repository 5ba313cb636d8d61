"What a suite and the main job say of models without a contact head, of trial runs and of long chains"
import csv
import json
import warnings
from dataclasses import replace
from html import unescape

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
from sa_toolkit.labels import PropertyTable
from sa_toolkit.mutations import gb1_scan
from sa_toolkit.results import Measure, Results, cells, estimate, open_results, save_results
from sa_toolkit.share import save_aligned
from sa_toolkit.study import read_cells
from sa_toolkit.suite import Suite, compare, evaluate, evaluate_models, fingerprint
from sa_toolkit.tokens import load_tokenizer
from sa_toolkit.train import Aligner
from sa_toolkit.viz import contact_figure, loss_figure, results_figure

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
    table, text, marked = results.table(), str(results), unescape(results.to_markdown())
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

# several models, and what lies in a folder

FILES = {'results.parquet', 'results.html', 'results.md', 'results.png'}

@pytest.fixture
def few(suite): return replace(suite, tasks=('language',))

@pytest.fixture
def quick(monkeypatch): # what was measured, by name; the numbers tell models apart and cost nothing
    made = []
    def measure(model, suite, progress, name):
        made.append(name)
        plm = model.plm if isinstance(model, Aligner) else model
        x = float(next(plm.parameters()).detach().sum())
        return [Measure('x', 'the sum of some weights', [e.chain.id for e in suite.test], [[x+k, 1] for k in range(len(suite.test))])]
    monkeypatch.setattr('sa_toolkit.suite.evaluate', measure)
    return made

def test_the_call_of_the_plan(tiny, few, quick):
    aligned = Aligner(load_plm('tiny', pretrained=False, seed=1), 128)
    res = compare([tiny, aligned], few, progress=False)
    assert quick == res.models == [tiny.name, f'{tiny.name} (aligner)']
    assert compare([tiny]*3, few).models == [tiny.name, f'{tiny.name} 2', f'{tiny.name} 3']
    tiny.weights, was = replace(tiny.weights, name='one of which much may be said, and here it is said'), tiny.weights
    try: assert compare([tiny, tiny], few).models == ['one of which much may be said, and here…', 'one of which much may be said, and here… 2']
    finally: tiny.weights = was

def test_a_name_with_dollars_leaves_all_files(tiny, few, quick, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        res = compare({'a': tiny, 'b$_$': load_plm('tiny', pretrained=False, seed=1), 'runs/$lr_$x': load_plm('tiny', pretrained=False, seed=2)}, few, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == FILES and (tmp_path/'results.png').stat().st_size > 1000
    assert open_results(tmp_path/'results.parquet').models == res.models == ['a', 'b$_$', 'runs/$lr_$x']

def test_no_figure_takes_a_name_for_a_formula(tmp_path):
    chain = replace(example_chain(), id='x$_$')
    m = lambda k: [Measure('of $^$', '', list('abcdefg'), np.stack([np.arange(7)+k, np.ones(7)], 1))]
    step = dict(mlm=1., physical=1., latent=1.)
    for n,fig in enumerate((contact_figure(chain, *[chain.contacts().astype(float)]*2, names=('b$_$', '$\\frac$')), loss_figure({'b$_$': [step]*9}), results_figure(Results({'$_$': [m(1)], 'b$_$': [m(2)]})))):
        fig.savefig(tmp_path/f'{n}.png')
        assert (tmp_path/f'{n}.png').stat().st_size > 1000
    assert '$_$' in fig.axes[0].get_xlabel() and fig.axes[0].get_yticklabels()[0].get_text() == 'of $^$'

def test_a_picture_that_fails_costs_nothing_else(tiny, few, quick, tmp_path, monkeypatch):
    monkeypatch.setattr('sa_toolkit.suite.results_figure', lambda res: 1/0)
    with pytest.warns(UserWarning, match=r'results.png could not be drawn \(ZeroDivisionError.*Rows and tables are whole'): compare(dict(a=tiny, b=tiny), few, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == FILES-{'results.png'} and open_results(tmp_path/'results.parquet').models == ['a', 'b']

def test_rows_are_kept_if_a_table_fails(tiny, few, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(Results, 'to_markdown', lambda self: 1/0)
    with pytest.raises(ZeroDivisionError): compare(dict(a=tiny), few, tmp_path)
    assert open_results(tmp_path/'results.parquet').models == ['a']

def test_a_model_trained_again_is_measured_again(few, quick, tmp_path):
    run, out = str(tmp_path/'my-run'), tmp_path/'out'
    save = lambda seed: load_plm('tiny', pretrained=False, seed=seed).save_pretrained(run)
    save(0)
    first = compare(['tiny', run], few, out)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert compare([run], few, out).table()[0]['value'] == first.table()[1]['value'] and quick == ['tiny', run]
    save(1)
    with pytest.warns(UserWarning, match='my-run has other weights than when .*results.parquet was written, so it is measured again'): again = compare(['tiny', run], few, out)
    assert quick == ['tiny', run, run] and again.models == ['tiny', run] and len(again.runs[run]) == 1 and again.table()[1]['value'] != first.table()[1]['value']
    assert open_results(out/'results.parquet').table()[1]['value'] == again.table()[1]['value'] and again.known(run, 'weights') != first.known(run, 'weights')

def test_other_projections_are_other_weights(tmp_path):
    plm = load_plm('tiny', pretrained=False)
    marks = {fingerprint(m) for m in (plm, Aligner(plm, 16), Aligner(plm, 16, seed=1), Aligner(plm, 8), load_plm('tiny', pretrained=False, seed=1), load_plm('tiny', pretrained=False).bfloat16())}
    assert len(marks) == 6 and fingerprint(plm) == fingerprint(load_plm(plm.save_pretrained(tmp_path)))

def test_numbers_of_a_file_that_knows_no_weights_are_kept_and_it_is_said(tiny, few, quick, tmp_path):
    res = compare(dict(a=tiny), few, tmp_path)
    save_results(replace(res, about={}), tmp_path/'results.parquet')
    with pytest.warns(UserWarning, match='does not say which weights a had'): compare(dict(a=tiny), few, tmp_path)
    assert quick == ['a']

def test_notes_go_below_a_table_that_is_there_already(tiny, few, quick, tmp_path):
    compare(dict(a=tiny), few, tmp_path, notes=['one'])
    compare(dict(a=tiny), few, tmp_path, notes=['two'])
    compare(dict(a=tiny, b=tiny), few, tmp_path, before=lambda: 'three')
    compare(dict(a=tiny, b=tiny), few, tmp_path, before=lambda: 1/0) # nothing is measured
    assert open_results(tmp_path/'results.parquet').notes[1:] == ['one', 'two', 'three'] and quick == ['a', 'b']
    assert all(x in (tmp_path/f'results.{s}').read_text() for x in ('one', 'two', 'three') for s in ('md', 'html'))

def test_a_suite_is_its_contents(few):
    scan, part = gb1_scan(), ['train', 'train', 'valid', 'test']
    table = lambda y: PropertyTable('p.csv', ['MKT', 'MKV', 'MAA', 'MAC'], np.array(y, float), 'regression', part)
    other = replace(scan, effect=scan.effect[::-1])
    suites = [few, *(replace(few, scans=[s]) for s in (scan, other)), *(replace(few, tables=(table(y),)) for y in ([1, 2, 3, 4], [1, 3, 2, 4]))]
    assert repr(scan) == repr(other) and len({s.key for s in suites}) == 5
    mark = suites[1].key
    assert scan.changes and suites[1].key == mark == replace(few, scans=[gb1_scan()]).key

# the table

def test_markdown_of_hostile_names():
    name = 'x <img src=x onerror=alert(1)> | [a](http://b.c) ![i](j)\n| row | $a_b$ & \\|'
    m = [Measure(name, f'what {name} is', list('abcdef'), np.ones((6, 2)))]
    lines = Results({name: [m], 'b': [m]}, [f'note of {name}']).to_markdown().splitlines()
    text = '\n'.join(lines)
    assert '<' not in text and '](' not in text and text.count('&lt;img') == 6
    assert [line.startswith('|') for line in lines] == [True]*3 + [False]*(len(lines)-3) and lines[1] == '|' + ' --- |'*6
    bars = lambda line: sum(c == '|' and (len(line[:k]) - len(line[:k].rstrip('\\'))) % 2 == 0 for k,c in enumerate(line)) # that are not escaped
    assert [bars(line) for line in lines[:3]] == [7]*3

def test_the_seed_is_in_the_rows_where_it_is_known(tiny, few, quick, tmp_path):
    res = compare(dict(a=tiny), replace(few, seed=3), tmp_path)
    assert [(r['seed'], r['seeds']) for r in res.table()] == [('3', 1)] == [(r['seed'], r['seeds']) for r in open_results(tmp_path/'results.parquet').table()]
    both = res + compare(dict(a=tiny), replace(few, seed=5)) + Results({'a': res.runs['a'], 'b': res.runs['a']})
    assert [(r['seed'], r['seeds']) for r in both.table()] == [('3 5', 3), ('', 1)] and both.known('a', 'seed') == [3, 5, None]

def test_files_of_before_are_read_and_written_as_before(tmp_path):
    import pyarrow.parquet as pq
    facts, res = read_cells()[0]
    assert res.about == {} and res.models == [facts['arm']] and res.known(facts['arm'], 'weights') == [None]
    again = open_results(save_results(res, tmp_path/'again.parquet'))
    assert set(json.loads(pq.read_schema(tmp_path/'again.parquet').metadata[b'results'])) == {'notes', 'trial'}
    for x,y in zip(res.runs[facts['arm']][0], again.runs[facts['arm']][0], strict=True): assert (x.name, x.said, x.ids) == (y.name, y.said, y.ids) and np.array_equal(x.rows, y.rows)
    assert res.only(['all P@L (']).table()[0]['seed'] == ''

def test_what_was_resampled_is_remembered_and_cannot_change():
    m = [Measure('x', '', list('abcdef'), np.stack([np.arange(6.)*k, np.ones(6)], 1)) for k in (1, 2)]
    res = Results({'a': m[:1] and [m[:1]], 'b': [m[1:]]})
    assert estimate(m[:1]) is estimate(m[:1]) and res.difference('b', 'a') == res.difference('b', 'a') and res.difference('b', 'a') is not res.difference('b', 'a')
    with pytest.raises(ValueError, match='read-only'): m[0].rows[0] = 9
    assert estimate(m[:1], seed=1) != estimate(m[:1])

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

def test_the_test_split_counts_as_opened_when_something_is_measured_on_it(data, tmp_path, quick):
    run, times = str(tmp_path/'run'), lambda: len(json.loads((data/'test_opened.json').read_text()))
    save = lambda seed: save_aligned(Aligner(load_plm('tiny', pretrained=False, seed=seed), 16), run)
    look = lambda: evaluate_models(data, ['tiny', run], tmp_path/'out', 'test', tasks=('language',))
    save(0)
    assert 'The test split was opened' in str(look()) and quick == ['tiny', run]
    n = times()
    look()
    assert times() == n and quick == ['tiny', run]
    save(1)
    with pytest.warns(UserWarning, match='other weights'): said = look().notes
    assert times() == n+1 and quick == ['tiny', run, run] and f'opened {n} time' in said[-1] and said == open_results(tmp_path/'out'/'results.parquet').notes

def test_any_table_of_labels(data, tmp_path, capsys):
    rows = [(c.sequence, len(c), ('train', 'valid', 'test')[k % 3]) for k,c in enumerate([c for c in example_chains() if len(c) < 60][:30])]
    (tmp_path/'mine.csv').write_text('\n'.join(['protein,length,split', *(f'{s},{n},{p}' for s,n,p in rows)]))
    args = ['evaluate', str(data), 'tiny', '--tasks', 'language', '--property', str(tmp_path/'mine.csv'), '--sequence', 'protein', '--label', 'length']
    assert main([*args, '--kind', 'regression', '--out', str(tmp_path/'out')]) == 0
    text = capsys.readouterr().out
    assert 'mine length Spearman' in text and 'trunk frozen' in text and 'results.html, .md, .parquet' in text and '.png' not in text
    assert main(args[:-2]) == 1 and "no column 'label'; it has 'protein', 'length', 'split'" in (said := capsys.readouterr().err) and '--label' in said
    with pytest.raises(SystemExit): main(['evaluate', '--help'])
    assert 'linear head is fitted on the frozen' in ' '.join(capsys.readouterr().out.split())

@pytest.mark.parametrize('extra,says', [(['--tasks', 'luck'], "no task 'luck'"), (['--split', 'x'], "no chains in split 'x'"), (['{tmp}/run/modl'], 'Did you mean {tmp}/run/model?'), (['--property', '{tmp}/p.csv'], "no column 'label'")])
def test_what_cannot_work_is_said_before_anything_is_measured(data, tmp_path, capsys, monkeypatch, extra, says):
    monkeypatch.setattr('sa_toolkit.suite.evaluate', lambda *a, **k: 1/0)
    (tmp_path/'run'/'model').mkdir(parents=True)
    (tmp_path/'p.csv').write_text('sequence,x\nMKT,1\n')
    assert main(['evaluate', str(data), 'tiny', *(x.format(tmp=tmp_path) for x in extra)]) == 1
    assert says.format(tmp=tmp_path) in capsys.readouterr().err
