"The wheel and the sdist as users get them: a fresh environment outside the checkout"
import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

def sh(*cmd, **kw):
    r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, **kw)
    assert r.returncode == 0, f'{cmd}\n{r.stdout[-3000:]}\n{r.stderr[-3000:]}'
    return r

@pytest.fixture(scope='module')
def dist(copy, tmp_path_factory):
    out = tmp_path_factory.mktemp('dist')
    sh(sys.executable, '-m', 'build', '-q', '-o', out, copy)
    return next(out.glob('*.whl')), next(out.glob('*.tar.gz'))

def test_wheel_holds_what_it_needs_and_no_more(dist, root):
    wheel, sdist = dist
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.stat().st_size < 12e6
    for p in (root/'sa_toolkit').rglob('*'):
        if p.is_file() and '__pycache__' not in p.parts: assert p.relative_to(root).as_posix() in names
    assert all(n.startswith(('sa_toolkit/', 'sa_toolkit-')) for n in names)
    assert any(n.endswith('licenses/NOTICE') for n in names) and any(n.endswith('licenses/LICENSE') for n in names)
    assert any(n.endswith('/pyproject.toml') for n in tarfile.open(sdist).getnames())

def test_nothing_of_the_gpl_carrier_is_in_the_wheel(dist):
    from safetensors.numpy import load
    from sa_toolkit.hub import CARRIER
    files = zipfile.ZipFile(dist[0])
    held = {n: files.read(n) for n in files.namelist()}
    assert not {CARRIER['sha256'], CARRIER['wheel_sha256']} & {hashlib.sha256(b).hexdigest() for b in held.values()}
    tensors = {n: set(load(b)) for n, b in held.items() if n.endswith('.safetensors')}
    assert tensors.pop('sa_toolkit/assets/lm_head.safetensors') == {'lm_head.bias', 'lm_head.dense.bias', 'lm_head.dense.weight', 'lm_head.layer_norm.bias', 'lm_head.layer_norm.weight'}
    assert sorted(tensors) == [f'sa_toolkit/assets/proteinmpnn_{k}v_48_020.safetensors' for k in ('ca_', '')]
    assert not any(n.endswith(('.bin', '.pt', '.pth', '.ckpt')) for n in held)

def venv(folder):
    sh(sys.executable, '-m', 'venv', folder)
    return folder/('Scripts' if os.name == 'nt' else 'bin')

def test_wheel_works_outside_the_checkout(dist, root, tmp_path):
    b = venv(tmp_path/'v')
    sh(b/'pip', 'install', '-q', '-c', root/'constraints.txt', f'{dist[0]}[lab]')
    (tmp_path/'work').mkdir()
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    where = sh(b/'python', '-c', 'import sa_toolkit; print(sa_toolkit.__file__)', cwd=tmp_path/'work').stdout
    assert str(tmp_path/'v') in where
    r = sh(b/'sa-toolkit', 'demo', '--steps', 5, '--train-chains', 60, '--test-chains', 12, cwd=tmp_path/'work', env=env)
    assert 'aligned' in r.stdout and (tmp_path/'work'/'sa-demo'/'model'/'model.safetensors').exists()
    code = f"""import nbformat, sys
from nbclient import NotebookClient
nb = nbformat.read(r'{root/"tutorials"/"01_align_and_see.ipynb"}', 4)
for c in nb.cells:
    for k, v in dict(STEPS=3, TRAIN_CHAINS=30, TEST_CHAINS=6, OUT="'tutorial'").items():
        c.source = '\\n'.join(f'{{k}} = {{v}}' if line.startswith(k + ' = ') else line for line in c.source.split('\\n'))
NotebookClient(nb, timeout=900, kernel_name='python3').execute()
print('tutorial ran')"""
    assert 'tutorial ran' in sh(b/'python', '-c', code, cwd=tmp_path/'work', env=env).stdout
