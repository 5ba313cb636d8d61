"""ESM C against the library it comes from, transformers ≥ 5.16 or `esm` ≥ 3.4, whichever is installed; and both against one stored result

`python tests/test_esmc.py` writes that result, tests/data/esmc_tiny.npz, with transformers' classes alone (5.23.0, torch 2.13.0 was used).
"""
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

STORED = Path(__file__).parent/'data'/'esmc_tiny.npz'
SEQUENCES = ('MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG', 'MKTAYIAKQRX')
D, LAYERS, HEADS, F, V = 32, 2, 4, 256, 64
CONFIG = dict(model_type='esmc', vocab_size=V, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=F, pad_token_id=1, mask_token_id=32)
LAYER = dict(input_layernorm=('weight','bias'), post_attention_layernorm=('weight','bias')) | {f'self_attn.{k}_norm': ('weight',) for k in 'qk'}
SQUARE = [f'self_attn.{k}_proj.weight' for k in 'qkvo']

def shapes():
    "Every tensor of the published layout"
    res = {'esmc.embed_tokens.weight':(V,D), 'esmc.norm.weight':(D,), 'lm_head.dense.weight':(D,D), 'lm_head.dense.bias':(D,), 'lm_head.layer_norm.weight':(D,),
        'lm_head.layer_norm.bias':(D,), 'lm_head.decoder.weight':(V,D), 'lm_head.decoder.bias':(V,)}
    for i in range(LAYERS):
        of = {f'{k}.{w}':(D,) for k, ws in LAYER.items() for w in ws} | dict.fromkeys(SQUARE, (D,D)) | {'mlp.gate_proj.weight':(F,D), 'mlp.up_proj.weight':(F,D), 'mlp.down_proj.weight':(D,F)}
        res |= {f'esmc.layers.{i}.{k}':v for k, v in of.items()}
    return res

def made_state():
    "The same numbers everywhere, whatever the library and its order of tensors"
    draw = lambda k, s: np.random.default_rng(zlib.crc32(k.encode())).normal(float(len(s)==1 and k.endswith('weight')), .3, s)
    return {k: torch.from_numpy(draw(k, s).astype(np.float32)) for k, s in shapes().items()}

def first_layout(state):
    "The same tensors as they were first published: fused projections, other names, blobs of a fused kernel"
    out = {'esmc.embed.weight': state['esmc.embed_tokens.weight'], 'esmc.transformer.norm.weight': state['esmc.norm.weight']}
    for new, old in (('dense',0), ('layer_norm',2), ('decoder',3)): out |= {f'lm_head.{old}.{w}': state[f'lm_head.{new}.{w}'] for w in ('weight','bias')}
    for i in range(LAYERS):
        t, b = (lambda k, i=i: state[f'esmc.layers.{i}.{k}']), f'esmc.transformer.blocks.{i}.'
        out |= {b+f'attn.layernorm_qkv.layer_norm_{w}': t(f'input_layernorm.{w}') for w in ('weight','bias')}
        out |= {b+f'ffn.layer_norm_{w}': t(f'post_attention_layernorm.{w}') for w in ('weight','bias')}
        out |= {b+'attn.layernorm_qkv.weight': torch.cat([t(k) for k in SQUARE[:3]]), b+'attn.out_proj.weight': t(SQUARE[3]),
            b+'ffn.fc1_weight': torch.cat([t('mlp.gate_proj.weight'), t('mlp.up_proj.weight')]), b+'ffn.fc2_weight': t('mlp.down_proj.weight')}
        out |= {b+f'attn.{k}_ln.weight': t(f'self_attn.{k}_norm.weight') for k in 'qk'} | {b+'ffn._extra_state': torch.zeros(4, dtype=torch.uint8)}
    return out

def folder(path, state, config=CONFIG):
    path.mkdir()
    save_file({k: v.contiguous() for k, v in state.items()}, path/'model.safetensors', metadata=dict(format='pt'))
    (path/'config.json').write_text(json.dumps(config))
    return path

def write_stored():
    "By transformers alone"
    from tempfile import TemporaryDirectory
    with TemporaryDirectory() as d:
        model = transformers.EsmcForMaskedLM.from_pretrained(folder(Path(d)/'m', made_state()), attn_implementation='eager').eval()
    tok = transformers.EsmcTokenizer()
    with torch.inference_mode(): res = [model(**tok(s, return_tensors='pt')) for s in SEQUENCES]
    np.savez_compressed(STORED, **{f'logits{k}': r.logits[0].numpy() for k, r in enumerate(res)})

