"What probes, neighbourhoods and retrieval make of wrong input, of gaps, and of states made to give a known answer"
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from sa_toolkit.aligner import Aligner
from sa_toolkit.core import example_chain, example_chains
from sa_toolkit.data import Example
from sa_toolkit.plm import load_plm
from sa_toolkit.probes import SS8, draw_residues, fit_probe, neighbours, probe_measures, secondary, three
from sa_toolkit.results import estimate
from sa_toolkit.retrieval import LEVELS, cross_modal, first_hits, fold_retrieval, places, tree_labels
from sa_toolkit.tokens import load_tokenizer

@pytest.fixture(scope='module')
def rng(): return np.random.default_rng(0)

@pytest.fixture(scope='module')
def tiny(): return load_plm('tiny', pretrained=False)

@pytest.fixture(scope='module')
def train(): return example_chains('train')[:10]

@pytest.fixture(scope='module')
def test(): return [*example_chains('test')[:8], example_chain('2XHE')] # the last has gaps

def noise(chains, width=12, seed=0):
    r = np.random.default_rng(seed)
    return [r.normal(size=(len(c), width)).astype(np.float32) for c in chains]

def telling(chains, seed=0, width=20): # states that name the residue's eight-state structure
    axes = np.random.default_rng(7).normal(size=(len(SS8)+1, width)).astype(np.float32)*6
    return [axes[secondary(c).clip(-1)] + x for c,x in zip(chains, noise(chains, width, seed))] # -1: the axis of what has none

def test_states_that_are_not_the_chains(train, test):
    a, b, tok = noise(train), noise(test), load_tokenizer()
    for bad, said in ((b[1:], '8 chains for 9 chains'), (b[::-1], 'Embed the whole sequence'), ([x[0] for x in b], 'Embed the whole sequence'), (noise(test, 13), 'Training states are 12 wide')):
        with pytest.raises(ValueError, match=said): probe_measures(a, train, bad, test, tok)
    with pytest.raises(ValueError, match='19 wide|13 wide'): fold_retrieval([*b[:-1], noise(test, 13)[-1]], test)
    with pytest.raises(ValueError, match='not finite'): fold_retrieval([b[0]*np.nan, *b[1:]], test)
    with pytest.raises(ValueError, match='8 chains for 9 chains'): fold_retrieval(b[1:], test)

def test_nothing_to_fit_on(train, test):
    tok, one = load_tokenizer(), [replace(c, annotations=dict(dssp='H'*len(c))) for c in train[:2]]
    with pytest.raises(ValueError, match='No training residue has any 8-state secondary structure'): probe_measures([], [], noise(test), test, tok)
    with pytest.raises(ValueError, match='one and the same 8-state'): probe_measures(noise(one), one, noise(test), test, tok)
    blind = [replace(c, coords=np.full_like(c.coords, np.nan)) for c in train[:2]]
    with pytest.raises(ValueError, match='No training residue'): probe_measures(noise(blind), blind, noise(test), test, tok)

def test_nothing_to_measure(train, test):
    blind, tok = [replace(c, coords=np.full_like(c.coords, np.nan)) for c in test], load_tokenizer()
    assert probe_measures(noise(train), train, [], [], tok) == probe_measures(noise(train), train, noise(blind), blind, tok) == []
    assert fold_retrieval([], []) == fold_retrieval(noise(blind), blind) == []
    assert [m.name for m in probe_measures(noise(train), train, noise(test[:1]), test[:1], tok)] == ['Q8', 'Q3', '3Di accuracy'] # no other protein

def test_unresolved_residues_take_no_part(train, test):
    "NaN states there change no number, nor does an annotation or a token there"
    a, b, tok = telling(train), telling(test), load_tokenizer()
    before = probe_measures(a, train, b, test, tok)
    hollow = [np.where(c.resolved[:,None], h, np.nan) for h,c in zip(b, test)]
    after = probe_measures(a, train, hollow, test, tok)
    assert not test[-1].resolved.all() and all(np.array_equal(x.rows, y.rows) for x,y in zip(before, after))
    assert before[0].rows[-1,1] == (secondary(test[-1]) >= 0).sum() <= test[-1].resolved.sum()
    for x,y in zip(fold_retrieval(b, test), fold_retrieval(hollow, test)): assert np.array_equal(x.rows, y.rows)

def test_states_that_tell_everything_and_nothing(train, test):
    tok = load_tokenizer()
    know = {m.name: m.value() for m in probe_measures(telling(train), train, telling(test, 1), test, tok)}
    assert know['Q8'] > .97 and know['Q3'] > .97 and know['kNN purity SS3'] > .95 and know['3Di accuracy'] < .8
    *fitted, a, b = probe_measures(noise(train), train, noise(test, seed=1), test, tok)
    for m in (a, b): assert abs(m.value()-float(m.said.rsplit(': ', 1)[1])) < .03
    s = np.concatenate([secondary(c) for c in test])
    commonest = [np.bincount(y[y >= 0]).max()/(y >= 0).sum() for y in (s, three(s))]
    assert all(m.value() < c+.02 for m,c in zip(fitted, commonest))
    assert all(m.ids == [c.id for c in test] and np.isfinite(estimate([m], n=50)).all() for m in probe_measures(telling(train), train, telling(test, 1), test, tok))

