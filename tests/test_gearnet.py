"""GearNet-Edge against a slow program of plain loops, and against torchdrug's own numbers"""
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from against_torchdrug import CHAINS, CONFIGS, weights

from sa_toolkit import gearnet
from sa_toolkit.core import asset, example_chain
from sa_toolkit.gearnet import GearNetEdge, chain_edges, chain_graph, line_graph, load_checkpoint, load_gearnet, residue_graph
from sa_toolkit.hub import KNOWN, Weights
from sa_toolkit.structure import read_chains

HERE = Path(__file__).parent
ORDER = 'G A S P V T C I L N D Q K E M H F R Y W'.split()


def part(chain, keep): return replace(chain, coords=np.where(keep[:, None, None], chain.coords, np.float32('nan')))


def only(chain, *ks): return part(chain, np.isin(np.arange(len(chain)), ks))


def crowd(): # 60 residues in a ball in which everybody is within 10 Å of more than 33
    chain = only(example_chain('1UBI'), *range(60))
    return replace(chain, coords=np.where(np.isnan(chain.coords), chain.coords, 2*np.random.default_rng(0).normal(size=(76, 1, 3)).astype(np.float32)))


@pytest.fixture(scope='module')
def chains():
    ubi, gaps, (tail,) = example_chain('1UBI'), example_chain('2XHE_B'), read_chains(HERE/'data'/'structures'/'3jqh.bcif.gz')
    ten = only(ubi, *range(10)) # so few that all are among the nearest: which of two equals would be is nobody's business
    twice = replace(ten, coords=np.where(np.arange(76)[:, None, None] == 9, ubi.coords[2], ten.coords))
    return dict(gaps=gaps, tail=tail, ubi=replace(ubi, sequence=ubi.sequence[:9]+'XUB'+ubi.sequence[12:]), two=only(ubi, 30, 31), apart=only(ubi, 30, 35),
        near=only(ubi, 30, 33), one=only(ubi, 5), crowd=crowd(), same_point=twice)


def inputs(chain): # Cα, positions and letters of resolved residues, in plain Python
    seen = np.flatnonzero(chain.resolved).tolist()
    return chain.coords[seen, 1].astype(float), seen, [chain.sequence[k] for k in seen]


def slow_edges(ca, position):
    "Every pair of residues looked at, one at a time"
    edges = []
    for t in range(len(ca)):
        d = [math.dist(ca[s], ca[t]) for s in range(len(ca))]
        within = [s for s in range(len(ca)) if d[s] < 10][:33]
        nearest = sorted(range(len(ca)), key=lambda s: d[s])[:11]
        for s in range(len(ca)):
            offset = position[t] - position[s]
            if abs(offset) <= 2: edges.append((s, t, offset+2))
            if abs(offset) >= 5 and d[s] > 1e-10: edges += [(s, t, r) for r, found in ((5, within), (6, nearest)) if s in found]
    return edges


def slow_features(ca, position, letters, edges):
    rows = []
    for s, t, r in edges:
        row = [0.]*59
        row[ORDER.index(letters[s]) if letters[s] in ORDER else 0] = 1
        row[20 + (ORDER.index(letters[t]) if letters[t] in ORDER else 0)] = 1
        row[40 + r] = 1
        row[47 + min(abs(position[s]-position[t]), 10)] = 1
        row[58] = math.dist(ca[s], ca[t])
        rows.append(row)
    return np.array(rows)


def slow_lines(ca, edges): # (edge that is heard, edge that hears, angle)
    ending, lines = defaultdict(list), []
    for i, (_, t, _) in enumerate(edges): ending[t].append(i)
    for j, (b, c, _) in enumerate(edges):
        for i in ending[b]:
            u, v = ca[c]-ca[b], ca[edges[i][0]]-ca[b]
            lengths = math.hypot(*u)*math.hypot(*v)
            angle = math.acos(max(-1., min(1., float(u@v)/lengths))) if lengths else 0.
            lines.append((i, j, min(int(8*angle/math.pi), 7)))
    return lines


def slow_norm(p, name, x):
    return (x-p[f'{name}.running_mean'])/np.sqrt(p[f'{name}.running_var']+1e-5)*p[f'{name}.weight'] + p[f'{name}.bias']


def slow_sums(x, edges, n, relations):
    sums = np.zeros((n, relations, x.shape[1]))
    for s, t, r in edges: sums[t, r] += x[s]
    return sums.reshape(n, -1)


