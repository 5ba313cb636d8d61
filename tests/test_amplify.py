"AMPLIFY against a slow reference, the published layout, and files that are not what they should be"
import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa_toolkit.amplify import AMPLIFY, AMPLIFY_VOCAB, SHAPES, AmplifyConfig, AmplifyPLM, check_state, config_file, load_amplify, random_amplify, read_config
from sa_toolkit.hub import Weights
from sa_toolkit.language import tokenize

SMALL = AmplifyConfig(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=50, max_length=64)
SEQUENCES = ['MKTAYIAKQRQISFVKSHFSRQ', 'MX', 'GAVLBW']

def fill(model):
    "Numbers that any machine makes alike, large enough that every part of the model matters"
    for t,(k,p) in enumerate(sorted(model.state_dict().items())):
        n = torch.arange(p.numel())
        x = (n*n*40503 + n*26543 + t*9973)%2**20/2**20 - .5
        p.copy_((1+x if 'norm' in k else x*1.2*p.shape[-1]**-.5*2).reshape(p.shape))
    return model

@pytest.fixture
def small(): return fill(AMPLIFY(SMALL).double()).eval()

@pytest.fixture
def folder(tmp_path):
    random_amplify('tiny').save_pretrained(tmp_path, name='tiny, saved')
    return tmp_path

def load(folder, name='x'): return load_amplify(Weights(name, str(folder), 'folder'))


# ---------- the arithmetic

def reference(w, c, ids):
    "One unpadded sequence, number by number: rotations by hand, one head at a time, softmax spelled out"
    norm = lambda x, g: np.array([r/math.sqrt(sum(r*r)/len(r) + c.norm_eps) for r in x])*g
    def turned(x): # (L,D): each neighbouring pair by position times its frequency
        y = x.copy()
        for pos in range(len(x)):
            for j in range(x.shape[1]//2):
                a = pos*10_000**(-2*j/x.shape[1])
                y[pos,2*j:2*j+2] = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) @ x[pos,2*j:2*j+2]
        return y
    x, d = w['encoder.weight'][ids], c.hidden_size//c.num_attention_heads
    for n in range(c.num_hidden_layers):
        g = lambda k, n=n: w[f'transformer_encoder.{n}.{k}.weight']
        h, out = norm(x, g('attention_norm')), []
        for i in range(c.num_attention_heads):
            q, k, v = (h @ g(m)[i*d:(i+1)*d].T for m in 'qkv')
            s = np.exp(turned(q) @ turned(k).T/math.sqrt(d))
            out.append(s/s.sum(1, keepdims=True) @ v)
        x = x + np.concatenate(out, 1) @ g('wo').T
        up = norm(x, g('ffn_norm')) @ g('ffn.w12').T
        a, b = up[:,:c.ffn_size], up[:,c.ffn_size:]
        x = x + (a/(1+np.exp(-a))*b) @ g('ffn.w3').T
    return x, norm(x, w['layer_norm_2.weight']) @ w['decoder.weight'].T + w['decoder.bias']

def test_states_and_logits_equal_a_slow_reference(small):
    w = {k: p.numpy() for k,p in small.state_dict().items()}
    for s in SEQUENCES:
        ids = tokenize([s], AMPLIFY_VOCAB)
        with torch.inference_mode():
            x = small(ids)
            logits = small.head(x)[0].numpy()
        states, ref = reference(w, SMALL, ids[0].numpy())
        assert np.abs(x[0].numpy()-states).max() < 1e-10 and np.abs(logits-ref).max() < 1e-10
        with torch.inference_mode(): single = fill(AMPLIFY(SMALL)).eval()
        with torch.inference_mode(): assert np.abs(single.head(single(ids))[0].numpy()-ref).max() < 1e-5*np.abs(ref).max()
        assert np.abs(ref).max() > 1

def test_logits_equal_those_of_the_published_code():
    """What the module of chandar-lab/AMPLIFY (commit 045254e; attention through PyTorch, as it has no xformers kernel on CPUs) gives for these numbers.

    Run once under transformers 4.57.6, xformers 0.0.35 and torch 2.13.0, loaded by `AutoModel` from a folder of `save_pretrained` with that code beside it."""
    ids, model = tokenize(SEQUENCES, AMPLIFY_VOCAB), fill(AMPLIFY(SMALL)).eval()
    theirs = [[.75634, -.75599, .91168, -.21631, .22463], [-.26569, .11939, 1.01459, -.01723, 1.02738], [-.84182, -.00335, .77071, .41009, .71003],
        [.24911, .12079, 1.10342, .41105, 1.12923]]
    with torch.inference_mode(): ours = model.head(model(ids))
    assert np.abs(ours[[0,0,0,1],[1,11,22,2]][:,[0,2,6,15,26]].numpy() - theirs).max() < 1e-5
    assert ours[ids!=0].sum().item()==pytest.approx(38.0736, abs=1e-3) and ours[ids!=0].abs().sum().item()==pytest.approx(605.4367, abs=1e-3)

