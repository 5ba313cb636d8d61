"Every notebook runs, top to bottom, in a fresh kernel"
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from lab import free_port
from nbclient import NotebookClient

from sa_toolkit.record import open_run
from sa_toolkit.study import read_cells

ROOT = Path(__file__).parents[1]
FULL = bool(os.environ.get('SA_FULL'))

def execute(path, **replace):
    "Run a notebook in a temporary folder's kernel; `replace` sets parameters of its first parameter cell"
    nb = nbformat.read(path, 4)
    for name, value in replace.items():
        cell = next(c for c in nb.cells if c.cell_type == 'code' and f'\n{name} = ' in '\n' + c.source)
        cell.source = '\n'.join(f'{name} = {value!r}' if line.startswith(f'{name} = ') else line for line in cell.source.split('\n'))
    NotebookClient(nb, timeout=1800, kernel_name='python3').execute()
    return nb

@pytest.mark.parametrize('path', sorted((ROOT/'nbs').glob('*.ipynb')), ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(path)

def test_tutorial_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {} if FULL else dict(STEPS=4, TRAIN_CHAINS=40, TEST_CHAINS=8)
    nb = execute(ROOT/'tutorials'/'01_align_and_see.ipynb', OUT=str(tmp_path/'out'), **small)
    shown = [m for c in nb.cells if c.cell_type == 'code' for o in c.outputs for m in o.get('data', {})]
    assert 'application/vnd.jupyter.widget-view+json' in shown and 'image/png' in shown
    assert (tmp_path/'out'/'model'/'config.json').exists()

def test_data_tutorial_runs_without_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SA_TOOLKIT_OFFLINE', '1')
    monkeypatch.setenv('SA_TOOLKIT_CACHE', str(tmp_path/'cache'))
    nb = execute(ROOT/'tutorials'/'02_prepare_your_data.ipynb', **({} if FULL else dict(CARRIED=24)))
    said = ' '.join(o.text for c in nb.cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'stream')
    assert 'offline stand-in' in said and '4X21_again.cif.gz cannot be read' in said and 'refused in strict mode' in said
    assert '4X21_again.cif.gz,,refused' in (tmp_path/'my-dataset'/'report.csv').read_text() and 'resolved residues; go on from' in said

def test_align_tutorial_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nb = execute(ROOT/'tutorials'/'03_align_your_model.ipynb', **({} if FULL else dict(STEPS=3, CHAINS=24, MODEL='tiny')))
    said = ' '.join(o.text for c in nb.cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'stream')
    assert 'the lid was closed' in said and 'belongs to another run: lora 8 there, 4 here' in said and 'with sa_toolkit: False' in said
    full, lora = (open_run(tmp_path/'my-alignment'/k) for k in ('full', 'lora'))
    assert full.state == lora.state == 'finished' and [s['state'] for s in lora.record['sessions']] == ['stopped: the lid was closed', 'finished']
    assert lora.record['model']['trained'] < full.record['model']['trained'] and lora.metrics['step'].tolist() == full.metrics['step'].tolist()

def test_many_gpus_tutorial_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(ROOT/'tutorials'/'04_many_gpus.ipynb', **({} if FULL else dict(CHAINS=40)))
    out = tmp_path/'my-many-gpus'
    one, two_passes, *same = (open_run(out/k).metrics for k in ('one', 'two-passes', 'ddp', 'fsdp', 'killed', 'cached'))
    for other in same: assert max(abs(one[k]-other[k]).max() for k in ('loss', 'mlm', 'physical', 'latent')) < 2e-6
    assert two_passes['latent'][0] < one['latent'][0]-.3
    sessions = open_run(out/'killed').record['sessions']
    assert [(s['from_step'], s['to_step']) for s in sessions] == [(0, 3), (3, 6)] and sessions[1]['state'] == 'finished'
    assert sessions[0]['state'] == 'stopped: terminated' or re.match('failed: .*(reset|closed) by peer', sessions[0]['state']) # torchrun's signal, or gloo's news that the partner is gone, whichever comes first
    check_slurm_script(tmp_path, out)

def check_slurm_script(folder, out):
    "The batch script with stand-ins for Slurm, on one machine: told to end, it saves and queues itself again"
    (folder/'bin').mkdir()
    for name, text in dict(srun='shift\nexec "$@"', scontrol='if [ $1 = show ]; then echo localhost; else echo "$@" > told; fi').items():
        (folder/'bin'/name).write_text(f'#!/bin/bash\n{text}\n')
        (folder/'bin'/name).chmod(0o755)
    options = f'--model tiny --reference {out}/one/reference/model --steps 2000 --budget 1400 --lr 1e-3 --eval-every 2000 --no-contacts'
    script = re.sub('--model.*--eval-every 200', options, (out/'align.sh').read_text(), flags=re.S)
    (folder/'job.sh').write_text(script.replace('--nproc-per-node=8', '--nproc-per-node=2').replace('29500', str(free_port())))
    slurm = dict(SLURM_CPUS_PER_TASK='8', SLURM_JOB_NODELIST='here', SLURM_JOB_NUM_NODES='1', SLURM_JOB_ID='77', DATA=str(out/'dataset'), RUN='run')
    path = os.pathsep.join([str(folder/'bin'), str(Path(sys.executable).parent), os.environ['PATH']])
    job = subprocess.Popen(['bash', 'job.sh'], cwd=folder, env=os.environ | slurm | dict(PATH=path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic()+300
        while not list((folder/'run'/'kept').glob('*.parquet')) and job.poll() is None and time.monotonic() < until: time.sleep(.2) # until a step was done
        job.send_signal(signal.SIGTERM)
        assert job.wait(120) == 143
    finally: job.kill()
    run = open_run(folder/'run')
    assert run.state == 'stopped: terminated' and 0 < run.record['step'] < 2000 and (folder/'run'/'checkpoint.pt').exists()
    assert (folder/'told').read_text() == 'requeue 77\n'

def test_parts_tutorial_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nb = execute(ROOT/'tutorials'/'05_what_each_part_brings.ipynb', **({} if FULL else dict(STEPS=2)))
    made = [read[0] for read in read_cells(tmp_path/'my-parts'/'results')]
    assert {f['arm']: f['steps'] for f in made} == {'base': 0, 'MLM only': 20 if FULL else 2, 'dual': 20 if FULL else 2}
    last = [o['data']['text/html'] for c in nb.cells if c.cell_type == 'code' for o in c.outputs if 'text/html' in o.get('data', {})][-1]
    assert 'dual' in last and 'too small to judge' in last

def test_the_site_can_run_what_it_shows():
    "nbdev runs a cell that imports while it renders a page, also where the import is inside a function; no exported name is there then"
    hidden = re.compile(r'^[ ]+(from \S+ )?import ', re.M)
    cells = [(p.name, c.source) for p in (ROOT/'nbs').glob('*.ipynb') for c in nbformat.read(p, 4).cells if c.cell_type == 'code' and '#| export' not in c.source]
    assert not [(name, source) for name, source in cells if hidden.search(source) and "'''" not in source]

WITH_PICTURES = dict.fromkeys((ROOT/'tutorials').glob('*.ipynb'), 0) | dict.fromkeys((ROOT/'nbs').rglob('*.ipynb'), 0) | {ROOT/'tutorials'/'01_align_and_see.ipynb': 5, ROOT/'tutorials'/'06_explore_a_protein.ipynb': 9}

@pytest.mark.parametrize('path, least', sorted(WITH_PICTURES.items()), ids=lambda x: getattr(x, 'stem', ''))
def test_saved_outputs_show_on_github(path, least):
    "Where nothing runs, a view is the picture in its output"
    shown = [o.get('data', {}) for c in nbformat.read(path, 4).cells if c.cell_type == 'code' for o in c.outputs]
    assert sum('image/png' in d for d in shown) >= least
    assert all('image/png' in d for d in shown if 'application/vnd.jupyter.widget-view+json' in d)

@pytest.mark.parametrize('path', sorted((ROOT/'tutorials').glob('*.ipynb')), ids=lambda p: p.stem)
def test_a_tutorial_begins_with_install_and_a_form(path):
    "One cell that installs only where the package is missing, then parameters that Colab shows as a form"
    install, form = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code'][:2]
    assert re.fullmatch(r'try: import (peft, )?sa_toolkit\nexcept ImportError:\n    %pip install -q "sa-toolkit\[lab(,lora)?\]"', install)
    assert all(re.fullmatch(r'[A-Z_]+ = .+ #@param \{type:"(string|integer|number|boolean|raw)"\}', line) for line in form.split('\n'))

@pytest.mark.parametrize('path', sorted((ROOT/'tutorials').glob('*.ipynb')), ids=lambda p: p.stem)
def test_saved_outputs_are_whole(path):
    shown = [o for c in nbformat.read(path, 4).cells if c.cell_type == 'code' for o in c.outputs]
    assert shown and all(o.output_type != 'error' for o in shown) and not re.search(r'/(tmp|home|root)/|site-packages', str(shown))