def slow_linear(p, name, x): return x@p[f'{name}.weight'].T + p[f'{name}.bias']


def slow_conv(p, name, x, edges, relations):
    y = slow_linear(p, f'{name}.linear', slow_sums(x, edges, len(x), relations)) + slow_linear(p, f'{name}.self_loop', x)
    return np.maximum(slow_norm(p, f'{name}.batch_norm', y), 0)


def slow_gearnet(p, layers, ca, position, letters):
    "The network in float64, edge by edge"
    edges = slow_edges(ca, position)
    lines, e = slow_lines(ca, edges), slow_features(ca, position, letters, edges)
    h, out = np.array([[float(a == b) for b in ORDER] + [float(a not in ORDER)] for a in letters]), []
    ends = [(i, t, r) for i, (_, t, r) in enumerate(edges)]
    for k in range(layers):
        new = slow_conv(p, f'layers.{k}', h, edges, 7)
        if new.shape == h.shape: new = new + h
        e = slow_conv(p, f'edge_layers.{k}', e, lines, 8)
        new = new + np.maximum(slow_linear(p, f'layers.{k}.linear', slow_sums(e, ends, len(h), 7)), 0)
        h = slow_norm(p, f'batch_norms.{k}', new)
        out.append(h)
    return np.concatenate(out, 1)


def made(hidden, layers, every=1, dtype=torch.float64): # our network at the weights of `against_torchdrug.py`, and these
    net = GearNetEdge(hidden, layers).eval().requires_grad_(False).to(dtype)
    p = weights({k: tuple(v.shape) for k, v in net.state_dict().items()})
    net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in p.items()}, strict=True)
    return net, p


@pytest.mark.parametrize('name', ['gaps', 'tail', 'ubi', 'two', 'apart', 'near', 'one', 'crowd', 'same_point'])
def test_graphs_agree_with_loops_edge_by_edge(chains, name):
    chain = chains[name]
    ca, position, letters = inputs(chain)
    graph, slow = chain_graph([chain], dtype=torch.float64), slow_edges(ca, position)
    edges = [tuple(e) for e in graph.edges.tolist()]
    assert sorted(edges) == sorted(slow) and len(set(edges)) == len(edges)
    assert np.allclose(graph.features, slow_features(ca, position, letters, edges), atol=1e-6)
    assert graph.nodes.argmax(1).tolist() == [ORDER.index(a) if a in ORDER else 20 for a in letters] and (graph.nodes.sum(1) == 1).all()
    line = line_graph(graph)
    joins = defaultdict(list)
    for i, p in enumerate(line.pair.tolist()): joins[p].append(i)
    ours = [(i, j, a) for s, t, a in zip(line.heard.tolist(), line.hears.tolist(), line.angle.tolist(), strict=True) for i in joins[s] for j in joins[t]]
    assert sorted(ours) == sorted(slow_lines(ca, edges)) and len(joins) == line.pairs


def test_the_graphs_hold_what_they_should(chains):
    kinds = {k: np.bincount(chain_graph([c]).edges[:, 2], minlength=7).tolist() for k, c in chains.items()}
    assert kinds['two'] == [0, 1, 2, 1, 0, 0, 0] and kinds['one'] == [0, 0, 1, 0, 0, 0, 0] and kinds['near'] == [0, 0, 2, 0, 0, 0, 0]
    assert kinds['apart'][2] == kinds['apart'][6] == 2 and kinds['apart'][5] in (0, 2)
    assert kinds['gaps'][1] == kinds['gaps'][3] == 220-1-2 # one chain of three pieces
    ca, position, _ = inputs(chains['crowd'])
    source, target, relation = chain_edges(torch.from_numpy(ca), torch.tensor(position)).T
    assert all((np.linalg.norm(ca-x, axis=1) < 10).sum() > 33 for x in ca)
    assert target[relation == 5].bincount().max() <= 33 and source[relation == 5].max() < 45 # the first that are met, not the nearest


def test_chains_of_a_batch_share_no_edge(chains):
    cs = list(chains.values())
    together, start = chain_graph(cs), 0
    owner = np.repeat(np.arange(len(cs)), [c.resolved.sum() for c in cs])
    assert (owner[together.edges[:, 0]] == owner[together.edges[:, 1]]).all()
    for k, c in enumerate(cs):
        alone, mine = chain_graph([c]), owner[together.edges[:, 0]] == k
        assert torch.equal(together.edges[mine]-torch.tensor([start, start, 0]), alone.edges) and torch.equal(together.features[mine], alone.features)
        start += len(alone.ca)


