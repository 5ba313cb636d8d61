"""Make `sa_toolkit/assets/chains.npz`, the example chains that the package carries.

    python tools/make_assets.py pdb_nr30.npz

`pdb_nr30.npz` holds experimental PDB chains, one per 30 %-identity cluster (see NOTICE). Drawn from it, by a fixed seed, so that
every CATH class and length is met: 240 for training, 32 for validation, 48 for testing; test chains share no CATH
topology and no SCOPe superfamily with the rest, and only chains that CATH classifies are drawn. Chains of whole entries carried in `assets/structures`, with their unresolved stretches, join them, after a check
that none is close in sequence to a chain of another split.
"""
import argparse
from collections import Counter

import numpy as np
from biotite.sequence import ProteinSequence
from biotite.sequence.align import SubstitutionMatrix, align_optimal, get_sequence_identity
from tqdm import tqdm

from sa_toolkit.core import asset, make_chain, save_chains
from sa_toolkit.structure import read_chains

# file: split, and the CATH topologies of its chains, which the other splits keep away from
ENTRIES = {'1ubi.pdb.gz': ('test', {'3.10.20'}), '1A8O.cif.gz': ('valid', {'1.10.1200'}), '3jqh.bcif.gz': ('valid', {'1.20.5'}),
    '2XHE.cif.gz': ('train', {'3.40.50', '1.25.40', '3.90.830', '1.20.58', '1.20.5'}), '4X21.cif.gz': ('train', {'3.30.200', '1.10.510'})}
SIZES = dict(test=48, valid=32, train=240)
LENGTHS = (50, 90, 130, 180, 300)

def topologies(cath):
    "C.A.T of every domain"
    return {'.'.join(d.split('.')[:3]) for d in cath.split(';') if d}

def superfamilies(scope):
    "class.fold.superfamily of every domain"
    return {'.'.join(d.split('.')[:3]) for d in scope.split(';') if d}

def draw(z):
    "Indices per split, spread over CATH class and length; no topology and no SCOPe superfamily of test is met in train or valid"
    rng, length, cath, scope = np.random.default_rng(0), z['length'], [str(c) for c in z['cath']], [str(c) for c in z['scope']]
    known = [i for i in rng.permutation(len(length)) if LENGTHS[0] <= length[i] < LENGTHS[-1] and cath[i]]
    kinds = lambda i: topologies(cath[i]) | superfamilies(scope[i])
    closed = {split: set().union(*(t for s, t in ENTRIES.values() if (s == 'test') != (split == 'test'))) for split in SIZES}
    strata, out = {}, {}
    for i in known: strata.setdefault((cath[i][:1], int(np.searchsorted(LENGTHS, length[i], 'right'))), []).append(int(i))
    for split, n in SIZES.items():
        out[split] = []
        while len(out[split]) < n:
            for q in (strata[k] for k in sorted(strata)):
                free = next((i for i in q if not kinds(i) & closed[split]), None)
                if free is None or len(out[split]) == n: continue
                out[split].append(free)
                q.remove(free)
                if split == 'test':
                    for other in ('train', 'valid'): closed[other] |= kinds(free)
    return out

def pack_chain(z, i, start, split):
    "One chain of the pack"
    s = slice(start[i], start[i+1])
    name = str(z['id'][i])
    return make_chain(f'{name[:4]}_{name[4:]}', str(z['seq'])[s], z['xyz_NCaCO_centi'][s]/100., author_chain=name[4:], source='ProMod3 structure database, pdb_nr30',
        resolution=float(z['resolution'][i]), notes=('The sample holds resolved residues only: the sequence is the observed one, without SEQRES.',),
        annotations=dict(split=split, cath=str(z['cath'][i]), scope=str(z['scope'][i]), dssp=str(z['dssp'])[s]))

def identity(a, b):
    "Sequence identity over the shorter of two chains, by local alignment"
    p, q = (ProteinSequence(x.sequence.replace('U', 'C').replace('O', 'K')) for x in (a, b))
    al = align_optimal(p, q, SubstitutionMatrix.std_protein_matrix(), gap_penalty=(-11, -1), local=True, max_number=1)[0]
    return get_sequence_identity(al, mode='not_terminal')*len(al.trace)/min(len(a), len(b))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('pack')
    z = dict(np.load(p.parse_args().pack))
    start = np.concatenate([[0], np.cumsum(z['length'])])
    picked = draw(z)
    chains = [pack_chain(z, i, start, split) for split, rows in picked.items() for i in rows]
    for file, (split, _) in ENTRIES.items():
        seen = set()
        for c in read_chains(asset(f'structures/{file}')):
            if c.sequence in seen: continue
            seen.add(c.sequence)
            c.annotations['split'] = split
            close = [(round(identity(c, x), 2), x.id, x.annotations['split']) for x in tqdm(chains, desc=c.id) if x.annotations['split'] != split]
            worst = max(close)
            assert worst[0] < .35, (c.id, worst)
            print(c.id, split, len(c), int(c.resolved.sum()), c.resolution, c.r_free, 'closest of another split', worst)
            chains.append(c)
    save_chains(chains, asset('chains.npz'))
    print(Counter(c.annotations['split'] for c in chains), sum(map(len, chains)), 'residues,', asset('chains.npz').stat().st_size, 'bytes')

if __name__ == '__main__': main()
