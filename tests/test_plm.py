"""Language models on real proteins: contacts against transformers' eager path, long sequences, training with another alphabet"""
import numpy as np
import pytest
import torch

from sa_toolkit.core import example_chain, example_chains
from sa_toolkit.data import Example, collate, mask_residues
from sa_toolkit.esm2 import ESM
from sa_toolkit.language import residues, tokenize
from sa_toolkit.plm import load_plm


def eager_contacts(plm, sequence):
    "transformers' own prediction, every attention map stored"
    ids = tokenize([sequence], ESM)
    plm.model.set_attn_implementation('eager')
    with torch.inference_mode(): p = plm.model.predict_contacts(ids, torch.ones_like(ids))[0].numpy()
    plm.model.set_attn_implementation('sdpa')
    return p

def test_contacts_equal_eager():
    plm = load_plm('esm2-8M', pretrained=False)
    for chain in [example_chain('2XHE'), *example_chains('test')[:2]]:
        assert np.abs(plm.contacts(chain.sequence) - eager_contacts(plm, chain.sequence)).max() < 1e-5
    assert plm.model.config._attn_implementation == 'sdpa'

def test_attention_is_restored_when_a_pass_fails():
    plm = load_plm('tiny')
    def fail(a): raise RuntimeError('enough')
    with pytest.raises(RuntimeError, match='enough'): plm.each_attention('MKTAYIAKQR', fail)
    assert plm.model.config._attn_implementation == 'sdpa' and plm.contacts('MKTAYIAKQR').shape == (10, 10)

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny', 'esmc-tiny'])
def test_long_sequences(name):
    plm = load_plm(name, pretrained=False)
    seq = (example_chain('2XHE').sequence*3)[:300]
    whole, plm.max_length = plm.embed([seq, seq[:100]]), 120
    short, = plm.embed([seq[:100]])
    assert np.array_equal(short, load_plm(name, pretrained=False).embed([seq[:100]])[0])
    h, scores = plm.embed([seq, seq[:100]]), plm.logits([seq])[0]
    assert h[0].shape == whole[0].shape and scores.shape == (300, 20) and np.isfinite(scores).all()
    assert np.abs(h[1] - whole[1]).max() < 1e-5
    n = plm.model.config.num_hidden_layers*plm.model.config.num_attention_heads
    with pytest.warns(UserWarning, match='windows'): p = plm.contacts(seq, (torch.ones(n)*.1, torch.zeros(1)))
    assert p.shape == (300, 300) and np.allclose(p, p.T, atol=1e-6)
    far = np.abs(np.subtract.outer(range(300), range(300)))
    assert (p[far >= 120] == 0).all() and (p[far <= 90] > 0).all()

@pytest.mark.parametrize('name', ['amplify-tiny', 'esmc-tiny'])
def test_batches_speak_the_models_alphabet(name):
    plm = load_plm(name, pretrained=False)
    cs = example_chains('valid')[:3]
    examples = [Example(c, np.zeros(len(c), np.int64), np.ones((len(c), 4), np.float32)) for c in cs]
    b = collate(examples, vocab=plm.vocab)
    assert torch.equal(b.ids_BL, plm.tokenize([c.sequence for c in cs])) and b.real_BL.sum() == sum(map(len, cs))
    masked, hit = mask_residues(b.ids_BL, .15, torch.Generator().manual_seed(0), plm.vocab)
    assert (masked[:, 1:-1][hit] == plm.vocab.id('<mask>')).all() and not (hit & ~b.real_BL).any()
    assert torch.equal(residues(b.ids_BL, plm.vocab), b.real_BL)

def test_a_model_without_a_contact_head_says_how_to_fit_one():
    with pytest.raises(ValueError, match='fit_contact_head'): load_plm('amplify-tiny', pretrained=False).contacts('MKTAYIAKQR')