def test_padding_changes_nothing(small):
    ids = tokenize(SEQUENCES, AMPLIFY_VOCAB)
    with torch.inference_mode():
        batch = small(ids)
        for row,s in zip(batch, SEQUENCES): assert (row[:len(s)+2]-small(tokenize([s], AMPLIFY_VOCAB))[0]).abs().max() < 1e-12
        assert small(torch.cat([ids, torch.zeros_like(ids[:1])])).isfinite().all() and small(torch.zeros_like(ids)).isfinite().all()

def test_padding_gets_no_gradient_and_residues_do(small):
    ids = tokenize(SEQUENCES, AMPLIFY_VOCAB)
    x = small.encoder(ids).detach().requires_grad_()
    small.encoder.forward = lambda _: x
    small(ids)[1,:4].square().sum().backward()
    assert (x.grad[1,4:]==0).all() and (x.grad[[0,2]]==0).all() and (x.grad[1,:4].abs().sum(-1) > 0).all()


# ---------- the published layout

@pytest.mark.parametrize('size,count,layers,hidden,inner', [('120M', 118_276_507, 24, 640, 1712), ('350M', 354_008_667, 32, 960, 2560)])
def test_published_names_shapes_and_count(size, count, layers, hidden, inner):
    with torch.device('meta'): model = AMPLIFY(AmplifyConfig(*SHAPES[size]))
    want = {'encoder.weight':(27,hidden), 'layer_norm_2.weight':(hidden,), 'decoder.weight':(27,hidden), 'decoder.bias':(27,)}
    for n in range(layers):
        p = f'transformer_encoder.{n}.'
        want |= {f'{p}{m}.weight': (hidden,hidden) for m in ('q', 'k', 'v', 'wo')} | {f'{p}{m}.weight': (hidden,) for m in ('attention_norm', 'ffn_norm')}
        want |= {p+'ffn.w12.weight': (2*inner,hidden), p+'ffn.w3.weight': (hidden,inner)}
    assert {k: tuple(v.shape) for k,v in model.state_dict().items()} == want
    assert sum(p.numel() for p in model.parameters())==count and model.config.ffn_size==inner

def test_alphabet_is_the_published_one():
    ids = {t: AMPLIFY_VOCAB.id(t) for t in AMPLIFY_VOCAB.tokens}
    assert [ids[t] for t in ('<pad>', '<unk>', '<mask>', '<bos>', '<eos>', '|', 'B')] == [0,1,2,3,4,5,26]
    assert ''.join(AMPLIFY_VOCAB.tokens[6:26])=='LAGVSERTIDPKQNFYMHWC' and AMPLIFY_VOCAB.id(AMPLIFY_VOCAB.unknown)==1
    assert tokenize(['MBXUZOJ'], AMPLIFY_VOCAB)[0].tolist() == [3,22,26,1,1,1,1,1,4]


# ---------- files

def test_saved_and_loaded_bit_by_bit(folder, tmp_path):
    a, b = random_amplify('tiny'), load(folder)
    assert a.model.state_dict().keys()==b.model.state_dict().keys() and not b.model.training
    assert all(torch.equal(x, y) for x,y in zip(a.model.state_dict().values(), b.model.state_dict().values()))
    (tmp_path/'again').mkdir()
    b.save_pretrained(tmp_path/'again')
    for f in ('model.safetensors', 'config.json', 'tokenizer.json', 'tokenizer_config.json'):
        assert (tmp_path/'again'/f).read_bytes()==(folder/f).read_bytes()
    assert b.save_pretrained(folder) == folder
    assert all(torch.equal(x, y) for x,y in zip(load(folder).model.state_dict().values(), a.model.state_dict().values()))

def test_precision_is_kept(folder):
    low = load(folder)
    low.model.bfloat16()
    low.save_pretrained(folder)
    assert json.loads((folder/'config.json').read_text())['torch_dtype']=='bfloat16'
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.bfloat16}