def test_the_same_numbers_again_and_others_for_another_seed(train, test):
    a, b, tok = telling(train), noise(test, 20), load_tokenizer()
    run = lambda seed: [m.rows for m in probe_measures(a, train, b, test, tok, n=200, seed=seed)]
    assert all(map(np.array_equal, run(0), run(0))) and not np.array_equal(run(0)[-1], run(1)[-1])

def test_other_alphabets_keep_their_name(train, test):
    names = [m.name for m in probe_measures(noise(train[:8]), train[:8], noise(test), test, load_tokenizer('pb'))]
    assert names[2] == 'pb accuracy' and names[4] == 'kNN purity pb'

def test_secondary_structure_is_computed_where_none_is_annotated():
    chain = example_chains('test')[0]
    bare = replace(chain, annotations={})
    assert np.array_equal(secondary(bare), load_tokenizer('ss8').encode(chain)) and np.array_equal(secondary(replace(chain, annotations=dict(dssp=None))), secondary(bare))
    assert ''.join(SS8[k] for k in secondary(chain)) == chain.annotations['dssp']
    assert three(np.array([0,1,2,3,4,5,6,7,-100])).tolist() == [0,0,0,1,1,2,2,2,-100]

def test_a_sample_is_drawn_from_those_that_qualify():
    ok = [np.array([True]*5), np.zeros(3, bool), np.array([False, True]*10)]
    some, all_ = draw_residues(ok, 6), draw_residues(ok, 99)
    assert sum(k.sum() for k in some) == 6 and all(not (k & ~o).any() for k,o in zip(some, ok)) and all(map(np.array_equal, all_, ok)) and draw_residues([], 5) == []
    with pytest.raises(ValueError, match='letter'): fit_probe([np.ones((5,2), np.float32)], [np.full(5, -1)], 2, 'letter')

def test_neighbours_of_one_protein_are_no_neighbours(rng):
    x = np.repeat(rng.normal(size=(20, 6)), 4, 0) + rng.normal(size=(80, 6))/1e3 # 4 residues of a protein lie together
    who = np.repeat(np.arange(20), 4)
    at, full = neighbours(x, who, 10, block=7)
    assert full.all() and (who[at] != who[:,None]).all() and np.array_equal(at, neighbours(x, who, 10)[0])

@pytest.mark.parametrize('scheme', ['cath', 'scope'])
def test_labels_of_a_chain(scheme):
    label = lambda code: tree_labels(replace(example_chain(), annotations={scheme: code}), scheme)
    assert label('1.2.3.4') == ['1', '1.2', '1.2.3', '1.2.3.4'] and label(' 1.2.3.4 ;') == label('1.2.3.4') and label('1.2') == ['1', '1.2', '', '']
    assert label('') == label(None) == label('1.2.3.4;1.2.3.4') == label('l.1.1.1') == ['']*4
    assert label('a.1.0.0') == ['a', 'a.1', '', ''] and label('a.10.1.0')[2:] == ['a.10.1', '']

def slow_hits(z, label, apart):
    "One query at a time, by the words of the definition"
    rows = []
    for i in range(len(z)):
        ok = [j for j in range(len(z)) if j != i and label[i] and label[j] and (label[j] != label[i] or apart is None or (apart[i] and apart[j] and apart[i] != apart[j]))]
        right = [label[j] == label[i] for j in ok]
        s = [float(z[i]@z[j]) for j in ok]
        rows.append([float(right[int(np.argmax(s))]), 1] if any(right) else [0, 0])
    return np.array(rows)

