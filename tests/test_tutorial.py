"The first tutorial, opened in a real JupyterLab, stepped through and clicked"
import os
from pathlib import Path

import lab as driver
import nbformat
import pytest

reason = driver.browser_or_reason()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason or '')
ROOT = Path(__file__).parents[1]
SMALL = dict(STEPS=3, TRAIN_CHAINS=30, TEST_CHAINS=6)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "The tutorial without its saved outputs, at few steps unless SA_FULL is set"
    nb, root = nbformat.read(ROOT/'tutorials'/'01_align_and_see.ipynb', 4), tmp_path_factory.mktemp('tutorials')
    for c in (c for c in nb.cells if c.cell_type == 'code'):
        c.outputs = []
        for k, v in ({} if os.environ.get('SA_FULL') else SMALL).items():
            c.source = '\n'.join(f'{k} = {v}' if line.startswith(f'{k} = ') else line for line in c.source.split('\n'))
    nbformat.write(nb, root/'tutorial.ipynb')
    return root

def test_tutorial_in_jupyterlab(folder, tmp_path_factory):
    shots = Path(os.environ.get('SA_SHOTS') or tmp_path_factory.mktemp('shots'))
    shots.mkdir(parents=True, exist_ok=True)
    with driver.lab(folder, tmp_path_factory.mktemp('home')) as url, driver.browse(size=(1400, 1200)) as page:
        page.set_default_timeout(900_000)
        driver.open_notebook(page, url, 'tutorial.ipynb')
        page.set_default_timeout(60_000)
        for name, pair in (('view', [10, 60]), ('changes', [5, 40]), ('matched', [20, 52])):
            cell = page.locator('.jp-CodeCell').filter(has=page.locator('.jp-InputArea', has_text=f'{name} = '))
            cell.first.scroll_into_view_if_needed()
            shown = cell.first.locator(driver.STRUCTURE)
            shown.wait_for()
            driver.bring(shown)
            driver.click_pair(page, shown, *pair)
            page.wait_for_function("([root, text]) => root.dataset.selection === text && root.dataset.highlighted === text", arg=[shown.element_handle(), ','.join(map(str, pair))])
            driver.python_has(page, pair, name)
            page.wait_for_timeout(400)
            shown.screenshot(path=shots/f'tutorial_{name}.png')
        assert driver.python(page, 'print(demo.results is not None, (demo.out/"model"/"config.json").exists())') == 'True True'
        page.screenshot(path=shots/'tutorial_lab.png')
        assert page.outside == [] and page.errors == []