def test_config_keeps_what_it_does_not_know(folder):
    f = folder/'config.json'
    file = json.loads(f.read_text()) | dict(transformers_version='4.38.2', finetuned_by=['us', {'x': 1}], auto_map=dict(AutoConfig='amplify.AMPLIFYConfig', AutoModel='owner/x--amplify.AMPLIFY'))
    f.write_text(json.dumps(file))
    load(folder).save_pretrained(folder)
    local = dict(AutoConfig='amplify.AMPLIFYConfig', AutoModel='amplify.AMPLIFY', AutoModelForMaskedLM='amplify.AMPLIFY')
    assert json.loads(f.read_text()) == file | dict(auto_map=local), 'the code is the file beside it, whatever it was before'

def test_absent_fields_have_the_published_defaults():
    assert read_config(dict(model_type='AMPLIFY')) == AmplifyConfig(rest=dict(model_type='AMPLIFY'))
    assert read_config(dict(dropout_prob=0., hidden_act='swiglu')).ffn_size==2560

@pytest.mark.parametrize('field,value', [('hidden_act', 'gelu'), ('rms_norm', False), ('att_bias', True), ('ffn_bias', True), ('vocab_size', 32), ('dropout_prob', .1),
    ('layer_norm_after_embedding', True), ('layer_norm_before_last_layer', False), ('pad_token_id', 1), ('model_type', 'esm')])
def test_another_model_is_refused(field, value):
    with pytest.raises(ValueError, match=f'^config.json says {field} = {value!r}, as no published AMPLIFY does.'): read_config(config_file(SMALL) | {field: value})

def change(folder, fn):
    state = load_file(folder/'model.safetensors')
    fn(state)
    save_file(state, folder/'model.safetensors')

@pytest.mark.parametrize('fn,what', [
    (lambda s: s.pop('layer_norm_2.weight'), '1 tensors are missing, such as layer_norm_2.weight'),
    (lambda s: s.update({'cl_model.linear_seq.weight': torch.zeros(2)}), '1 are not part of AMPLIFY, such as cl_model.linear_seq.weight'),
    (lambda s: s.update({'decoder.bias': torch.zeros(33)}), r'1 have the wrong shape, such as decoder.bias with \(33,\) for \(27,\)')])
def test_tensors_that_do_not_fit_are_refused(folder, fn, what):
    change(folder, fn)
    with pytest.raises(ValueError, match=f'^The tensors of .* are not those of its config.json: {what}. Nothing was loaded.$'): load(folder)

def test_everything_amiss_is_in_one_sentence():
    with torch.device('meta'), pytest.raises(ValueError, match='missing.*not part.*wrong shape'):
        model = AMPLIFY(SMALL)
        state = model.state_dict() | {'x': torch.zeros(1), 'decoder.bias': torch.zeros(1)}
        del state['encoder.weight']
        check_state(state, model, 'here')

@pytest.mark.parametrize('keep', [0, 5, 200, -1])
def test_a_broken_download_is_refused(folder, keep):
    f = folder/'model.safetensors'
    f.write_bytes(f.read_bytes()[:keep])
    with pytest.raises(ValueError, match='broke off; fetch it again'): load(folder)

def test_a_pickle_of_tensors_is_read_and_nothing_else_of_a_pickle(folder):
    state = load_file(folder/'model.safetensors')
    (folder/'model.safetensors').unlink()
    with pytest.raises(ValueError, match='neither model.safetensors nor pytorch_model.bin'): load(folder)
    f = folder/'pytorch_model.bin'
    torch.save(state, f)
    assert torch.equal(load(folder).model.decoder.weight, state['decoder.weight'])
    f.write_bytes(f.read_bytes()[:-200])
    with pytest.raises(ValueError, match='broke off'): load(folder)
    class Evil:
        def __reduce__(self): return (folder/'ran').write_text, ('it ran',)
    for write in (torch.save, lambda x, f: f.write_bytes(pickle.dumps(x, protocol=2))):
        write(dict(state, evil=Evil()), f)
        with pytest.raises(ValueError, match='was not run'): load(folder)
    assert not (folder/'ran').exists()

def test_tokenizer_files_of_the_weights_are_passed_on(folder, tmp_path):
    f, new = folder/'tokenizer.json', tmp_path/'new'
    f.write_text(json.dumps(json.loads(f.read_text()) | dict(truncation=None, theirs=1)))
    (folder/'special_tokens_map.json').unlink()
    new.mkdir()
    (new/'special_tokens_map.json').write_text('{"cls_token": "<cls>"}')
    load(folder).save_pretrained(new)
    assert (new/'tokenizer.json').read_bytes()==f.read_bytes() and not (new/'special_tokens_map.json').exists()

