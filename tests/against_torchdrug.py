"""Graphs and outputs of GearNet-Edge from torchdrug 0.2.1 itself, as `tests/data/gearnet_reference.npz`.

    python tests/against_torchdrug.py sa_toolkit/assets/chains.npz tests/data/gearnet_reference.npz

torchdrug (https://torchdrug.ai, Apache-2.0) shares no code with this project and stops at Python 3.10, so this script imports neither the project nor
anything that the project needs. It was run with Python 3.9.18 on a CPU, with

    pip install --no-deps torch==1.12.1
    pip install 'numpy<2' scipy networkx decorator jinja2 tqdm ninja easydict pyyaml pillow six typing_extensions 'setuptools<70' wheel
    FORCE_ONLY_CPU=1 pip install --no-deps --no-build-isolation torch-scatter==2.1.0 torch-cluster==1.6.0
    pip install rdkit-pypi==2022.9.5 matplotlib lmdb 'numpy<2' && pip install --no-deps fair-esm torchdrug==0.2.1

(of torch-cluster only its extensions for radius and nearest neighbours were compiled, and imported). Chains are written as PDB files and read by
torchdrug. It closes the gaps of a chain up, so what is compared on a chain with gaps counts positions as torchdrug does. One residue is written as UNK.
Weights are random, but the same everywhere: `weights` draws them from NumPy's legacy generator, whose stream never changes.
"""
import json
import sys
import tempfile

import numpy as np

CHAINS = {'1UBI_A': 10, '2XHE_B': None, '3CA7_A': None, '5EID_A': None} # a chain and which of its residues is unknown
CONFIGS = {'small': dict(hidden=32, layers=3, every=1), 'full': dict(hidden=512, layers=6, every=32)} # every: channels that are stored
NAMES = dict(zip('ARNDCQEGHILKMFPSTWYVX', 'ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL UNK'.split()))


def weights(
    shapes, # name → shape, of a state dictionary
    seed=0,
): # name → float64 array; sums over neighbours keep the size of the states
    "Random weights that do not depend on versions"
    r, out = np.random.RandomState(seed), {}
    for k, s in sorted(shapes.items()):
        if k.endswith('num_batches_tracked'): out[k] = np.zeros(s, np.int64)
        elif len(s) == 2: out[k] = r.standard_normal(s)/np.sqrt(10*s[1])
        elif k.endswith('running_var') or 'norm' in k and k.endswith('weight'): out[k] = .5 + r.random_sample(s)
        else: out[k] = .1*r.standard_normal(s)
    return out


def chain(z, name): # sequence, (R,4,3) coordinates of the residues that are resolved, in Å
    i, unknown = 0, CHAINS[name]
    for m in json.loads(str(z['meta'])):
        n = m['length']
        if m['id'] == name: break
        i += n
    seq, x = str(z['sequence'])[i:i+n], z['coords'][i:i+n]
    seen = (x != np.iinfo(np.int32).min).all((1, 2))
    seq = ''.join('X' if k == unknown else a for k, a in enumerate(seq))
    return ''.join(a for a, s in zip(seq, seen) if s), x[seen]/1000


def pdb(seq, x): # lines of a PDB file
    for i, (a, r) in enumerate(zip(seq, x)):
        for j, (name, p) in enumerate(zip(('N', 'CA', 'C', 'O'), r)):
            yield f'ATOM  {4*i+j+1:5d}  {name:<3s} {NAMES[a]} A{i+1:4d}    {p[0]:8.3f}{p[1]:8.3f}{p[2]:8.3f}  1.00  0.00           {name[0]}  '
    yield 'END'


def graph(seq, x): # torchdrug's graph of a chain
    from torchdrug import data, layers
    from torchdrug.layers import geometry
    with tempfile.NamedTemporaryFile('w', suffix='.pdb') as f:
        f.write('\n'.join(pdb(seq, x)) + '\n')
        f.flush()
        protein = data.Protein.from_pdb(f.name, atom_feature=None, bond_feature=None)
    protein.view = 'residue'
    build = layers.GraphConstruction(node_layers=[geometry.AlphaCarbonNode()], edge_feature='gearnet', edge_layers=[
        geometry.SequentialEdge(max_distance=2), geometry.SpatialEdge(radius=10., min_distance=5), geometry.KNNEdge(k=10, min_distance=5)])
    return build(data.Protein.pack([protein]))


def network(hidden, layers, every=1): # torchdrug's network at our weights
    import torch
    from torchdrug import models
    net = models.GearNet(input_dim=21, hidden_dims=[hidden]*layers, batch_norm=True, concat_hidden=True, short_cut=True, readout='sum', num_relation=7,
        edge_input_dim=59, num_angle_bin=8).eval()
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in weights(shapes).items()}, strict=True)
    return net, shapes


def main(source, target):
    import torch
    import torch_cluster
    import torch_scatter
    import torchdrug
    z, out, lists = np.load(source), {}, {}
    nets = {k: network(**c) for k, c in CONFIGS.items()}
    for name in CHAINS:
        seq, x = chain(z, name)
        g = graph(seq, x)
        assert g.num_node == len(seq) == len(x), (name, g.num_node, len(x))
        edges, features, nodes = g.edge_list.numpy(), g.edge_feature.numpy(), g.node_feature.numpy()
        order = np.lexsort(edges.T[::-1])
        hot = features[order, :58].astype(bool)
        assert (hot == features[order, :58]).all() and (nodes == nodes.astype(bool)).all()
        out.update({f'{name}/edges': edges[order].astype(np.int16), f'{name}/hot': np.packbits(hot, 1), f'{name}/distance': features[order, 58],
            f'{name}/nodes': np.packbits(nodes.astype(bool), 1)})
        line = nets['small'][0].spatial_line_graph(g).edge_list.numpy()
        out[f'{name}/angles'] = np.stack([np.bincount(line[line[:, 2] == k, 1], minlength=len(edges))[order] for k in range(8)], 1).astype(np.uint8)
        for kind, (net, _) in nets.items():
            with torch.no_grad(): out[f'{name}/{kind}'] = net(g, g.node_feature.float())['node_feature'].numpy()[:, ::CONFIGS[kind]['every']]
    lists = {k: {n: list(s) for n, s in shapes.items()} for k, (_, shapes) in nets.items()}
    versions = dict(python=sys.version.split()[0], torch=torch.__version__, torch_scatter=torch_scatter.__version__, torch_cluster=torch_cluster.__version__,
        torchdrug=torchdrug.__version__, numpy=np.__version__)
    np.savez_compressed(target, about=np.array(json.dumps(dict(versions=versions, chains=CHAINS, configs=CONFIGS, shapes=lists))), **out)
    print(versions, {k: (v.shape, float(np.abs(v).max())) for k, v in out.items()})


if __name__ == '__main__': main(*sys.argv[1:])