@pytest.mark.parametrize('name', ['gaps', 'tail', 'ubi', 'two', 'apart', 'one', 'same_point'])
def test_states_agree_with_loops(chains, name):
    net, p = made(8, 3)
    ours, theirs = net.states([chains[name]]).numpy(), slow_gearnet(p, 3, *inputs(chains[name]))
    assert ours.shape == theirs.shape == (chains[name].resolved.sum(), 24) and theirs.std() > .1
    assert np.abs(ours-theirs).max() < 1e-9


def test_the_full_network_agrees_with_loops(chains):
    net, p = made(512, 6)
    for chain in (chains['two'], only(chains['ubi'], *range(4, 9), *range(40, 47))):
        ours, theirs = net.states([chain]).numpy(), slow_gearnet(p, 6, *inputs(chain))
        assert np.abs(ours-theirs).max() < 1e-5 and theirs.std() > .1 and ours.shape[1] == 3072


def test_company_and_order_change_nothing(chains):
    net, _ = made(16, 3)
    cs = list(chains.values())
    alone = [net.encode([c])[0] for c in cs]
    for budget in (1, 200, 10**6):
        assert all(np.allclose(a, b, atol=1e-6, equal_nan=True) for a, b in zip(alone, net.encode(cs, budget), strict=True))
    assert all(np.allclose(a, b, atol=1e-6, equal_nan=True) for a, b in zip(alone, net.encode(cs[::-1])[::-1], strict=True))
    assert all((np.isfinite(a).all(1) == c.resolved).all() for a, c in zip(alone, cs, strict=True))


def test_gradients_reach_every_parameter_and_are_right(chains):
    net, _ = made(8, 3)
    net.requires_grad_(True)
    graph = chain_graph([chains['tail']], dtype=torch.float64)
    net(graph).square().mean().backward()
    grads = {k: p.grad for k, p in net.named_parameters()}
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values())
    with torch.no_grad():
        for k in ('layers.1.linear.weight', 'edge_layers.1.linear.weight', 'edge_layers.2.self_loop.bias'):
            p, step, at = dict(net.named_parameters())[k], 1e-6, []
            p.view(-1)[3] += step
            at.append(net(graph).square().mean())
            p.view(-1)[3] -= 2*step
            at.append(net(graph).square().mean())
            p.view(-1)[3] += step
            assert float((at[0]-at[1])/(2*step)) == pytest.approx(float(grads[k].view(-1)[3]), rel=1e-4, abs=1e-9)


def test_half_precision_keeps_the_graph(chains):
    net, _ = made(32, 3, dtype=torch.float32)
    full, half = net.encode([chains['gaps']])[0], net.bfloat16().encode([chains['gaps']])[0]
    seen = chains['gaps'].resolved
    assert np.linalg.norm((half-full)[seen])/np.linalg.norm(full[seen]) < .02


# --- torchdrug itself ---------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def reference():
    z = np.load(HERE/'data'/'gearnet_reference.npz')
    about = json.loads(str(z['about']))
    assert about['versions']['torchdrug'] == '0.2.1' and about['chains'] == CHAINS and about['configs'] == CONFIGS
    return z, about


def as_torchdrug_sees(name): # gaps closed up, one residue unknown
    ca, _, letters = inputs(example_chain(name))
    if CHAINS[name] is not None: letters[CHAINS[name]] = 'X'
    kind = torch.tensor([ORDER.index(a) if a in ORDER else 20 for a in letters])
    return residue_graph(torch.from_numpy(ca).float(), torch.arange(len(ca)), kind, [len(ca)])


def test_names_shapes_and_count_are_torchdrugs(reference):
    for kind, config in CONFIGS.items():
        net = GearNetEdge(config['hidden'], config['layers'])
        assert {k: list(v.shape) for k, v in net.state_dict().items()} == reference[1]['shapes'][kind]
    assert sum(p.numel() for p in net.parameters()) == 20_145_635 and net.dim == 3072 and GearNetEdge(concat=False).dim == 512


