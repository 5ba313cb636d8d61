"The command line as a user meets it: exit codes, one sentence, interruption and resume, no hub"
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SA = Path(sys.executable).with_name('sa-toolkit')

def call(*args, **kw):
    env = os.environ | kw.pop('env', {})
    return subprocess.run([str(SA), *map(str, args)], capture_output=True, text=True, env=env, **kw)

@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    d = tmp_path_factory.mktemp('demo')
    return d/'out', call('demo', '--steps', 3, '--out', d/'out', '--threads', 1)

def test_demo_says_what_it_used_and_found(demo):
    out, r = demo
    assert r.returncode == 0, r.stderr
    text = r.stdout
    assert text.startswith('Weights: ') and 'licence' in text.splitlines()[0]
    for row in ('base', 'MLM only', 'aligned'): assert any(line.startswith(row) for line in text.splitlines())
    for col in ('long P@L', 'all P@L', 'long P@L (refit)', 'token acc.', 'perplexity'): assert col in text
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
    assert len(rows) == 18 and all(float(r['low']) <= float(r['value']) <= float(r['high']) for r in rows)

def test_nothing_temporary_is_left(demo):
    out, _ = demo
    assert not [p for p in out.rglob('*') if p.name.endswith('.part') or p.name.startswith('.')]

def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_resumes(tmp_path):
    args = [str(SA), 'demo', '--steps', '40', '--out', str(tmp_path/'out'), '--threads', '1']
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {'TQDM_MININTERVAL': '0.2'})
    ckpt, stop = tmp_path/'out'/'checkpoints', time.time() + 300
    seen = ''
    while time.time() < stop and 'reference:' not in seen: seen += p.stderr.read(40)
    time.sleep(8)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130, err
    assert 'To go on from there:\n  sa-toolkit demo' in err and 'Traceback' not in err
    import torch
    state = torch.load(ckpt/'reference.pt', weights_only=True)
    assert 0 < state['step'] <= 20
    assert [f.name for f in ckpt.iterdir()] == ['reference.pt']

@pytest.mark.parametrize('args, code, says', [
    (('demo', '--model', 'nonsense'), 1, 'neither a folder nor a known model'),
    (('weights', '--name', 'esm2-650M'), 1, 'Download its folder elsewhere'),
    (('demo', '--steps', 'many'), 2, 'invalid int value'),
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
    r = call('demo', '--steps', 1, '--out', tmp_path/'out', '--model', 'tiny')
    assert r.returncode == 1 and 'Traceback' not in r.stderr and str(tmp_path/'out') in r.stderr
