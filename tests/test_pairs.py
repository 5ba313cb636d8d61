"The pair probe and contact measures: what they must find, and what must not move them"
import numpy as np, pytest
from dataclasses import replace

from sa_toolkit.core import example_chain, example_chains, make_chain
from sa_toolkit.evaluate import RANGES, precision_at
from sa_toolkit.pairs import contact_measures, fit_pair_probe, pair_maps, training_pairs
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.results import estimate

STEPS = 60

@pytest.fixture(scope='module')
def world(): # real states: those of the structure encoder that the package carries
    train, test = [c for c in example_chains('train') if len(c) < 200][:16], [*[c for c in example_chains('test') if len(c) < 200][:8], example_chain('2XHE')]
    pgnn = load_pgnn()
    g = pgnn.encode(train)
    return train, test, g, pgnn.encode(test), fit_pair_probe(g, train, steps=STEPS)

def values(maps, chains): return {m.name.split(' (')[0]: m for m in contact_measures(maps, chains, 'x', 'x')}

def cut(c, n, id=None): return make_chain(id or f'{c.id}-{n}', c.sequence[:n], c.coords[:n])

def test_finds_contacts(world):
    train, test, g, h, probe = world
    rng = np.random.default_rng(0)
    got = values(pair_maps(probe, h), test)
    others = {'separation': [-np.abs(np.subtract.outer(*[np.arange(len(c))]*2)) for c in test], 'chance': [rng.random((len(c),)*2) for c in test],
        'states of other residues': pair_maps(probe, [rng.permutation(np.nan_to_num(x)) for x in h])}
    for name,maps in others.items():
        x = values(maps, test)
        assert estimate([got['long P@L']], [x['long P@L']])[1] > 0, name
        assert estimate([got['all P@L/5']], [x['all P@L/5']])[1] > 0, name

def test_a_probability(world): # drawn pairs are weighted: without that, 1 in 5 would be called a contact
    train, _, g, _, probe = world
    p, t = (np.concatenate([x[np.triu_indices(len(c), 6)] for x,c in zip(xs, train)]) for xs in (pair_maps(probe, g), [c.contacts() for c in train]))
    assert .6 < p.mean()/t.mean() < 1.6 and t.mean() < .05

def test_symmetric_and_in_blocks(world):
    train, _, _, h, probe = world
    long = np.concatenate([np.nan_to_num(x) for x in h])[:700]
    whole, = pair_maps(probe, [long])
    assert whole.dtype==np.float32 and np.array_equal(whole, whole.T)
    assert all(np.array_equal(m, m.T, equal_nan=True) for m in pair_maps(probe, h)) # odd lengths, gaps
    some = np.random.default_rng(0).choice(700, 40, replace=False)
    part, = pair_maps(probe, [long[some]])
    assert np.allclose(part, whole[np.ix_(some, some)], atol=1e-5)

def test_seed_and_order(world):
    train, _, g, h, _ = world
    a, again, other, turned = (pair_maps(fit_pair_probe(x, y, seed=s, steps=20), h[:2]) for x,y,s in ((g, train, 0), (g, train, 0), (g, train, 1), (g[::-1], train[::-1], 0)))
    assert all(map(np.array_equal, a, again)) and all(map(np.array_equal, a, turned))
    assert not np.array_equal(a[0], other[0]) and np.corrcoef(a[0].ravel(), other[0].ravel())[0,1] > .2