@pytest.mark.parametrize('name', [c for c in CHAINS if c != '5EID_A'])
def test_graphs_are_torchdrugs(reference, name):
    z, graph = reference[0], as_torchdrug_sees(name)
    order = np.lexsort(graph.edges.numpy().T[::-1])
    hot = np.unpackbits(z[f'{name}/hot'], 1)[:, :58]
    assert np.array_equal(graph.edges[order], z[f'{name}/edges'])
    assert np.array_equal(graph.features[order, :58], hot) and np.allclose(graph.features[order, 58], z[f'{name}/distance'], atol=1e-5)
    assert np.array_equal(graph.nodes, np.unpackbits(z[f'{name}/nodes'], 1)[:, :21])
    line = line_graph(graph)
    edges_of = line.pair.bincount()
    per = torch.zeros(line.pairs, 8, dtype=torch.long).index_put_((line.hears, line.angle), edges_of[line.heard], accumulate=True)[line.pair]
    assert np.array_equal(per[order], z[f'{name}/angles'])


def test_only_a_full_radius_graph_differs_from_torchdrug_on_a_cpu(reference):
    "Of 5EID_A two residues have more than 33 within 10 Å, themselves among them; torch_cluster takes others on a CPU than on a GPU"
    theirs, graph = {tuple(e) for e in reference[0]['5EID_A/edges'].tolist()}, as_torchdrug_sees('5EID_A')
    ours, near = {tuple(e) for e in graph.edges.tolist()}, (torch.cdist(graph.ca, graph.ca) < 10).sum(1)
    full = set((near > 33).nonzero()[:, 0].tolist())
    assert len(full) == 2 and {(t, r) for _, t, r in ours ^ theirs} <= {(t, 5) for t in full}


@pytest.mark.parametrize('kind, name', [('small', '1UBI_A'), ('small', '2XHE_B'), ('small', '3CA7_A'), ('full', '1UBI_A')])
def test_states_are_torchdrugs(reference, kind, name):
    net, _ = made(**CONFIGS[kind], dtype=torch.float32)
    ours, theirs = net(as_torchdrug_sees(name)).numpy(), reference[0][f'{name}/{kind}']
    assert np.abs(ours[:, ::CONFIGS[kind]['every']]-theirs).max() < 1e-5*np.abs(theirs).max() and theirs.std() > .1
    net.concat = False
    assert np.array_equal(net(as_torchdrug_sees(name)), ours[:, -CONFIGS[kind]['hidden']:])


# --- loading ------------------------------------------------------------------------------------------------------------------------------------------

def test_files_are_fetched_by_name(tmp_path, monkeypatch):
    asked, state = [], load_gearnet(pretrained=False, seed=3).state_dict()
    torch.save(state, tmp_path/'x.pth')
    monkeypatch.setattr(gearnet, 'find_weights', lambda name: asked.append(name) or Weights(name, str(tmp_path/'x.pth'), 'file', 'CC-BY-4.0', 'abc'))
    for name in ('gearnet-edge', 'gearnet-edge-dihedral-512'):
        net = load_gearnet(name)
        assert net.name == name and net.weights.revision == 'abc' and 'had not been loaded' in str(net.weights)
    assert asked == ['gearnet-edge-mc', 'gearnet-edge-dihedral'] and net.weights.name == 'GearNet-Edge, dihedral prediction'
    assert net.dim == 512 and not any(p.requires_grad for p in net.parameters()) and all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert {KNOWN[f'gearnet-edge-{k}'].repo for k in ('mc', 'attr', 'distance', 'angle', 'dihedral')} == {
        f'https://zenodo.org/records/7593637/files/{k}_gearnet_edge.pth' for k in ('mc', 'attr', 'distance', 'angle', 'dihedral')}


def test_every_name_of_a_checkpoint_counts(tmp_path):
    def refused(state, say):
        torch.save(state, tmp_path/'x.pth')
        with pytest.raises(ValueError, match=f'x.pth is not a GearNet-Edge checkpoint: it {say}'): load_checkpoint(GearNetEdge(8, 2), tmp_path/'x.pth')
    state = GearNetEdge(8, 2).state_dict()
    refused({k: v for k, v in state.items() if k != 'batch_norms.1.running_var'}, r'lacks batch_norms\.\*\. Pass a published file')
    refused(state | {'mlp.0.weight': torch.ones(1)}, r'holds besides mlp\.\*\.')
    refused({f'model.{k}': v for k, v in state.items()}, r'lacks batch_norms.*; it holds besides model\.batch_norms\.\*, ')
    refused(GearNetEdge(8, 3).state_dict(), r'holds besides batch_norms\.\*, ')
    with pytest.raises(FileNotFoundError, match='is not a file. Pass the file from https'): load_gearnet(file=tmp_path/'none.pth')
    with pytest.raises(ValueError, match='cannot be read as weights'): load_gearnet(file=asset('chains.npz'))
