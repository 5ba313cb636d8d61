"What every structure encoder owes its callers, and what a checkpoint may be"
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sa_toolkit.core import asset, example_chain, example_chains
from sa_toolkit.encoders import random_encoder
from sa_toolkit.mpnn import load_mpnn, read_checkpoint
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.saprot import SaProtEncoder, untrained

NAMES = 'proteinmpnn', 'proteinmpnn-ca', 'gearnet-edge', 'saprot-tiny'

def make(name, seed=0):
    "An encoder at random weights; SaProt in miniature, for its size changes nothing here"
    if name != 'saprot-tiny': return load_pgnn(name, pretrained=False, seed=seed)
    return random_encoder(lambda: SaProtEncoder(untrained(32, 2, 4)), name, seed)

@pytest.fixture(scope='module')
def chains():
    "Unlike in length; gaps, fewer residues than neighbours, one residue, none at all"
    ubi, gappy = example_chain('1UBI'), example_chain('2XHE_B')
    cut = lambda n: replace(ubi, id=f'first {n}', sequence=ubi.sequence[:n], coords=ubi.coords[:n], cb=ubi.cb[:n], cb_virtual=ubi.cb_virtual[:n], confidence=ubi.confidence[:n])
    dark = replace(ubi, id='dark', coords=np.full_like(ubi.coords, np.nan), cb=np.full_like(ubi.cb, np.nan))
    return [cut(20), gappy, dark, cut(1), ubi, example_chains('valid')[0]]

@pytest.mark.parametrize('name', NAMES)
def test_company_changes_nothing(chains, name):
    enc = make(name)
    alone = [enc.encode([c])[0] for c in chains]
    for c, g in zip(chains, alone): assert g.dtype == np.float32 and g.shape == (len(c), enc.dim) and (np.isfinite(g).all(1) == c.resolved).all() and (np.isnan(g).all(1) == ~c.resolved).all()
    for order, budget in ((list(range(6)), None), ([5, 3, 1, 0, 2, 4], 100)):
        for k, g in zip(order, enc.encode([chains[k] for k in order], budget)): assert np.allclose(g, alone[k], atol=2e-5, equal_nan=True), (chains[k].id, order)

@pytest.mark.parametrize('name', NAMES)
def test_random_weights_are_those_of_the_seed(chains, name):
    a, b, c = (make(name, s).encode(chains[-2:-1])[0] for s in (0, 0, 1))
    assert np.array_equal(a, b) and np.abs(a-c).max() > 1e-3

def test_random_weights_are_a_different_network():
    for name in NAMES[:2]:
        a, b = (load_pgnn(name, pretrained=p).encode([example_chain()])[0] for p in (True, False))
        assert np.abs(a-b).max() > .1

@pytest.mark.parametrize('name', NAMES[:2])
def test_memory_grows_with_residues_not_their_square(name):
    "All pairs of five atoms of 1,500 residues would take 225 MB"
    ubi, enc = example_chain('1UBI'), load_pgnn(name)
    x = np.concatenate([ubi.coords + 40*k for k in range(20)])
    long = replace(ubi, sequence=ubi.sequence*20, coords=x.astype(np.float32))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof: g, = enc.encode([long])
    largest = max(e.cpu_memory_usage for e in prof.events())
    edges = len(long)*48*128*4
    assert np.isfinite(g).all() and largest < edges/2, f'one step holds {largest/1e6:.0f} MB; the edges themselves {edges/1e6:.0f} MB'

@pytest.mark.parametrize('name', NAMES[:2])
def test_blocks_change_nothing(chains, name):
    enc = load_pgnn(name)
    ref = enc.encode(chains)
    for size in (7, 10**6):
        enc.block = size, size
        assert all(np.allclose(a, b, atol=1e-5, equal_nan=True) for a, b in zip(enc.encode(chains), ref))