def test_hits_by_the_words_of_the_definition(rng):
    z = rng.normal(size=(60, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    leaf = [f'{a}.{b}' for a,b in rng.integers(0, 4, (60, 2))]
    fold = [x[0] if k%7 else '' for k,x in enumerate(leaf)]
    fine = [x if f and k%5 else '' for k,(x,f) in enumerate(zip(leaf, fold))]
    for label, apart in ((fold, None), (fold, fine), (fine, None)):
        assert np.array_equal(first_hits(z, label, apart, block=17)[0], slow_hits(z, label, apart))

def test_folds_are_found_without_homologues(test):
    "Two folds of three superfamilies each; states name the superfamily, or the fold as well"
    codes = [f'3.{20+f}.{5+f}.{10*h}' for f,h,_ in product(range(2), (1,2,3), range(2))]
    chains = [replace(test[k%8], id=f'{k}', annotations=dict(cath=c)) for k,c in enumerate(codes)]
    def made(weight): # of the fold
        axes = {c: np.random.default_rng(int(c.replace('.', ''))).normal(size=16) + weight*(1 if c.startswith('3.20') else -1) for c in set(codes)}
        return [np.tile(axes[c.annotations['cath']], (len(c), 1)) for c in chains]
    both = {m.name: m for m in fold_retrieval(made(3), chains)}
    assert list(both) == [f'{x} precision@1' for x in 'CATH']
    assert both['T precision@1'].value() == both['H precision@1'].value() == 1 and both['T precision@1'].n == 12
    family = {m.name: m.value() for m in fold_retrieval(made(0), chains)}
    assert family['H precision@1'] == 1 and family['T precision@1'] < 1
    assert len(fold_retrieval(made(3), chains, least=13)) == 0
    assert not [m for m in fold_retrieval(made(3), chains) if m.name.startswith('SCOPe')]

def test_levels_have_their_scheme():
    from sa_toolkit.retrieval import APART
    assert set(APART) == {x for v in LEVELS.values() for x in v}

def examples(chains, width, seed=0): return [Example(c, np.zeros(len(c), np.int64), g) for c,g in zip(chains, noise(chains, width, seed))]

def same_space(plm, dim):
    out = Aligner(plm, dim)
    for part in (out.project_a, out.project_g): nn.init.eye_(part.weight), nn.init.zeros_(part.bias)
    return out

def test_an_aligner_that_knows_and_one_that_guesses(tiny, test):
    e = examples(test, tiny.dim)
    perfect = cross_modal(same_space(tiny, tiny.dim), e, n=300, states=[x.g for x in e])
    assert len(perfect) == 10 and all(m.value() == 1 for m in perfect)
    guess = {m.name: m for m in cross_modal(same_space(tiny, tiny.dim), e, n=100, states=noise(test, tiny.dim, 1))}
    assert abs(guess['recall@1'].value()-.01) < .012 and all(abs(m.value()-.1) < .06 for k,m in guess.items() if '@10' in k)
    assert 'at random 0.1000' in guess['recall@10'].said and guess['recall@1'].ids == [c.id for c in test]
    kinds = sum(guess[f'recall@1 {s}'].rows for s in ('helix', 'strand', 'coil'))
    assert (kinds <= guess['recall@1'].rows).all()

def test_one_point_for_all_is_found_by_nobody(tiny, test):
    e = examples(test, 8)
    aligner = Aligner(tiny, 8)
    nn.init.zeros_(aligner.project_g.weight)
    assert all(m.value() == 0 for m in cross_modal(aligner, e, n=100) if 'from structure' not in m.name)

def test_cross_modal_leaves_out_what_is_unresolved(tiny, test):
    e = [Example(x.chain, x.tokens, np.where(x.chain.resolved[:,None], x.g, np.nan)) for x in examples(test, tiny.dim)]
    m = cross_modal(same_space(tiny, tiny.dim), e, n=10**6, states=noise(test, tiny.dim))[0]
    assert m.rows[:,1].tolist() == [c.resolved.sum() for c in test] and m.value() == 1
    few = cross_modal(same_space(tiny, tiny.dim), e, n=100, states=noise(test, tiny.dim), most=250)[0]
    assert few.rows[:,1].sum() == 200 and 'share of 200 resolved' in few.said and 'of 100 residues' in few.said

def test_states_are_made_where_none_are_given(tiny, test):
    e, aligner = examples(test[:3], 16), Aligner(tiny, 16)
    given = cross_modal(aligner, e, n=50, states=tiny.embed([c.sequence for c in test[:3]]))
    assert all(np.array_equal(x.rows, y.rows) for x,y in zip(given, cross_modal(aligner, e, n=50))) and not torch.is_inference(aligner.scale)
    half = cross_modal(Aligner(tiny, 16), [replace(x, g=x.g.astype(np.float16)) for x in e], n=50) # as shards hold them
    assert [m.name for m in half] == [m.name for m in given]

def test_cross_modal_says_what_does_not_fit(tiny, test):
    aligner, e = Aligner(tiny, 16), examples(test[:2], 16)
    with pytest.raises(ValueError, match='takes 16 numbers per residue'): cross_modal(aligner, examples(test[:2], 8))
    with pytest.raises(ValueError, match='has no structure states'): cross_modal(aligner, [replace(e[0], g=None)])
    with pytest.raises(ValueError, match='Embed the whole sequence'): cross_modal(aligner, e, states=noise(test[1::-1], tiny.dim))
    assert cross_modal(aligner, []) == [] and cross_modal(aligner, [replace(x, g=x.g*np.nan) for x in e]) == []

def test_equals_stand_before_the_own_partner():
    z = nn.functional.normalize(torch.eye(4)[[0,0,1,2]], dim=1)
    assert places(z, z).tolist() == [2,2,1,1] and places(z, z, block=3).tolist() == [2,2,1,1]
