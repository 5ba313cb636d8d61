"""Language models on real proteins: contacts against transformers' eager path, long sequences, training with another alphabet"""
import numpy as np
import pytest
import torch

from sa_toolkit.core import example_chain, example_chains
from sa_toolkit.data import Example, collate
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
    b = collate(examples, plm.vocab)
    assert torch.equal(b.ids_BL, plm.tokenize([c.sequence for c in cs])) and b.real_BL.sum() == sum(map(len, cs))
    assert (b.masked_BL[:, 1:-1][b.hit_BL] == plm.vocab.id('<mask>')).all() and not (b.hit_BL & ~b.real_BL).any()
    assert torch.equal(residues(b.ids_BL, plm.vocab), b.real_BL)

def test_a_model_without_a_contact_head_says_how_to_fit_one():
    with pytest.raises(ValueError, match='fit_contact_head'): load_plm('amplify-tiny', pretrained=False).contacts('MKTAYIAKQR')

@pytest.mark.parametrize('name', ['tiny', 'amplify-tiny', 'esmc-tiny'])
def test_inference_leaves_a_model_trainable(name):
    plm = load_plm(name)
    n = plm.model.config.num_hidden_layers*plm.model.config.num_attention_heads
    plm.embed(['MKTAYIAKQR'])
    plm.logits(['MKTAYIAKQR'])
    plm.contacts('MKTAYIAKQR', (torch.ones(n), torch.zeros(1)))
    plm.head(plm.states(plm.tokenize(['MKTAYIAKQR']))).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in plm.parameters())

@pytest.mark.parametrize('weights', [3, 5, 9, 100])
def test_a_contact_head_of_another_model_is_refused(weights):
    with pytest.raises(ValueError, match=f'for {weights} attention maps'): load_plm('tiny').contacts('MKTAYIAKQR', (torch.ones(weights), torch.zeros(1)))

def test_threads_do_not_see_each_others_attention():
    from concurrent.futures import ThreadPoolExecutor
    plm, seqs = load_plm('tiny'), ['MKTAYIAKQR'*k for k in range(1, 7)]
    alone = [plm.contacts(s) for s in seqs]
    with ThreadPoolExecutor(6) as pool: together = list(pool.map(plm.contacts, seqs*3))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(alone*3, together))

def test_another_model_of_the_esm_family_is_refused(tmp_path):
    from sa_toolkit.saprot import VOCABULARY, untrained
    untrained(40, 2, 4).save_pretrained(tmp_path)
    (tmp_path/'vocab.txt').write_text('\n'.join(VOCABULARY))
    with pytest.raises(ValueError, match='not ESM2'): load_plm(tmp_path)
    with pytest.raises(ValueError, match='structure encoder'): load_plm('saprot-35M')

def test_a_folder_whose_shapes_do_not_fit_is_refused(tmp_path):
    import json
    load_plm('tiny').save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps(config | {'intermediate_size': 48}))
    with pytest.raises(ValueError, match='shapes'): load_plm(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(config | {'position_embedding_type': 'absolute'}))
    with pytest.raises(ValueError, match='positions'): load_plm(tmp_path)
    (tmp_path/'config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json is damaged'): load_plm(tmp_path)

def test_training_never_exceeds_what_the_model_reads():
    from sa_toolkit.train import AlignConfig, Aligner, Learner
    plm, c = load_plm('amplify-tiny'), example_chains('valid')[0]
    plm.max_length = 20
    learn = Learner(Aligner(plm, 4), [Example(c, np.zeros(len(c), np.int64), np.ones((len(c), 4), np.float32))]*2, AlignConfig(steps=2, budget=256))
    learn.fit()
    assert learn.history[-1]['residues'] <= 40