@pytest.fixture(scope='module')
def saved(tmp_path_factory): return folder(tmp_path_factory.mktemp('esmc')/'m', made_state())

def load(path):
    from sa_toolkit.esmc import load_esmc
    from sa_toolkit.hub import Weights
    return load_esmc(Weights('made', str(path), 'folder'))

@pytest.fixture(scope='module')
def plm(saved): return load(saved)

@pytest.fixture(scope='module')
def theirs():
    from sa_toolkit.esmc import _library
    return _library()

def test_both_libraries_give_the_stored_logits(plm):
    stored = np.load(STORED)
    for k, s in enumerate(SEQUENCES):
        with torch.inference_mode(): mine = plm.head(plm.states(plm.tokenize([s])))[0].numpy()
        assert np.abs(stored[f'logits{k}']).max() > 1 and np.allclose(mine, stored[f'logits{k}'][1:-1], atol=2e-5)

def test_ids_states_and_logits_are_the_library_s_own(plm, saved, theirs):
    tok, model = theirs.EsmcTokenizer(), theirs.EsmcForMaskedLM.from_pretrained(saved).to('cpu').eval()
    ids = tok([*SEQUENCES, 'ACDEFGHIKLMNPQRSTVWYXBUZO.-'], padding=True, return_tensors='pt')
    assert torch.equal(ids['input_ids'], plm.tokenize([*SEQUENCES, 'ACDEFGHIKLMNPQRSTVWYXBUZO.-'])) and len(tok)==len(plm.vocab.tokens)
    with torch.inference_mode():
        out = model.esmc(input_ids=ids['input_ids'], attention_mask=ids['attention_mask']).last_hidden_state
        logits = model.lm_head(out)
    for k, s in enumerate(SEQUENCES): assert np.allclose(plm.embed([s])[0], out[k,1:len(s)+1].numpy(), atol=2e-5)
    assert np.allclose(plm.logits([SEQUENCES[0]])[0], logits[0,1:77][:,[tok.convert_tokens_to_ids(a) for a in 'ACDEFGHIKLMNPQRSTVWY']].numpy(), atol=2e-5)

def test_padding_and_batch_change_nothing(plm):
    for a, b in zip(plm.embed(SEQUENCES), [plm.embed([s])[0] for s in SEQUENCES]): assert np.allclose(a, b, atol=2e-5)
    with torch.inference_mode(): h = plm.states(plm.tokenize(SEQUENCES))
    assert np.allclose(h[1,:11].numpy(), plm.embed([SEQUENCES[1]])[0], atol=2e-5)

def test_the_layout_of_the_first_release_is_read(plm, tmp_path):
    old = {'d_model': D, 'n_layers': LAYERS, 'n_heads': HEADS, 'vocab_size': V, 'pad_token_id': 1, 'mask_token_id': 32, 'model_type': 'esmc', 'architectures': ['ESMCForMaskedLM']}
    again = load(folder(tmp_path/'m', first_layout(made_state()), old))
    assert np.array_equal(again.embed(SEQUENCES)[0], plm.embed(SEQUENCES)[0])

def test_shards_are_read(plm, tmp_path):
    state = made_state()
    path = folder(tmp_path/'m', {k: v for k, v in state.items() if 'lm_head' in k})
    (path/'model.safetensors').rename(path/'model-00001-of-00002.safetensors')
    save_file({k: v for k, v in state.items() if 'lm_head' not in k}, path/'model-00002-of-00002.safetensors')
    assert np.array_equal(load(path).logits(SEQUENCES)[0], plm.logits(SEQUENCES)[0])

@pytest.mark.parametrize('change, what', [(lambda s: s.pop('lm_head.decoder.bias'), 'lm_head.decoder.bias'),
    (lambda s: s.update(extra=torch.zeros(1)), 'extra'), (lambda s: s.update({'esmc.norm.weight': torch.zeros(D+1)}), 'esmc.norm.weight')])
def test_a_checkpoint_that_does_not_fit_is_refused(change, what, tmp_path):
    change(state := made_state())
    with pytest.raises(ValueError, match=f'1 tensors, such as {what}'): load(folder(tmp_path/'m', state))

