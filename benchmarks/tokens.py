"""Agreement of the structural tokens with independent programs, and their speed; prints tables.

    python benchmarks/tokens.py [SOURCE] [--chains 300] [--seed 0] [--mkdssp mkdssp] [--store FILE]

SOURCE is a pack of chains (.npz) or a folder of structure files; without it, the chains that the package carries. Compared are
3Di with mini3di, Protein Blocks with PBxplore, SS8 with the DSSP strings of the pack (made on whole entries) and with mkdssp on the same single chain;
what is not installed is left out and said so (pip install mini3di PBxplore; mkdssp is Debian's package dssp). --store writes the answers of PBxplore and
mkdssp for some carried chains: the file that tests compare with.
"""
import argparse
import json
import shutil
import time
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sa_toolkit.core import example_chain, example_chains
from sa_toolkit.plan import pack_chain
from sa_toolkit.structure import read_chains
from sa_toolkit.tokens import bonded, load_tokenizer

Q3 = str.maketrans('GHIBETSC-', 'HHHEECCC-')

def sample(source, n, seed):
    "Chains at random, always the same for one seed"
    if source is None: pool = example_chains()
    elif Path(source).is_dir(): pool = read_chains(source)
    else: pool = range(len(np.load(source)['length']))
    pick = np.sort(np.random.default_rng(seed).choice(len(pool), min(n, len(pool)), replace=False))
    return [pool[k] if source is None or Path(source).is_dir() else pack_chain(Path(source), int(k)) for k in pick]

def by_mini3di(chain):
    import mini3di
    x = chain.coords.astype(float)
    if chain.resolved.sum() < 3: return '-'*len(chain)
    cb = np.where(chain.cb_virtual[:, None], np.nan, chain.cb).astype(float)
    with np.errstate(all='ignore'): s = mini3di.Encoder().encode_atoms(x[:, 1], cb, x[:, 0], x[:, 2])
    return ''.join('-' if m else 'ACDEFGHIKLMNPQRSTVWY'[k] for k, m in zip(np.asarray(s.data), np.ma.getmaskarray(s)))

def by_pbxplore(chain):
    import pbxplore
    from pbxplore.structure.structure import Atom
    from pbxplore.structure.structure import Chain as Atoms
    atoms = Atoms()
    for k in np.flatnonzero(chain.resolved).tolist():
        for name, xyz in zip(('N', 'CA', 'C', 'O'), chain.coords[k].tolist()): atoms.add_atom(Atom(0, name, 'ALA', 'A', k, *xyz))
    seen, out = iter(pbxplore.assign(atoms.get_phi_psi_angles())), []
    for r in chain.resolved: out.append(next(seen).replace('Z', '-') if r else '-')
    return ''.join(out)

def by_mkdssp(chain, program):
    from biotite.application.dssp import DsspApp
    from biotite.structure import AtomArray
    r = np.flatnonzero(chain.resolved)
    a = AtomArray(4*len(r))
    a.coord, a.atom_name, a.res_id, a.element = chain.coords[r].reshape(-1, 3), np.tile(['N', 'CA', 'C', 'O'], len(r)), np.repeat(r+1, 4), np.tile(list('NCCO'), len(r))
    a.chain_id[:], a.res_name = 'A', np.repeat(['PRO' if chain.sequence[k]=='P' else 'ALA' for k in r], 4)
    out = np.full(len(chain), '-')
    out[r] = DsspApp.annotate_sse(a, program)
    return ''.join(out).replace('P', 'C') # poly-proline helices, which only DSSP 4 knows, are coil elsewhere

def compare(name, ours, theirs):
    "One line of the table"
    a, b = (np.array(list(''.join(x))) for x in (ours, theirs))
    both = (a!='-') & (b!='-')
    whole = sum(all(x==y for x, y in zip(s, t) if '-' not in (x, y)) for s, t in zip(ours, theirs))
    only = f'{((a!="-") & (b=="-")).sum()} / {((a=="-") & (b!="-")).sum()}'
    print(f'| {name} | {len(ours)} | {both.sum():,} | {100*(a==b)[both].mean():.3f} | {(a!=b)[both].sum():,} | {whole} | {only} |')