def test_unresolved_residues_do_not_matter(world):
    train, test, g, h, probe = world
    c, x = test[-1], h[-1]
    gap = ~c.resolved
    assert gap.any() and np.isnan(x[gap]).all()
    i, j, y, w = training_pairs(c, np.random.default_rng(0))
    assert not (gap[i]|gap[j]).any() and y.sum()==np.triu(c.contacts(), 6).sum() and np.isclose(w.sum(), np.triu(np.outer(~gap, ~gap), 6).sum())
    wild = np.where(gap[:,None], np.float32(1e6), x)
    fits = [fit_pair_probe([*g[:3], s], [*train[:3], c], steps=5) for s in (x, wild)]
    a, b = (pair_maps(f, h[:1])[0] for f in fits)
    assert np.array_equal(a, b) and np.isfinite(a).all()
    m, = pair_maps(probe, [x])
    assert np.isnan(m[gap]).all() and np.isfinite(m[np.ix_(~gap, ~gap)]).all()
    best = np.where(np.isnan(m), 9., m) # nor may a high score there take the place of a real pair
    rows = [[r.rows.tolist() for r in values([s], [c]).values()] for s in (m, best, np.where(np.isnan(m), np.inf, m))]
    assert rows[0]==rows[1]==rows[2]

@pytest.mark.parametrize('levels', [3, 10**6])
def test_same_as_precision_at(world, levels): # three levels: nearly all are ties
    rng = np.random.default_rng(levels)
    chains = [*world[1], *(cut(world[1][0], n) for n in (5, 6, 7, 12, 13, 24, 25, 30))]
    maps = [rng.integers(levels, size=(len(c),)*2) for c in chains]
    got = values(maps, chains)
    assert len(got)==12
    for r,(lo,hi) in RANGES.items():
        for k in ('L','L/2','L/5'):
            want = [precision_at(m, c.contacts(), k, lo, hi, c.resolved) for m,c in zip(maps, chains)]
            assert got[f'{r} P@{k}'].rows.tolist()==[[0,0] if np.isnan(x) else [x,1] for x in want]

def test_no_pair_in_range(world):
    c = world[1][0]
    got = values([np.zeros((n,n)) for n in (6, 20, len(c))], [cut(c, 6), cut(c, 20), c])
    assert [m.n for k,m in got.items() if k.endswith('P@L')]==[2,2,1,2] and all(len(m.rows)==3 for m in got.values())
    assert all('8 Å' in m.said and 'neither predicted nor counted' in m.said for m in got.values())

def test_short_chains_may_be_among_the_training_chains(world):
    train, _, g, h, _ = world
    probe = fit_pair_probe([g[1], g[1][:5], g[2][:7]], [train[1], cut(train[1], 5), cut(train[2], 7)], steps=3)
    assert np.isfinite(pair_maps(probe, [h[0], h[0][:1]])[0]).all()

def test_refusals(world):
    train, test, g, h, probe = world
    gone = replace(train[0], coords=np.full_like(train[0].coords, np.nan), cb=np.full_like(train[0].cb, np.nan), status=np.full(len(train[0]), 3, np.uint8))
    bad = g[0].copy()
    bad[3] = np.nan
    for says, call in {
        '16 chains, but 15 chains|states of 16': lambda: fit_pair_probe(g, train[1:]),
        f'{train[0].id} has {len(train[0])} residues, but {len(train[0])-1} states': lambda: fit_pair_probe([g[0][1:]], train[:1]),
        'not finite': lambda: fit_pair_probe([bad], train[:1]),
        'No two resolved residues 6 or more apart': lambda: fit_pair_probe([g[0][:6]], [cut(train[0], 6)]),
        'are in contact in 1 training': lambda: fit_pair_probe([g[0]], [gone]),
        'are in contact in 0 training': lambda: fit_pair_probe([], []),
        'of 128 dimensions, these have 64': lambda: pair_maps(probe, [h[0][:,:64]]),
        'There are 1 maps, but 2 chains': lambda: contact_measures([np.zeros((9,9))], test[:2], 'x', 'x'),
        'its map has shape': lambda: contact_measures([np.zeros((9,9))], test[:1], 'x', 'x'),
        'scores of resolved residues that are not finite': lambda: contact_measures([np.full((len(test[0]),)*2, np.nan)], test[:1], 'x', 'x')}.items():
        with pytest.raises(ValueError, match=says): call()
