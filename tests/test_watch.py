"Watching a run and keeping its record: resumed, killed, without room, damaged; and the dashboard in a real browser"
import copy
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lab as driver
import numpy as np
import pytest
import torch

from sa_toolkit import record as recorded
from sa_toolkit import curves, watch
from sa_toolkit.core import example_chains
from sa_toolkit.record import RunFolder, open_run
from sa_toolkit.selection import Selected
from sa_toolkit.train import AlignConfig

SETUP = '''
import numpy as np, time, torch
from sa_toolkit.core import example_chains
from sa_toolkit.data import encode_chains
from sa_toolkit.pgnn import load_pgnn
from sa_toolkit.plm import load_plm
from sa_toolkit.tokens import load_tokenizer
from sa_toolkit.train import AlignConfig, Aligner, Learner
torch.set_num_threads(1)
examples, valid = (encode_chains(example_chains(s)[:n], load_pgnn(), load_tokenizer()) for s,n in (('train', 4), ('valid', 1)))
def learner(steps=10, callbacks=(), out=None, every=5, **kw):
    reference = Aligner(load_plm('tiny', seed=2), 128, seed=1)
    return Learner(Aligner(load_plm('tiny', seed=1), 128), examples, AlignConfig(steps=steps, budget=1024, eval_every=every, **kw), reference, callbacks, valid, out)
'''


class Played:
    "A learner that makes numbers up, and calls as the real one does"
    def __init__(self, callbacks, out=None, steps=6, every=3, fail=None, main=True, step=0, history=(), evals=(), cfg=None):
        self.cfg, self.callbacks, self.out, self.main, self.fail, self.every = cfg or AlignConfig(steps=steps, eval_every=every), callbacks, out, main, fail, every
        self.examples, self.valid, self.reference, self.stopped = [SimpleNamespace(chain=c) for c in example_chains('valid')[:3]], None, None, None
        from sa_toolkit.known import Weights
        weights = Weights('made up', '/home/somebody/secret', 'random', 'none')
        plm = SimpleNamespace(name='made up', weights=weights, contact_head=None, max_length=1022, device=torch.device('cpu'), parameters=lambda: iter([]))
        self.model = SimpleNamespace(plm=plm, parameters=lambda: iter([torch.zeros(3)]))
        self.step, self.history, self.evals, self.selected = step, list(history), list(evals), {}

    def call(self, event):
        for c in self.callbacks: getattr(c, event, lambda _: None)(self)
    def stop(self, reason): self.stopped = reason

    def choice(self, row):
        n = len(self.examples[row].chain)
        return Selected(torch.full((n,), row), torch.arange(n), torch.linspace(-1, 1, n), torch.arange(n) % 2==0)

    def fit(self):
        self.call('before_fit')
        try:
            while self.step < self.cfg.steps and not self.stopped:
                self.step += 1
                self.selected = dict(a2g=self.choice(self.step % 3))
                self.history.append(dict(step=self.step, loss=1/self.step, mlm=2., residues=100, seconds=.1))
                self.call('after_step')
                if self.fail and self.step==self.fail[0]: raise self.fail[1]
                if self.step % self.every==0:
                    self.evals.append(dict(step=self.step, valid_loss=1.5))
                    self.call('after_eval')
        finally: self.call('after_fit')
        return self


def test_a_resumed_run_goes_on_in_the_same_files(tmp_path):
    with pytest.raises(RuntimeError): Played([RunFolder(tmp_path)], fail=(5, RuntimeError('out of memory\nmore'))).fit()
    run = open_run(tmp_path)
    assert run.state == 'failed: out of memory' and run.metrics['step'].tolist() == [1, 2, 3, 4, 5]
    kept = [dict(step=k+1, loss=1/(k+1), mlm=2., residues=100, seconds=.1) for k in range(4)] # of a checkpoint at step 4
    Played([RunFolder(tmp_path)], step=4, history=kept, evals=[dict(step=3, valid_loss=1.5)]).fit()
    run = open_run(tmp_path)
    assert run.state == 'finished' and run.metrics['step'].tolist() == [1, 2, 3, 4, 5, 6] and run.evals['step'].tolist() == [3, 6]
    assert [(s['from_step'], s['to_step']) for s in run.record['sessions']] == [(0, 5), (4, 6)]
    assert len((tmp_path/'metrics.csv').read_text().splitlines()) == 7
    assert not [p for p in tmp_path.rglob('*.part*')]


