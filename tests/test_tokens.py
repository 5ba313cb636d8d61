"Structural tokens: agreement with independent programs, and nothing computed across a gap"
import json
import pickle
import subprocess
import sys
import warnings

import mini3di
import numpy as np
import pytest

from sa_toolkit.core import example_chain, example_chains, make_chain
from sa_toolkit.tokens import TOKENIZERS, UNDEFINED, bonded, load_tokenizer

ENDS = {'3di': 1, 'pb': 2, 'ss8': 1} # residues without a state beside a terminus, a gap or a break

@pytest.fixture(scope='module')
def stored(root):
    "Made by benchmarks/tokens.py --store: chains of the package, each by itself, those with gaps among them"
    ref = json.loads((root/'tests'/'data'/'tokens_reference.json').read_text())
    assert all(len(x) >= 20 for x in ref.values())
    return ref

@pytest.fixture(params=list(TOKENIZERS))
def tok(request): return load_tokenizer(request.param)

def inner(c, ends):
    "Residues with that many bonded neighbours on either side"
    b = np.r_[[False]*ends, bonded(c), [False]*ends]
    return np.all([b[k:len(b)+1-2*ends+k] for k in range(2*ends)], 0)

def part(c, s, name='part'): return make_chain(name, c.sequence[s], c.coords[s], np.where(c.cb_virtual[:, None], np.nan, c.cb)[s])

def test_3di_equals_mini3di():
    "Another port of Foldseek's encoder, by the author of biotite's: it guards how chains are handed over, not the network"
    total, encoder = 0, mini3di.Encoder()
    for c in example_chains('valid') + [c for c in example_chains() if not c.resolved.all()]:
        n, ca, cc = (c.coords[:, k].astype(float) for k in range(3))
        ours, ref = load_tokenizer('3di').encode(c), encoder.encode_atoms(ca, np.where(c.cb_virtual[:, None], np.nan, c.cb).astype(float), n, cc)
        both = ours >= 0
        assert (both == ~np.ma.getmaskarray(ref)).all() and (ours[both] == np.asarray(ref)[both]).all(), c.id
        total += int(both.sum())
    assert total > 5000

def test_protein_blocks_equal_pbxplore(stored):
    assert 'PBxplore 1.4.0' in stored
    for id, ref in stored['PBxplore 1.4.0'].items(): assert load_tokenizer('pb').text(example_chain(id)) == ref, id

def test_ss8_equals_dssp_on_the_same_chain(stored):
    "mkdssp 4.2.2 (it gives its version as 4.2), its poly-proline helices written as coil; energies there are rounded to 0.001 kcal/mol, so a residue in thousands may differ"
    same = total = 0
    for id, ref in stored['mkdssp 4.2'].items():
        c = example_chain(id)
        ours, seen = load_tokenizer('ss8').text(c), inner(c, 1)
        assert all((x == '-') == (not s) for x, s in zip(ours, seen)), id
        assert all((y == '-') == (not r) for y, r in zip(ref, c.resolved)), id
        same, total = same + sum(x == y for x, y in zip(ours, ref) if x != '-'), total + int(seen.sum())
    assert total > 3000 and same/total > .999

def test_ss8_against_whole_entries():
    "The strings that the package carries were made with the entry's other chains at hand: bridges to those cannot be seen from one chain"
    pairs = [(a, b) for c in example_chains()[::4] if c.annotations.get('dssp') for a, b in zip(load_tokenizer('ss8').text(c), c.annotations['dssp']) if a != '-']
    assert len(pairs) > 8000 and np.mean([a == b for a, b in pairs]) > .98
    lost = [b for a, b in pairs if a != b]
    assert np.mean([b in 'EB' for b in lost]) > .8
    for k in 'GHITSC': assert np.mean([a == k for a, b in pairs if b == k]) > .97, k

def test_gaps_and_termini_are_undefined(tok):
    for c in [example_chain('2XHE'), *(c for c in example_chains() if not c.resolved.all()), *example_chains('valid')[:5]]:
        t = tok.encode(c)
        assert t.shape == (len(c),) and t.dtype == np.int64 and t.max() < len(tok) and t[t < 0].tolist() == [UNDEFINED]*int((t < 0).sum())
        seen = inner(c, ENDS[tok.name])
        assert (t[~seen] == UNDEFINED).all()
        if tok.name != '3di': assert (t[seen] >= 0).all()
        else: assert (t[seen] >= 0).mean() > .9 # a partner beside a gap leaves a residue without a state