def confusion(ours, theirs, letters='HGIEBTSC'):
    a, b = (np.array(list(''.join(x))) for x in (ours, theirs))
    print(f'\n| reference | {" | ".join(letters)} | agree, % |\n|---|{"---|"*(len(letters)+1)}')
    for y in letters:
        row = [int(((a==x) & (b==y)).sum()) for x in letters]
        print(f'| {y} | {" | ".join(f"{x:,}" for x in row)} | {100*row[letters.index(y)]/max(sum(row), 1):.1f} |')

def speed(chains, repeats=3):
    n = sum(int(c.resolved.sum()) for c in chains)
    for t in map(load_tokenizer, ('3di', 'pb', 'ss8')):
        t.encode(chains[0])
        best = np.inf
        for _ in range(repeats):
            start = time.process_time()
            for c in chains: t.encode(c)
            best = min(best, time.process_time()-start)
        yield f'{t.name} {n/best:,.0f}'

def store(file, program):
    "What two programs say about some carried chains, among them those with gaps"
    from biotite.application.localapp import get_version
    chains = [c for c in example_chains() if not c.resolved.all()] + example_chains('valid')[:16] + [example_chain('1UBI')]
    ref = {f'PBxplore {version("pbxplore")}': {c.id: by_pbxplore(c) for c in chains},
        f'mkdssp {".".join(map(str, get_version(program)))}': {c.id: by_mkdssp(c, program) for c in chains}}
    Path(file).write_text(json.dumps(ref, indent=0) + '\n')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('source', nargs='?')
    for name, default in (('chains', 300), ('seed', 0)): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--mkdssp', default='mkdssp')
    p.add_argument('--store')
    a = p.parse_args()
    warnings.simplefilter('ignore')
    if a.store: return store(a.store, a.mkdssp)
    chains = sample(a.source, a.chains, a.seed)
    text = {k: [load_tokenizer(k).text(c) for c in chains] for k in ('3di', 'pb', 'ss8')}
    loose = sum(int((c.resolved[:-1] & c.resolved[1:] & ~bonded(c)).sum()) for c in chains)
    inside = sum(int((~c.resolved).sum()) for c in chains)
    print(f'{len(chains)} chains, {sum(map(len, chains)):,} residues, {inside:,} of them unresolved, {loose:,} broken bonds between resolved residues\n')
    print('| tokens and reference | chains | compared | agree, % | differ | chains without difference | only here / only there |\n|---|---|---|---|---|---|---|')
    for k, module, fn in (('3di', 'mini3di', by_mini3di), ('pb', 'pbxplore', by_pbxplore)):
        if find_spec(module): compare(f'{k}, {module} {version(module)}', text[k], [fn(c) for c in chains])
        else: print(f'| {k}: {module} is not installed |')
    known = [(s, c.annotations['dssp']) for s, c in zip(text['ss8'], chains) if c.annotations.get('dssp')]
    if known:
        ours, theirs = zip(*known)
        compare('ss8, DSSP strings of the pack', ours, theirs)
        compare('… three states', [s.translate(Q3) for s in ours], [s.translate(Q3) for s in theirs])
    if shutil.which(a.mkdssp):
        alone = [by_mkdssp(c, a.mkdssp) if c.resolved.any() else '-'*len(c) for c in chains]
        compare('ss8, mkdssp on the same chain', text['ss8'], alone)
        compare('… three states', *([s.translate(Q3) for s in x] for x in (text['ss8'], alone)))
        if known: compare('mkdssp on the same chain, DSSP strings of the pack', [s for s, c in zip(alone, chains) if c.annotations.get('dssp')], theirs)
    else: print('| ss8: mkdssp is not installed |')
    if known: confusion(ours, theirs)
    print('\nresolved residues per CPU second:', ', '.join(speed(chains)))

if __name__ == '__main__': main()