def test_a_record_names_no_place_on_this_machine(tmp_path):
    Played([RunFolder(tmp_path/'run')]).fit()
    assert 'somebody' not in (tmp_path/'run'/'run.json').read_text() and open_run(tmp_path/'run').record['model']['weights']['name'] == 'made up'


def test_a_callback_that_adds_later_is_not_lost(tmp_path):
    class Adds:
        def after_step(self, learn): learn.history[-1] |= dict(extra=float(learn.step), words=f'at {learn.step}') if learn.step > 3 else {}
        def after_eval(self, learn): learn.evals[-1]['perplexity'] = 10.+learn.step
    Played([RunFolder(tmp_path, every=0), Adds()]).fit()
    run = open_run(tmp_path)
    assert np.isnan(run.metrics['extra'][:3]).all() and run.metrics['extra'][3:].tolist() == [4, 5, 6] and run.metrics['words'][-1] == 'at 6'
    assert run.evals['perplexity'].tolist() == [13, 16] and 'perplexity 16' in run._repr_html_()
    assert 'perplexity' in [p['title'] for p in run.data()['panels']]


def test_only_the_first_rank_writes(tmp_path):
    Played([RunFolder(tmp_path/'run'), watch.TensorBoard(tmp_path/'tb'), watch.Dashboard()], main=False).fit()
    assert not list(tmp_path.iterdir())


def test_a_stop_has_its_reason(tmp_path):
    class Stop:
        def after_step(self, learn): learn.stop('perplexity rose') if learn.step==2 else None
    board = watch.Dashboard()
    Played([RunFolder(tmp_path), board, Stop()]).fit()
    assert open_run(tmp_path).state == 'stopped: perplexity rose' and board.data['said'].endswith('stopped: perplexity rose')
    with pytest.raises(KeyboardInterrupt): Played([RunFolder(tmp_path/'b')], fail=(2, KeyboardInterrupt())).fit()
    assert open_run(tmp_path/'b').state == 'stopped: interrupted'
    try: raise ValueError('before')
    except ValueError: Played([RunFolder(tmp_path/'c')]).fit() # a run inside the handling of an error did not fail for that
    assert open_run(tmp_path/'c').state == 'finished'


def test_a_full_disk_does_not_end_a_run(tmp_path, monkeypatch, capsys):
    def full(*a, **kw): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    class Fill:
        def after_step(self, learn):
            if learn.step==2: monkeypatch.setattr(recorded, 'write_tables', full)
            if learn.step==5: monkeypatch.undo()
    learn = Played([RunFolder(tmp_path, every=0), Fill()]).fit()
    said = capsys.readouterr().err
    assert learn.step == 6 and said.count('No space left on device') == 1 and 'training goes on' in said
    assert open_run(tmp_path).metrics['step'].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path/'file').write_text('x')
    with pytest.raises(OSError, match='cannot be written to .* Choose another folder'): Played([RunFolder(tmp_path/'file'/'run')]).fit()
    if os.geteuid():
        (tmp_path/'closed').mkdir(mode=0o500)
        with pytest.raises(OSError, match='cannot be written to'): Played([RunFolder(tmp_path/'closed')]).fit()


def test_hostile_names_stay_text(tmp_path):
    evil = '</script><img src=x onerror=alert(1)>'
    learn = Played([folder := RunFolder(tmp_path, chain=0)])
    chain = copy.copy(learn.examples[0].chain)
    object.__setattr__(chain, 'id', evil)
    learn.examples[0].chain, learn.model.plm.name = chain, evil
    learn.fit()
    assert folder.kept.chain.id == evil
    for text in ((tmp_path/'report.html').read_text(), open_run(tmp_path)._repr_html_()): assert '<img' not in text


def test_a_long_run_stays_cheap(tmp_path):
    "With 20,000 rows an update sends as many points as with 600"
    rows = [dict(step=k+1, loss=1/(k+1), mlm=2., residues=100, seconds=.1, grad_norm=1.) for k in range(20_000)]
    cols = curves.Columns()
    cols.read(rows[:-1])
    start = time.process_time()
    data = curves.dashboard_data('long', cols.read(rows), {}, 20_000, 30_000)
    assert time.process_time()-start < .1
    assert len(json.dumps(data)) < 20_000 and all(len(x['x']) <= 300 for p in data['panels'] for x in p['lines'])
    assert data['panels'][0]['lines'][0]['x'][-1] == 20_000