def test_a_break_is_like_two_chains(tok):
    "Two halves so far apart that nothing links them, though all residues are resolved and numbered on"
    for id, cut in (('1UBI', 40), ('2XHE', 200)):
        c = example_chain(id)
        xyz, cb = c.coords.copy(), np.where(c.cb_virtual[:, None], np.nan, c.cb)
        xyz[cut:], cb[cut:] = xyz[cut:] + 300, cb[cut:] + 300
        whole = tok.encode(make_chain('broken', c.sequence, xyz, cb))
        halves = np.concatenate([tok.encode(part(c, s)) for s in (slice(0, cut), slice(cut, None))])
        assert bonded(c)[cut-1] and (whole[cut-ENDS[tok.name]:cut+ENDS[tok.name]] == UNDEFINED).all()
        seen = whole >= 0 if tok.name == '3di' else slice(None) # a partner at the break leaves a residue without a state; a half picks another
        assert (whole[seen] == halves[seen]).all() and (whole >= 0).sum() > .8*c.resolved.sum()

def test_a_gap_hides_what_is_in_it(tok):
    "A blanked stretch and the same chain without those residues' coordinates ever known: Protein Blocks elsewhere stay, nothing shifts"
    c = example_chain('1UBI')
    xyz = c.coords.copy()
    xyz[30:36] = np.nan
    gap, a = tok.encode(make_chain('gap', c.sequence, xyz, np.where(c.cb_virtual[:, None], np.nan, c.cb))), tok.encode(c)
    e = ENDS[tok.name]
    assert (gap[30-e:36+e] == UNDEFINED).all()
    if tok.name == 'pb': assert (np.delete(gap, slice(28, 38)) == np.delete(a, slice(28, 38))).all()
    else: assert (gap[gap >= 0] == a[gap >= 0]).mean() > .85

@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 6])
def test_short_chains(tok, n):
    c = part(example_chain('1UBI'), slice(24, 24+n))
    t = tok.encode(c)
    assert t.shape == (n,) and (t[~inner(c, ENDS[tok.name])] == UNDEFINED).all()
    if tok.name != '3di': assert (t >= 0).sum() == max(n - 2*ENDS[tok.name], 0)
    assert tok.text(c).count('-') == (t < 0).sum()

def test_chains_without_a_backbone(tok):
    "Nothing resolved; Cα only; no oxygen. Neither is an error, and none makes a warning"
    c = example_chain('1UBI')
    none, ca, no_o = (np.full_like(c.coords, np.nan) for _ in range(3))
    ca[:, 1], no_o[:, :3] = c.coords[:, 1], c.coords[:, :3]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for x in (none, ca, no_o): assert (tok.encode(make_chain('x', c.sequence, x)) == UNDEFINED).all()
        assert tok.text(example_chain('2XHE')).count('-') > 80

def test_a_residue_without_oxygen_is_a_gap(tok):
    c = example_chain('1UBI')
    xyz = c.coords.copy()
    xyz[20, 3] = np.nan
    e, t = ENDS[tok.name], tok.encode(make_chain('x', c.sequence, xyz))
    assert (t[20-e:21+e] == UNDEFINED).all() and (t >= 0).sum() > 50

def test_tokens_do_not_turn_with_the_molecule(tok):
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    q *= np.linalg.det(q)
    for c in example_chains('valid')[:6]:
        turned = make_chain(c.id, c.sequence, c.coords@q + 7, np.where(c.cb_virtual[:, None], np.nan, c.cb)@q + 7)
        a, b = tok.encode(c), tok.encode(turned)
        assert ((a < 0) == (b < 0)).all() and (a == b).mean() > .99

def test_what_a_tokeniser_says_of_itself(tok):
    assert len(set(tok.alphabet)) == len(tok) == {'3di': 20, 'pb': 16, 'ss8': 8}[tok.name] and '-' not in tok.alphabet
    assert 'doi:10.' in tok.citation and tok.license and tok.citation in tok._repr_html_()
    assert pickle.loads(pickle.dumps(tok)) == tok and load_tokenizer(tok.name.upper()) is tok

def test_an_unknown_alphabet_is_named():
    with pytest.raises(ValueError, match="'protoken'; there is 3di, pb, ss8"): load_tokenizer('protoken')

def test_import_is_light():
    code = "import sa_toolkit.tokens, sys; print([m for m in ('torch', 'biotite', 'mdtraj', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
