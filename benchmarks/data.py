"""Speed of reading structures, of writing a dataset and of reading it back, in one run; prints a table.

    python benchmarks/data.py FOLDER [--repeats 3] [--pack CHAINS.npz]

FOLDER holds mmCIF, BinaryCIF and PDB files. The yardstick is biotite parsing the same files, one after the other in one process: read and
`get_structure`, no audit, nothing written. Both sides take turns. `--pack` adds a dataset made of a pack of chains: how memory grows with its size.
"""
import argparse
import gzip
import io
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from common import clock

from sa_toolkit.build import build_shard
from sa_toolkit.plan import Recipe, plan, shares
from sa_toolkit.prepare import finish
from sa_toolkit.shards import open_dataset
from sa_toolkit.structure import read_chains

def bare(path):
    "What biotite needs for the atoms of the first model"
    import biotite.structure.io.pdb as pdb
    import biotite.structure.io.pdbx as pdbx
    raw = Path(path).read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b'\x1f\x8b' else raw
    name = Path(path).name.removesuffix('.gz')
    if name.endswith('.bcif'): return pdbx.get_structure(pdbx.BinaryCIFFile.read(io.BytesIO(raw)), model=1)
    if name.endswith('.cif'): return pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(raw.decode())), model=1)
    return pdb.PDBFile.read(io.StringIO(raw.decode('utf-8', 'replace'))).get_structure(model=1)

def usable(files):
    "Files that both sides can read, so that neither is paid for giving up early"
    def ok(fn, f):
        try: return bool(fn(f))
        except Exception: return False
    return [f for f in files if ok(lambda f: len(bare(f)), f) and ok(read_chains, f)]

def stages(files, work, repeats):
    "Seconds of bare parsing, of reading, and of datasets without and with tokens and states"
    (p, root), out = plan(files, Recipe()), work/'ds'
    def dataset(**kw):
        shutil.rmtree(out, ignore_errors=True)
        for name, items in shares(p).items(): build_shard(out, root, Recipe(**kw), name, items)
    def split(): finish(out, p)
    fns = [lambda: [bare(f) for f in files], lambda: [read_chains(f) for f in files], lambda: dataset(tokens='', pgnn=''), lambda: dataset(pgnn=''), dataset, split]
    return clock(fns, repeats), out

def by_format(files):
    "Reading + audit against bare parsing, kind by kind"
    kinds = {}
    for f in files: kinds.setdefault(f.name.removesuffix('.gz').rsplit('.')[-1].replace('ent', 'pdb'), []).append(f)
    for k, some in sorted(kinds.items()):
        a, b = clock([lambda s=some: [bare(f) for f in s], lambda s=some: [read_chains(f) for f in s]], 2)
        yield f'{k} ({len(some)} files) {a/b:.2f}'

def reading(out, epochs=5):
    "MB/s of a dataset's arrays in random order, warm: examples, and arrays alone"
    ds, rng = open_dataset(out), np.random.default_rng(0)
    size = sum(a.nbytes for i in range(len(ds)) for a in ds.arrays(i).values())
    def go(get):
        t = time.perf_counter()
        for _ in range(epochs):
            for i in rng.permutation(len(ds)): get(int(i))
        return epochs*size/1e6/(time.perf_counter()-t)
    def example(i):
        e = ds[i]
        return e.tokens, [x.copy() for x in (e.chain.coords, e.chain.cb, e.chain.confidence, e.g)]
    arrays = lambda i: [a.copy() for a in ds.arrays(i).values()]
    go(arrays) # fill the cache
    return go(example), go(arrays)

_child = """import resource, sys
from sa_toolkit.core import load_chains
from sa_toolkit.plan import Recipe
from sa_toolkit.prepare import prepare
import sa_toolkit.prepare as p
whole = p.plan
def some(source, recipe):
    pl, root = whole(source, recipe)
    n = int(sys.argv[3])
    return pl | dict(inputs=pl['inputs'][:n], bytes=pl['bytes'][:n]), root
p.plan = some
prepare(sys.argv[1], sys.argv[2], Recipe(pgnn=''), workers=1, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
"""

def memory(pack, work, sizes=(500, 2000, 8000)):
    "Peak memory, MB, of building datasets of growing size out of one pack"
    run = lambda n: subprocess.run([sys.executable, '-c', _child, pack, str(work/f'm{n}'), str(n)], capture_output=True, text=True, check=True)
    return {n: int(run(n).stdout) for n in sizes}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder')
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--pack')
    a = p.parse_args()
    warnings.simplefilter('ignore')
    files = usable(sorted(f for f in Path(a.folder).rglob('*') if f.is_file() and not f.name.endswith(('.csv', '.md', '.txt'))))
    with tempfile.TemporaryDirectory() as d:
        (parse, read, write, tokens, states, split), out = stages(files, Path(d), a.repeats)
        ds, (examples, arrays) = open_dataset(out), reading(out)
        n, residues = len(files), int(ds.lengths.sum())
        print(f'{n} files, {len(ds):,} chains, {residues:,} residues, one process\n\n| what | ms per file | against bare parsing |\n|---|---|---|')
        for what, t in (('bare biotite parsing', parse), ('read + audit', read), ('read + audit + write', write), ('… + 3Di', tokens), ('… + 3Di + ProteinMPNN', states)):
            print(f'| {what} | {1000*t/n:.1f} | {parse/t:.2f} |')
        print('\nread + audit against bare parsing, by format:', ', '.join(by_format(files)))
        print(f'\nclusters, split and manifest: {split:.2f} s\nreading back, warm, random order: {examples:,.0f} MB/s as examples, {arrays:,.0f} MB/s as arrays')
        if a.pack: print('peak memory by number of chains:', ', '.join(f'{k:,}: {v:,} MB' for k, v in memory(a.pack, Path(d)).items()))

if __name__ == '__main__': main()
