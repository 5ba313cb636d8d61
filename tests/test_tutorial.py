"Tutorials opened in a real JupyterLab, stepped through and clicked: the first, and the one about looking"
import os
import time
from pathlib import Path

import lab as driver
import nbformat
import pytest

reason = driver.browser_or_reason()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason or '')
ROOT = Path(__file__).parents[1]
SMALL = {'01_align_and_see': dict(STEPS=3, TRAIN_CHAINS=30, TEST_CHAINS=6), '06_explore_a_protein': dict(MODEL="'tiny'", STEPS=2, CHAINS=6)}

def lay_out(name, folder):
    "A tutorial without its saved outputs, at few steps unless SA_FULL is set"
    nb = nbformat.read(ROOT/'tutorials'/f'{name}.ipynb', 4)
    for c in (c for c in nb.cells if c.cell_type == 'code'):
        c.outputs = []
        for k, v in ({} if os.environ.get('SA_FULL') else SMALL[name]).items():
            c.source = '\n'.join(f'{k} = {v}' if line.startswith(f'{k} = ') else line for line in c.source.split('\n'))
    nbformat.write(nb, folder/f'{name}.ipynb')

@pytest.fixture(scope='module')
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tutorials')
    for name in SMALL: lay_out(name, folder)
    with driver.lab(folder, tmp_path_factory.mktemp('home')) as url: yield url

def opened(page, url, name):
    page.set_default_timeout(900_000)
    driver.open_notebook(page, url, f'{name}.ipynb')
    page.set_default_timeout(60_000)

def view_of(page, start):
    "The view of the cell whose code starts like that"
    cell = page.locator('.jp-CodeCell').filter(has=page.locator('.jp-InputArea', has_text=start)).first
    shown, until = cell.locator(driver.STRUCTURE), time.monotonic()+120
    while not shown.count() and time.monotonic() < until: # cells above that are laid out late push it off the screen again
        cell.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
    shown.wait_for()
    driver.bring(shown, '.sa-map, .sa-heat-map') # the mutation view has a table in place of the map
    return shown

def click_pair(page, shown, pair, name):
    driver.click_pair(page, shown, *pair)
    page.wait_for_function("([root, text]) => root.dataset.selection === text && root.dataset.highlighted === text", arg=[shown.element_handle(), ','.join(map(str, pair))])
    driver.python_has(page, pair, name)
    page.wait_for_timeout(400)

def test_01_in_jupyterlab(url, shots):
    with driver.browse(size=(1400, 1200)) as page:
        opened(page, url, '01_align_and_see')
        for name, pair in (('view', [10, 60]), ('changes', [5, 40]), ('matched', [20, 52])):
            shown = view_of(page, f'{name} = ')
            click_pair(page, shown, pair, name)
            shown.screenshot(path=shots/f'tutorial_{name}.png')
        assert driver.python(page, 'print(demo.results is not None, (demo.out/"model"/"config.json").exists())') == 'True True'
        page.screenshot(path=shots/'tutorial_lab.png')
        assert page.outside == [] and page.errors == []

def test_06_in_jupyterlab(url, shots):
    with driver.browse(size=(1400, 1200)) as page:
        opened(page, url, '06_explore_a_protein')
        for name, pair in (('view', [10, 60]), ('kinase_view', [60, 90]), ('mutations', None), ('matched', None), ('kinase_matched', None), ('changes', [40, 90])):
            shown = view_of(page, 'view = explore(file)' if name == 'view' else f'{name} = ')
            if name == 'view': assert shown.locator('.sa-control', has_text='ligands').count() == 1, 'the haem can be shown'
            if pair: click_pair(page, shown, pair, name)
            shown.screenshot(path=shots/f'explore_{name}.png')
        said = driver.python(page, "print(near(alpha, [a for a in haem if a[1]=='FE'], 4).to_dict(), 'M149' in pocket, sorted(set(relatives.train.tolist())))")
        assert said == "{'H87': 2.1} True ['3MKB_B', '4X21_A']", 'proximal histidine, hinge, and the relatives that training leaves out'
        assert page.outside == [] and page.errors == []