def watched(model, steps, every=0, eval_every=0, budget=2048, held_out=8):
    "What a run and all of its dashboard take: processor seconds of this thread, in the run and in the dashboard's callbacks, the longest of these, evaluations with contacts"
    from sa_toolkit.data import encode_chains
    from sa_toolkit.pgnn import load_pgnn
    from sa_toolkit.plm import load_plm
    from sa_toolkit.tokens import load_tokenizer
    from sa_toolkit.train import Aligner, Learner
    torch.set_num_threads(1)
    train, valid = (encode_chains(example_chains(s)[:n], load_pgnn(), load_tokenizer()) for s, n in (('train', 16), ('valid', held_out)))
    spent = []
    class Timed:
        def __init__(self, callback): self.callback = callback
        def __getattr__(self, name):
            if name not in ('before_fit', 'after_step', 'after_eval', 'after_fit') or not hasattr(self.callback, name): raise AttributeError(name)
            def call(learn):
                start = time.thread_time()
                getattr(self.callback, name)(learn)
                spent.append(time.thread_time()-start)
            return call
    models = [Aligner(load_plm(model, pretrained=False, seed=s), 128) for s in (1, 2)]
    cfg = AlignConfig(steps=steps, budget=budget, eval_every=eval_every or max(1, steps//10))
    learn = Learner(models[0], train, cfg, models[1], [Timed(watch.WatchContacts()), Timed(watch.Dashboard(every=every))], valid)
    start = time.thread_time()
    learn.fit()
    return time.thread_time()-start, sum(spent), max(spent), [e['step'] for e in learn.evals if 'contacts_long' in e]


def test_watching_is_cheap():
    "Fast steps, an evaluation after each, an update whenever allowed: 1.5 % for looking, updating and contacts, beyond what is free and the last ones"
    ran, spent, most, seen = watched('tiny', 20, eval_every=1, budget=1024, held_out=2)
    assert spent < 3*watch.FREE + .015*ran + 4*most, f'{spent:.2f} of {ran:.2f} s'
    assert seen[0] == 0 and seen[-1] == 20 and len(seen) < 21 # the first and the last evaluation, and not all


def test_contacts_are_left_out_with_a_sentence(capsys):
    learn = Played([watch.WatchContacts([example_chains('valid')[0]])]).fit()
    assert 'Contacts are not watched: made up has no contact head.' in capsys.readouterr().err and 'contacts_long' not in learn.evals[-1]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(ImportError, match='pip install tensorboard'): Played([watch.TensorBoard(tmp_path)]).fit()


def test_a_killed_run_can_be_read(tmp_path):
    code = f'''
import time
from test_watch import Played, RunFolder
class Slow:
    def after_step(self, learn): time.sleep(.01)
Played([RunFolder({str(tmp_path/"run")!r}, every=.05), Slow()], steps=10**6, every=10**6).fit()
'''
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
    for _ in range(600):
        time.sleep(.1)
        if (tmp_path/'run'/'metrics.parquet').exists() or process.poll() is not None: break
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    assert (tmp_path/'run'/'metrics.parquet').exists(), said
    run = open_run(tmp_path/'run')
    assert run.state.startswith('running, or killed') and run.metrics['step'].tolist() == list(range(1, len(run.metrics['step'])+1))


# ---- in a browser ----

reason = driver.browser_or_reason()
in_browser = pytest.mark.skipif(bool(reason), reason=reason or '')

LIVE = '''
from pathlib import Path
from sa_toolkit.watch import Dashboard, WatchContacts
class Hold:
    "Waits at two steps until the test has seen them"
    def after_step(self, learn):
        for _ in range(600):
            if learn.step not in (8, 16) or Path(f'seen{learn.step}').exists(): break
            time.sleep(.1)
board = Dashboard(0, every=.1)
run = learner(24, [WatchContacts(), board, Hold()], every=4)
'''

def reached(page, step, state='running'):
    "A dashboard on the page is at a step"
    page.wait_for_function("([step, state]) => { const d = document.querySelector('.sa-dashboard')?.dataset; return d && Number(d.step) >= step && d.state === state }",
        arg=[step, state], timeout=240_000) # the kernel imports and encodes first

@in_browser
def test_dashboard_follows_a_run_in_jupyterlab(tmp_path, tmp_path_factory, shots):
    driver.write_notebook(tmp_path/'live.ipynb', SETUP + LIVE, 'run.fit();', 'board')
    with driver.lab(tmp_path, tmp_path_factory.mktemp('home')) as url, driver.browse(size=(1280, 1000), scale=1.5) as page:
        driver.open_notebook(page, url, 'live.ipynb', run=False)
        driver.change_theme(page, 'JupyterLab Light')
        page.evaluate("() => { window.ran = window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        reached(page, 7)
        view = page.locator('.sa-dashboard')
        titles = view.locator('.sa-chart .sa-chart-title').all_inner_texts()
        assert titles == [*curves.LOSSES.values(), 'residues per second', 'contacts, P@L'] and 'step' in view.locator('.sa-subtitle').first.inner_text()
        assert view.locator('.sa-strip-pair').count() == 3
        view.screenshot(path=shots/'dashboard_light.png')
        (tmp_path/'seen8').touch()
        reached(page, 15)
        driver.change_theme(page, 'JupyterLab Dark')
        view.screenshot(path=shots/'dashboard_dark.png')
        (tmp_path/'seen16').touch()

        assert page.evaluate('window.ran')
        page.locator('.jp-OutputArea img').wait_for(timeout=60_000) # the finished run left a picture in its cell
        reached(page, 24, 'finished')
        assert view.count() == 1 # and the live form is where `board` asked for it
        page.locator('.jp-OutputArea img').screenshot(path=shots/'dashboard_left_behind.png')

        view.scroll_into_view_if_needed()
        values = view.locator('.sa-chart').first.locator('.sa-value')
        last = values.all_inner_texts()
        said = driver.python(page, '''losses = [h['loss'] for h in run.history]\nprint(f'train {np.mean(losses[-3:]):.2f}|valid {run.evals[-1]["valid_loss"]:.2f}|train {losses[-1]:.2f}')''').split('|')
        assert last == said[:2]
        box = view.locator('.sa-svg').first.bounding_box()
        page.mouse.move(box['x'] + box['width']*.3, box['y'] + 30)
        assert values.all_inner_texts() != last and view.locator('.sa-at').count() == 6
        page.mouse.move(5, 5)
        assert values.all_inner_texts() == last
        view.locator('.sa-charts').focus()
        page.keyboard.press('ArrowLeft')
        assert view.get_attribute('data-at') == '23'
        page.keyboard.press('Escape')
        assert view.get_attribute('data-at') == ''
        view.locator('input[type=range]').focus()
        for _ in range(5): page.keyboard.press('ArrowLeft')
        assert view.locator('.sa-smooth').inner_text().endswith('none')
        assert abs(float(values.first.inner_text().split()[1]) - float(said[2].split()[1])) < .011 # not smoothed; rounded twice

        view.locator('.sa-strips').focus()
        for _ in range(3): page.keyboard.press('ArrowRight')
        readout = view.locator('.sa-readout').inner_text()
        name, times = driver.python(page, "from sa_toolkit.views import residue_names; print(residue_names(examples[0].chain)[2], int(board.track.tasks['a2g']['seen'][2]))").split()
        assert readout.startswith(f'{name} · ') and f'of {times} times' in readout
        view.screenshot(path=shots/'dashboard_pointed.png')
        assert page.outside == [] and page.errors == []


@in_browser
def test_report_opens_from_disk(tmp_path, shots):
    Played([RunFolder(tmp_path, chain=0)], steps=40).fit()
    with driver.browse(size=(1000, 620), scale=1.5) as page:
        page.goto((tmp_path/'report.html').as_uri())
        view = page.locator('.sa-dashboard[data-state=finished]')
        view.wait_for()
        assert view.locator('.sa-chart').count() == 3 and view.locator('.sa-strip-pair').count() == 1
        page.screenshot(path=shots/'report_light.png')
        page.emulate_media(color_scheme='dark')
        page.screenshot(path=shots/'report_dark.png')
        page.set_viewport_size(dict(width=390, height=800))
        assert page.evaluate('document.documentElement.scrollWidth') <= 390 # a phone scrolls in one direction only
        page.screenshot(path=shots/'report_phone.png')
        assert page.outside == [] and page.errors == []


if __name__ == '__main__': # python tests/test_watch.py esm2-8M 60: what the dashboard costs
    ran, spent, most, seen = watched(sys.argv[1], int(sys.argv[2]), every=1)
    print(f'{sys.argv[1]}, {sys.argv[2]} steps: {ran:.1f} s, of which {spent:.2f} s ({spent/ran:.2%}) in the dashboard, at most {most:.2f} s at once; contacts at steps {seen}')