def test_a_published_file_may_have_less_noise_and_fewer_neighbours(tmp_path):
    "The published form: a pickle that holds the whole model"
    state, facts = read_checkpoint(asset('proteinmpnn_ca_v_48_020.safetensors'))
    assert facts['noise_level'] == '0.2' and facts['member'] == 'proteinmpnn/data/ca_model_weights/v_48_020.pt'
    whole = state | {'W_v.weight': torch.zeros(128, 128), 'features.norm_nodes.bias': torch.zeros(128), 'decoder_layers.0.W1.weight': torch.zeros(2, 2), 'W_out.bias': torch.zeros(21)}
    torch.save(dict(model_state_dict=whole, num_edges=24, noise_level=.02), tmp_path/'v_24_002.pt')
    enc = load_mpnn('proteinmpnn-ca', file=tmp_path/'v_24_002.pt')
    assert enc.k == 24 and enc.weights.note == 'trained with 0.02 Å of noise on the coordinates, 24 neighbours' and enc.weights.source == 'file'
    a, b = (m.encode([example_chain()])[0] for m in (enc, load_mpnn('proteinmpnn-ca')))
    assert np.isfinite(a).all() and np.abs(a-b).max() > .01
    torch.save(dict(model_state_dict={k: v for k, v in whole.items() if 'W13' not in k}), tmp_path/'cut.pt')
    with pytest.raises(ValueError, match='cut.pt is no checkpoint of proteinmpnn-ca'): load_mpnn('proteinmpnn-ca', file=tmp_path/'cut.pt')

@pytest.mark.parametrize('name', ['proteinmpnn', 'proteinmpnn-ca', 'gearnet-edge'])
def test_a_file_that_is_something_else_is_refused_in_one_sentence(tmp_path, name):
    file = tmp_path/'x.pt'
    def refused(kind=ValueError, path=file):
        with pytest.raises(kind) as e: load_pgnn(f'{name}={path}')
        said = str(e.value)
        assert str(path) in said and '\n' not in said and len(said) < 600 and said.endswith('.') and 'weights_only' not in said, said
    some = b'<html>', pickle.dumps([1]), pickle.dumps(print)
    for data in some if name == 'gearnet-edge' else (*some, b'', b'junk'*30, b'\x80\x02junk', b'PK\x03\x04' + bytes(200), asset('chains.npz').read_bytes()):
        file.write_bytes(data)
        refused()
    if name == 'gearnet-edge': return # slow to build, and read by the same function
    for held in ([1], 3, {}, dict(model_state_dict=[1]), dict(model_state_dict={'a': 1}), dict(state=torch.ones(1)), {1: torch.ones(1)}, torch.nn.Linear(1, 1)):
        torch.save(held, file)
        refused()
    (tmp_path/'x.safetensors').write_bytes(b'junk')
    refused(path=tmp_path/'x.safetensors')
    for path in (tmp_path, tmp_path/'none.pt'): refused(FileNotFoundError, path)

@pytest.mark.parametrize('name', NAMES)
def test_a_callers_autocast_ends_here(name):
    enc, c = make(name), example_chain()
    ref, = enc.encode([c])
    with torch.autocast('cpu', dtype=torch.bfloat16): assert np.array_equal(enc.encode([c])[0], ref)

def test_names_as_people_write_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('sa_toolkit.known._said', set())
    enc = load_pgnn('ProteinMPNN')
    load_pgnn()
    assert enc.name == 'proteinmpnn' and capsys.readouterr().err == f'Using {enc.weights}\n', 'said once'
    net = load_pgnn('gearnet-edge', pretrained=False)
    assert capsys.readouterr().err == ''
    torch.save(net.state_dict(), tmp_path/'mc_gearnet_edge.pth')
    again = load_pgnn(f'GearNet-Edge-512={tmp_path}/mc_gearnet_edge.pth')
    assert again.dim == 512 and again.weights.path == f'{tmp_path}/mc_gearnet_edge.pth' and 'GearNet-Edge, multiview contrast [file' in capsys.readouterr().err
    for name, says in (('esm2-8M', "is a language model: load_plm\\('esm2-8M'\\)"), ('facebook/esm2_t6_8M_UR50D', 'is a language model'), ('saprot-35', 'did you mean saprot-35M'), ('x', "encoder 'x'. There is")):
        with pytest.raises(ValueError, match=says): load_pgnn(name)
    with pytest.raises(ValueError, match='one too many'): load_pgnn('proteinmpnn=a', file='b')

def test_a_pickle_runs_nothing(tmp_path):
    class Touch:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    torch.save(dict(model_state_dict=Touch()), tmp_path/'bad.pt')
    with pytest.raises(ValueError, match='bad.pt is a pickle with more than plain tensors in it, and was not run. Pass'): load_mpnn(file=tmp_path/'bad.pt')
    assert not (tmp_path/'ran').exists()
