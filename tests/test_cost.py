"What a run costs, against the real thing: architectures, FLOP counter, saved tensors, files"
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sa_toolkit import amplify, esm2
from sa_toolkit.core import example_chains
from sa_toolkit.cost import activation_bytes, backward_flops, cost_table, dataset_bytes, forward_flops, run_cost, shape_of
from sa_toolkit.devices import add_lora
from sa_toolkit.plm import load_plm
from sa_toolkit.shards import write_shard
from sa_toolkit.train import Aligner

aten = torch.ops.aten
KERNELS = {aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *a, out_shape=None, **kw: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *a, out_shape=None, **kw: sdpa_backward_flop_count(grad, q, k, v)}

def ids_of(plm, lengths): return plm.tokenize([('ACDEFGHIKLMNPQRSTVWY'*50)[:n] for n in lengths])

def counted(fn):
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as c: out = fn()
    return c.get_total_flops(), out

@pytest.mark.parametrize('name', [*(f'esm2-{s}' for s in ('8M', '35M', '150M', '650M', '3B')), 'amplify-120M', 'amplify-350M'])
def test_parameters_of_the_real_architectures(name):
    s = shape_of(name)
    with torch.device('meta'):
        if s.gated: model = amplify.AMPLIFY(amplify.AmplifyConfig(*amplify.SHAPES[name.split('-')[1]]))
        else:
            from transformers import EsmConfig, EsmForMaskedLM
            h, layers, heads = esm2.SHAPES[name.split('-')[1]]
            model = EsmForMaskedLM(EsmConfig(**esm2.ESM2_8M | dict(hidden_size=h, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4*h)))
    assert sum(p.numel() for p in model.parameters()) == s.parameters

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
@pytest.mark.parametrize('dim', [16, 128])
def test_counted_parameters_are_those_that_train(name, dim):
    plm = load_plm(name, pretrained=False)
    model, found = Aligner(plm, dim), run_cost(name, dim=dim, reference=None).parameters
    assert sum(p.numel() for p in model.parameters()) == found['all']
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == found['trained']

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny'])
def test_lora(name):
    "Its parameters exactly; its FLOPs above the layers' own, which are counted for width 32 where nothing is negligible"
    plm, lengths, s = load_plm(name, pretrained=False).train(), [50, 120], shape_of(name)
    add_lora(plm, 4)
    trained = sum(p.numel() for p in plm.parameters() if p.requires_grad)
    assert trained == run_cost(name, dim=16, reference=None, lora=4).parameters['trained'] - run_cost(name, dim=16, reference=None).parameters['heads']
    forward, h = counted(lambda: plm.states(ids_of(plm, lengths)))
    backward, _ = counted(lambda: h.sum().backward())
    tokens = sum(lengths) + 2*len(lengths)
    f = forward_flops(s, tokens, sum((n+2)**2 for n in lengths)/tokens, 0, 16)
    adapters = 2*tokens*s.layers*4*s.linear_sizes
    assert sum(f.values()) + adapters == pytest.approx(forward, rel=.005)
    assert backward_flops(f, lora=True) + 2*adapters == pytest.approx(backward, rel=.1) # the lowest layer's inputs get no gradient

def kept(model, run):
    "Bytes of what a forward pass keeps, parameters and their casts aside"
    own, shapes, found = {p.data_ptr() for p in model.parameters()}, {tuple(sorted(p.shape)) for p in model.parameters()}, {}
    def see(t):
        if t.data_ptr() not in own and not (t.dtype is torch.bfloat16 and tuple(sorted(t.shape)) in shapes): found[t.untyped_storage().data_ptr()] = t
        return t
    with torch.autograd.graph.saved_tensors_hooks(see, lambda t: t): graph = run()
    assert graph.requires_grad
    return sum(t.untyped_storage().nbytes() for t in found.values())

@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('name', ['esm2-8M', 'amplify-tiny'])
def test_activations(name, precision, recompute):
    plm, lengths, s = load_plm(name, pretrained=False).train(), [90, 130], shape_of(name)
    plm.recompute = recompute
    with torch.autocast('cpu', torch.bfloat16, enabled=precision=='bf16'): found = kept(plm, lambda: plm.states(ids_of(plm, lengths)))
    whole_layer = activation_bytes(s, 224, precision)/s.layers if recompute else 0 # in memory on the way back, not in what is kept
    assert activation_bytes(s, 224, precision, recompute) - whole_layer == pytest.approx(found, rel=.1 if recompute else .05)

def test_moments_and_checkpoint(tmp_path):
    plm = load_plm('esm2-8M', pretrained=False)
    model = Aligner(plm, 128)
    for p in model.parameters(): p.grad = torch.zeros_like(p) if p.requires_grad else None
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    opt.step()
    cost = run_cost('esm2-8M', dim=128, reference=None, devices=1, passes=64)
    moments = sum(v.nbytes for s in opt.state.values() for v in s.values() if v.dim())
    assert moments == cost.memory['moments'] and sum(p.nbytes for p in model.parameters()) == cost.memory['weights']
    torch.save(dict(model=model.state_dict(), opt=opt.state_dict()), tmp_path/'checkpoint.pt')
    assert (tmp_path/'checkpoint.pt').stat().st_size == pytest.approx(cost.disk['a checkpoint'], rel=.01)
    plm.save_pretrained(tmp_path/'model', 'tested', note='random weights')
    assert (tmp_path/'model'/'model.safetensors').stat().st_size == pytest.approx(cost.disk['the model it makes'], rel=.01)

@pytest.mark.parametrize('dim', [0, 128])
def test_shards(tmp_path, dim):
    chains = example_chains()[:8]
    n = sum(map(len, chains))
    zeros = [torch.zeros(len(c), dim).numpy() for c in chains] if dim else None
    write_shard(tmp_path, '00000', chains, [torch.zeros(len(c), dtype=torch.int8).numpy() for c in chains], zeros)
    assert (tmp_path/'shards'/'00000.safetensors').stat().st_size == pytest.approx(dataset_bytes(n, dim), rel=.02)

def test_more_costs_more():
    base = dict(chains=1000, tokens_per_step=2**16, devices=2, passes=2)
    cost = lambda **kw: run_cost('esm2-35M', **base | kw)
    assert cost(chains=2000).total_flops == pytest.approx(2*cost().total_flops, rel=.01) and cost(steps=7).steps == 7
    assert cost(passes=4).total_memory < cost().total_memory and cost(precision='fp32').memory['activations'] > cost().memory['activations']
    assert cost(mfu=.15).hours == pytest.approx(2*cost().hours) and cost(devices=1, passes=4).exchanged == 0
    assert cost(mean_length=400).total_flops > 400/240.5*cost().total_flops # attention grows faster than length
    assert 'estimate' in repr(cost()) and '<table>' in cost()._repr_html_() and len(cost_table({'tiny':{}, 'esm2-8M':{}}, **base).rows) == 2

@pytest.mark.parametrize('wrong, says', [(dict(model='esm2-7B'), 'is not known'), (dict(reference='bert'), 'is not known'), (dict(chains=0), 'chains=0'), (dict(epochs=-1), 'epochs=-1'), (dict(steps=0), 'steps=0'),
    (dict(mfu=31), 'share of the peak'), (dict(spread=.5), 'at least 1'), (dict(precision='int4'), 'No precision'), (dict(passes=10**6), 'less than one chain'), (dict(chains=float('nan')), 'chains=nan')])
def test_one_sentence_for_wrong_settings(wrong, says):
    with pytest.raises(ValueError, match=says): run_cost(**dict(model='esm2-8M') | wrong)