FOREIGN = json.dumps(dict(model=dict(type='WordLevel', vocab={'<cls>': 0, 'A': 1}), added_tokens=[]))

@pytest.mark.parametrize('text', [FOREIGN, '{"theirs": 1}', '[]', '{broken', json.dumps(dict(model=dict(type='Unigram', vocab=[['A', 0.]])))])
def test_a_tokenizer_of_another_model_is_not_kept(folder, tmp_path, text):
    ours = (folder/'tokenizer.json').read_bytes()
    other = tmp_path/'other'
    other.mkdir()
    (other/'tokenizer.json').write_text(text)
    random_amplify('tiny').save_pretrained(other) # in the target
    assert (other/'tokenizer.json').read_bytes()==ours
    (folder/'tokenizer.json').write_text(text) # beside the weights
    load(folder).save_pretrained(tmp_path/'new')
    load(folder).save_pretrained(folder)
    assert (tmp_path/'new'/'tokenizer.json').read_bytes()==(folder/'tokenizer.json').read_bytes()==ours

def test_transformers_reads_the_folder(folder):
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    got = tok(SEQUENCES, padding=True, return_tensors='pt')
    assert torch.equal(got['input_ids'], tokenize(SEQUENCES, AMPLIFY_VOCAB)) and got.keys()=={'input_ids', 'attention_mask'}
    assert (tok.pad_token_id, tok.unk_token_id, tok.mask_token_id, tok.bos_token_id, tok.eos_token_id, len(tok)) == (0,1,2,3,4,27)
    assert tok('M<mask>K')['input_ids']==[3,22,2,17,4] and tok.decode(got['input_ids'][1], skip_special_tokens=True)=='M'


# ---------- in use

def test_context_is_that_of_the_weights(folder):
    assert random_amplify('tiny').max_length==2046 and random_amplify('amplify-tiny_base').max_length==510
    assert load(folder, 'chandar-lab/AMPLIFY_120M').max_length==2046 and load(folder, 'chandar-lab/AMPLIFY_120M_base').max_length==510

def test_random_weights_follow_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b, c = (random_amplify('tiny', s).model.state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a['encoder.weight'], c['encoder.weight'])
    assert a['transformer_encoder.1.ffn.w12.weight'].abs().max() <= .02 and (a['decoder.bias']==0).all() and (a['layer_norm_2.weight']==1).all()
    with pytest.raises(ValueError, match='no AMPLIFY'): random_amplify('esm2-8M')

def test_norms_and_rotations_stay_exact_under_autocast():
    plm, ids = AmplifyPLM(fill(AMPLIFY(SMALL)).eval(), Weights('x', '', 'random')), tokenize(SEQUENCES, AMPLIFY_VOCAB)
    seen = []
    plm.model.layer_norm_2.register_forward_hook(lambda m, i, o: seen.append((i[0].dtype, o.dtype)))
    with torch.no_grad():
        full = plm.head(plm.states(ids))
        with torch.autocast('cpu', torch.bfloat16): half = plm.head(plm.states(ids))
    assert seen[1]==(torch.float32, torch.float32) and half.dtype==torch.bfloat16
    assert (half[0].float()-full[0]).norm()/full[0].norm() < .03

def test_bfloat16_is_close_at_the_end_of_the_context():
    "A table of angles in bfloat16 would have steps of eight positions here"
    model, ids = fill(AMPLIFY(SMALL)).eval(), tokenize(['MKTAYIAKQRGLVEWPSNDH'*60], AMPLIFY_VOCAB)
    with torch.inference_mode(): full, half = model(ids)[0,-50:], model.bfloat16()(ids)[0,-50:]
    assert (half.float()-full).norm()/full.norm() < .05

def test_compiles_without_graph_breaks():
    model, ids = fill(AMPLIFY(SMALL)).eval(), tokenize(SEQUENCES, AMPLIFY_VOCAB)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert torch.allclose(torch.compile(model, backend='aot_eager', fullgraph=True)(ids)[0], model(ids)[0], atol=1e-5)

def test_a_training_step_moves_every_tensor():
    plm, ids = random_amplify('tiny'), tokenize(SEQUENCES, AMPLIFY_VOCAB)
    torch.nn.functional.cross_entropy(plm.head(plm.states(ids))[0], ids[0,1:-1]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in plm.model.parameters())
