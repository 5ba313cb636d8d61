"The command line as a user meets it: exit codes, one sentence, interruption and resume, no hub"
import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sa_toolkit.demo import SHOWN

SA = Path(sys.executable).with_name('sa-toolkit')
FEW = ('--train-chains', 40, '--test-chains', 8)

def call(*args, **kw):
    env = os.environ | kw.pop('env', {})
    return subprocess.run([str(SA), *map(str, args)], capture_output=True, text=True, env=env, **kw)

@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    d = tmp_path_factory.mktemp('demo')
    return d/'out', call('demo', '--steps', 3, '--out', d/'out', '--threads', 1, *FEW)

def test_demo_says_what_it_used_and_found(demo):
    out, r = demo
    assert r.returncode == 0, r.stderr
    text = r.stdout
    assert 'licence' in next(line for line in r.stderr.splitlines() if line.startswith('Using '))
    assert any(line.split() == 'n base MLM only aligned aligned − base'.split() for line in text.splitlines())
    for name in SHOWN: assert any(line.startswith(f'{name} ') for line in text.splitlines()), name
    assert 'aligned minus MLM only (paired):' in text and str(out/'model') in text

def test_demo_leaves_an_ordinary_model_folder(demo):
    out, _ = demo
    code = f"""from transformers import AutoModelForMaskedLM, AutoTokenizer
m, t = AutoModelForMaskedLM.from_pretrained(r'{out/'model'}'), AutoTokenizer.from_pretrained(r'{out/'model'}')
x = t('MKTAYIAKQR', return_tensors='pt')
print(type(m).__name__, tuple(m(**x).logits.shape))"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'EsmForMaskedLM (1, 12, 33)' in r.stdout, r.stderr
    assert 'newly initialized' not in r.stderr and 'MISSING' not in r.stderr
    assert 'arXiv 2505.16896' in (out/'model'/'README.md').read_text()

def test_demo_leaves_figure_page_and_table(demo):
    out, _ = demo
    assert (out/'contacts.png').read_bytes()[:4] == b'\x89PNG'
    page = (out/'contacts.html').read_text()
    assert '<html' in page and '3Dmol' in page
    rows = list(csv.DictReader(open(out/'results.csv')))
    assert len(rows) == 21 and all(float(r['low']) <= float(r['value']) <= float(r['high']) for r in rows)

def test_nothing_temporary_is_left(demo):
    out, _ = demo
    assert not [p for p in out.rglob('*') if p.name.endswith('.part') or p.name.startswith('.')]

def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_resumes(tmp_path):
    args = ['demo', '--steps', '60', '--out', 'out', '--threads', '1', '--model', 'tiny', *map(str, FEW)]
    p = subprocess.Popen([str(SA), *args], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = ''
    while p.poll() is None and not re.search(r'MLM only: +\d+%.*? [1-9]\d*/60', seen): seen += p.stderr.read(20)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'Traceback' not in err, err
    assert f'To go on, the same command again:\n  sa-toolkit {" ".join(args)}' in err
    import torch
    steps = {f.stem: torch.load(f, weights_only=True)['step'] for f in (tmp_path/'out'/'checkpoints').iterdir()}
    assert steps['reference'] == 30 and 0 < steps['mlm-only'] < 60 and 'aligned' not in steps
    r = call(*args, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    assert call(*[x if x != 'out' else 'whole' for x in args], cwd=tmp_path).returncode == 0
    assert (tmp_path/'out'/'results.csv').read_bytes() == (tmp_path/'whole'/'results.csv').read_bytes()
    same = [load_file(tmp_path/d/'model'/'model.safetensors') for d in ('out', 'whole')]
    assert all(torch.equal(same[0][k], same[1][k]) for k in same[0])

@pytest.mark.parametrize('args, code, says', [
    (('demo', '--model', 'nonsense'), 1, 'neither a folder nor a known model'),
    (('weights', '--name', 'esm2-650M'), 1, 'no weights of esm2-650M are here'),
    (('weights', 'esm2-650M'), 1, 'no weights of esm2-650M are here'),
    (('demo', '--steps', 'many'), 2, 'invalid positive value'),
    ((), 2, 'command'),
])
def test_mistakes_get_one_sentence(args, code, says, tmp_path):
    r = call(*args, cwd=tmp_path, env={'HF_HUB_OFFLINE': '1'})
    assert r.returncode == code and says in r.stderr and 'Traceback' not in r.stderr

def test_debug_shows_the_traceback():
    r = call('weights', '--name', 'nonsense', '--debug')
    assert r.returncode == 1 and 'Traceback' in r.stderr

def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path/'out').write_text('')
    r = call('demo', '--steps', 1, '--out', tmp_path/'out', '--model', 'tiny', *FEW)
    assert r.returncode == 1 and 'Traceback' not in r.stderr and str(tmp_path/'out') in r.stderr

def test_embed_writes_a_tensor_per_sequence(tmp_path):
    (tmp_path/'in.fasta').write_text('>one first\nMKTAYIAKQR\n>two\nMKT\n')
    r = call('embed', 'in.fasta', 'out.safetensors', '--model', 'tiny', cwd=tmp_path)
    assert r.returncode == 0 and 'out.safetensors: 2 sequences, 13 residues, vectors of 32 float16 numbers, 1.' in r.stdout and 'kB' in r.stdout, r.stderr
    assert {k: tuple(v.shape) for k, v in load_file(tmp_path/'out.safetensors').items()} == {'one': (10, 32), 'two': (3, 32)}
    r = call('embed', 'in.fasta', 'out.safetensors', '--model', 'tiny', '--pool', 'mean', cwd=tmp_path)
    assert r.returncode == 1 and '--overwrite' in r.stderr and 'Traceback' not in r.stderr

def test_weights_are_listed_without_a_network():
    r = call('weights', env={'HF_HUB_OFFLINE': '1'})
    assert r.returncode == 0 and all(k in r.stdout for k in ('esm2-15B', 'amplify-350M', 'esmc-600M', 'gearnet-edge-mc', 'proteinmpnn-ca', 'licence'))

def test_nobody_reads_the_output():
    p = subprocess.Popen([str(SA), 'weights'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {'HF_HUB_OFFLINE': '1'})
    p.stdout.close()
    assert p.stderr.read() == b'' and p.wait() == 141

@pytest.mark.parametrize('where', ['sa_toolkit.cli.parser', 'sa_toolkit.embed.scan_fasta', 'sa_toolkit.embed._write_group'])
def test_an_early_ctrl_c_promises_nothing(where, tmp_path, monkeypatch, capsys):
    import sa_toolkit.cli
    import sa_toolkit.embed  # noqa: F401
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(where, stop)
    (tmp_path/'in.fasta').write_text('>a\nMKT\n')
    assert sa_toolkit.cli.main(['embed', str(tmp_path/'in.fasta'), str(tmp_path/'out.safetensors'), '--model', 'tiny']) == 130
    err = capsys.readouterr().err
    assert 'kept' not in err and ('Nothing was finished yet' in err or where.endswith('parser'))

def test_an_unforeseen_error_is_a_sentence(monkeypatch, capsys):
    import sa_toolkit.cli
    def fail(): raise TypeError('x')
    monkeypatch.setattr('sa_toolkit.hub.weights_table', fail)
    assert sa_toolkit.cli.main(['weights']) == 1 and 'unexpected TypeError: x. With --debug' in capsys.readouterr().err

@pytest.mark.parametrize('arms', [('base', 'MLM only', 'dual'), ('base', 'dual')])
def test_reproduce_draws_what_comes_along(tmp_path, monkeypatch, capsys, arms):
    from sa_toolkit import cli, study
    few = [(f, r.only(study.BRIEF)) for f,r in study.read_cells() if f['arm'] in arms]
    monkeypatch.setattr(study, 'read_cells', lambda folder=None: few)
    cli.main(['reproduce', '--out', str(tmp_path/'study')])
    said = capsys.readouterr().out
    assert said.count('Change against')==len(arms)-1 and all(x in said for x in ('dual', 'perplexity', str(tmp_path/'study')))
    assert {p.name for p in (tmp_path/'study').iterdir()}=={'tables.md', 'parts.png', 'scale.png'}