def test_a_folder_without_sizes_is_refused(tmp_path):
    with pytest.raises(ValueError, match='has no num_hidden_layers. It is not an ESM C folder'):
        load(folder(tmp_path/'m', made_state(), {k: v for k, v in CONFIG.items() if k!='num_hidden_layers'}))

def test_saved_and_loaded_also_over_itself(plm, tmp_path, theirs):
    path = plm.save_pretrained(tmp_path/'m', name='made, saved')
    again, before = load(path), plm.embed(SEQUENCES)
    with torch.no_grad(): again.model.lm_head.requires_grad_(False)
    again.save_pretrained(path)
    for x, y, z in zip(before, again.embed(SEQUENCES), load(path).embed(SEQUENCES)): assert np.array_equal(x, y) and np.array_equal(x, z)
    assert json.loads((path/'weights.json').read_text())['name']=='made'
    assert theirs.EsmcForMaskedLM.from_pretrained(path) is not None

def test_attention_is_the_library_s_and_is_not_stored(plm, saved, theirs):
    from sa_toolkit.attention import apc, watch_attention
    model = theirs.EsmcForMaskedLM.from_pretrained(saved, attn_implementation='eager').to('cpu').eval()
    ids, seen = plm.tokenize(SEQUENCES[:1]), []
    with torch.inference_mode():
        stored = model(input_ids=ids, output_attentions=True).attentions
        plain = plm.states(ids)
        with watch_attention(plm.model, lambda a: seen.append(a.clone())): watched = plm.states(ids)
    assert len(stored)==len(seen)==LAYERS and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(stored, seen)) and torch.allclose(plain, watched, atol=1e-5)
    w = torch.randn(LAYERS*HEADS, generator=torch.Generator().manual_seed(0))
    slow = torch.einsum('c,cij->ij', w, apc(torch.cat(stored, 1)[0])).sigmoid().numpy()
    assert np.allclose(plm.contacts(SEQUENCES[0], (w, torch.zeros(1))), slow, atol=1e-5)
    with pytest.raises(ValueError, match='has no contact head'): plm.contacts(SEQUENCES[0])

def test_long_sequences_go_in_windows(plm):
    try:
        plm.max_length, long = 40, SEQUENCES[0]
        h = plm.embed([long, long[:40]])
    finally: del plm.max_length
    assert h[0].shape==(76, D) and np.isfinite(h[0]).all() and np.allclose(h[1], plm.embed([long[:40]])[0], atol=2e-5) and plm.max_length==2046

def test_random_ones_repeat_and_differ():
    from sa_toolkit.esmc import random_esmc
    a, b, c = (random_esmc('tiny', seed).embed(SEQUENCES)[0] for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.allclose(a, c)

def test_a_gradient_reaches_every_tensor_but_none_is_missing():
    from sa_toolkit.esmc import random_esmc
    plm = random_esmc('tiny')
    ids = plm.tokenize(SEQUENCES)
    torch.nn.functional.cross_entropy(plm.head(plm.states(ids))[0], ids[0,1:-1]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in plm.model.parameters())

if hasattr(transformers, 'EsmcForMaskedLM'): # the esm package has no auto classes
    def test_auto_classes_load_what_was_saved(plm, tmp_path):
        path = plm.save_pretrained(tmp_path/'m')
        model, tok = transformers.AutoModelForMaskedLM.from_pretrained(path).eval(), transformers.AutoTokenizer.from_pretrained(path)
        with torch.inference_mode(): logits = model(**tok(SEQUENCES[0], return_tensors='pt')).logits[0,1:-1]
        assert type(model).__name__=='EsmcForMaskedLM' and np.allclose(logits[:,plm.vocab.amino_acids].numpy(), plm.logits(SEQUENCES[:1])[0], atol=2e-5)

    def test_without_either_library_one_sentence(monkeypatch):
        import sys
        from types import SimpleNamespace

        from sa_toolkit import interop
        from sa_toolkit.esmc import random_esmc
        monkeypatch.setitem(sys.modules, 'transformers', SimpleNamespace(__version__='4.57.6'))
        monkeypatch.setattr(interop, 'find_spec', lambda name: None)
        with pytest.raises(ImportError, match=r'ESM C needs transformers ≥ 5.16 \(this is 4.57.6\) or the esm package. The esm package is not installed'): random_esmc('tiny')

if __name__=='__main__': write_stored()
