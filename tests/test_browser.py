"Views in a real JupyterLab and as files: clicked, pointed at, steered from Python, photographed"

import lab as driver
import pytest

reason = driver.browser_or_reason()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason or '')

SETUP = '''
import numpy as np
from sa_toolkit.core import example_chains, make_chain
from sa_toolkit.widgets import LinkedView, compare_models, explore, residue_alignment
whole = next(c for c in example_chains() if 90 < len(c) < 160 and c.resolved.all())
hidden = (np.arange(len(whole)) > 40) & (np.arange(len(whole)) < 47)
chain = make_chain(whole.id, whole.sequence, np.where(hidden[:,None,None], np.nan, whole.coords), author_number=whole.author_number + 100)
distance = np.nan_to_num(np.linalg.norm(whole.cb[:,None].astype(float)-whole.cb[None], axis=-1))
def guess(noise, seed):
    d = distance + np.random.default_rng(seed).normal(scale=noise, size=distance.shape)
    return 1/(1+np.exp(((d+d.T)/2-8)/1.2))
'''


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp('notebooks')
    driver.write_notebook(root/'explore.ipynb', SETUP, 'view = explore(chain, guess(3, 0))\nview', 'view')
    driver.write_notebook(root/'static.ipynb', SETUP, 'compare_models(chain, guess(9, 1), guess(4, 2)).static()')
    driver.write_notebook(root/'others.ipynb', SETUP, 'compared = compare_models(chain, guess(9, 1), guess(4, 2))\ncompared',
        'score = np.where(hidden, np.nan, guess(4, 3).mean(1))\naligned = residue_alignment(chain, score, np.cos(distance/6))\naligned')
    with driver.lab(root, tmp_path_factory.mktemp('home')) as url: yield url


def follows(page, view, expected):
    "The map, the structure and the sequence all show a selection"
    text = ','.join(map(str, expected))
    page.wait_for_function("([root, text]) => root.dataset.selection === text && root.dataset.highlighted === text", arg=[view.element_handle(), text])
    chosen = view.locator('.sa-letter.sa-selected').evaluate_all('nodes => nodes.map(node => Number(node.dataset.position))')
    assert sorted(chosen) == sorted(expected)


def click_residue(page, view):
    "Click residues of the structure, nearest first, until one is hit that is not yet selected; give its position"
    before = view.get_attribute('data-selection')
    for i, x, y in driver.pointable_residues(view)[:12]:
        page.mouse.click(x, y)
        page.wait_for_timeout(200)
        if view.get_attribute('data-selection') != before: return int(view.get_attribute('data-selection')), i
    raise AssertionError('No click on the structure selected a residue.')


def test_explore_in_jupyterlab(server, shots):
    with driver.browse(scale=1.5) as page:
        driver.open_notebook(page, server, 'explore.ipynb')
        view = page.locator(driver.STRUCTURE).first
        view.wait_for(timeout=60_000)
        driver.change_theme(page, 'JupyterLab Light')
        scene = view.locator('.sa-scene')
        plain = driver.accent_pixels(scene.screenshot())

        driver.click_pair(page, view, 12, 60)
        follows(page, view, [12, 60])
        driver.python_has(page, [12, 60])
        page.wait_for_timeout(300)
        assert driver.accent_pixels(scene.screenshot()) > plain + 200
        labels = driver.python(page, 'print(chain.labels[12].number, chain.labels[60].number)').split()
        assert all(n in view.locator('.sa-readout').inner_text() for n in labels)
        view.screenshot(path=shots/'explore_light.png')

        page.keyboard.press('ArrowDown')
        follows(page, view, [13, 60])
        page.keyboard.press('ArrowLeft')
        follows(page, view, [13, 59])
        driver.python_has(page, [13, 59])

        got, near = click_residue(page, view)
        assert abs(got-near) <= 2
        driver.python_has(page, [got])
        follows(page, view, [got])

        driver.python(page, 'view.selection = [3, 80]')
        follows(page, view, [3, 80])
        letters = view.locator('.sa-letter')
        letters.nth(20).click()
        follows(page, view, [20])
        letters.nth(30).click(modifiers=['Shift'])
        driver.python_has(page, [20, 30])
        follows(page, view, [20, 30])

        letters.nth(43).hover()
        assert 'unresolved' in view.locator('.sa-readout').inner_text() and 'sa-missing' in letters.nth(43).get_attribute('class')
        letters.nth(0).hover()
        driver.change_theme(page, 'JupyterLab Dark')
        view.screenshot(path=shots/'explore_dark.png')
        page.screenshot(path=shots/'lab_dark.png')

        again = page.locator('.sa-view').nth(1) # shown a second time, a view has the state of the first
        driver.bring(again)
        page.wait_for_function("document.querySelectorAll('.sa-view[data-ready=structure]').length === 2")
        follows(page, again, [20, 30])
        page.evaluate("window.scenes = [...document.querySelectorAll('.sa-view')].map(view => view.parentElement.__saView.scene)")
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        page.wait_for_function('window.scenes.length === 2 && window.scenes.every(scene => !scene.viewer.getModel()?.selectedAtoms({}).length)')
        assert page.outside == [] and page.errors == []


def test_compare_and_alignment_in_jupyterlab(server, shots):
    with driver.browse(size=(1400, 1700)) as page:
        driver.open_notebook(page, server, 'others.ipynb')
        driver.change_theme(page, 'JupyterLab Light')
        compared, aligned = (page.locator('.sa-view').nth(k) for k in range(2))
        for view in (compared, aligned):
            view.wait_for(state='attached', timeout=60_000)
            driver.bring(view)
            page.wait_for_function("view => view.dataset.ready === 'structure'", arg=view.element_handle(), timeout=60_000)
        for view, name in ((compared, 'compared'), (aligned, 'aligned')):
            driver.click_pair(page, view, 10, 70)
            follows(page, view, [10, 70])
            driver.python_has(page, [10, 70], name)
            view.screenshot(path=shots/f'{name}_light.png')
        lines = compared.evaluate("root => root.parentElement.__saView.data.marks.filter(mark => mark.line).flatMap(mark => mark.pairs).length")
        shown = compared.evaluate("root => root.parentElement.__saView.scene.viewer.shapes?.length ?? -1")
        assert lines > 0 and shown >= lines
        driver.python(page, 'import traitlets; link = traitlets.link((compared, "selection"), (aligned, "selection")); compared.selection = [5]')
        follows(page, compared, [5])
        follows(page, aligned, [5])
        driver.change_theme(page, 'JupyterLab Dark')
        for view, name in ((compared, 'compared'), (aligned, 'aligned')):
            driver.bring(view)
            view.screenshot(path=shots/f'{name}_dark.png')
        assert page.outside == [] and page.errors == []


def test_static_form_in_jupyterlab(server, shots):
    with driver.browse() as page:
        driver.open_notebook(page, server, 'static.ipynb')
        canvas = page.locator('.jp-OutputArea canvas')
        canvas.wait_for(timeout=60_000)
        page.wait_for_timeout(1000)
        canvas.screenshot(path=shots/'static.png')
        assert page.outside == [] and page.errors == []


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A view as a file, its chain named with malice"
    space = {}
    exec(SETUP, space)
    from dataclasses import replace
    path = tmp_path_factory.mktemp('pages')/'view.html'
    chain = replace(space['chain'], id='</script><img src=x onerror="window.hacked=1"><!--')
    space['explore'](chain, space['guess'](3, 0)).to_html(path)
    return path


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_page_opens_from_disk(saved, shots, theme):
    with driver.browse(dark=theme=='dark', size=(860, 640), scale=2) as page:
        page.goto(saved.as_uri())
        view = page.locator(driver.STRUCTURE)
        view.wait_for(timeout=60_000)
        driver.click_pair(page, view, 12, 60)
        follows(page, view, [12, 60])
        assert page.evaluate('saToolkitModel.get("selection")') == [12, 60]
        page.mouse.move(5, 5)
        page.wait_for_timeout(300)
        page.screenshot(path=shots/f'page_{theme}.png')
        got, near = click_residue(page, view)
        assert abs(got-near) <= 2
        follows(page, view, [got])
        assert page.evaluate('window.hacked') is None and '<img' in view.locator('.sa-title').inner_text()
        assert page.outside == [] and page.errors == []


def test_page_without_webgl(saved, shots):
    with driver.browse(webgl=False, size=(860, 700)) as page:
        page.goto(saved.as_uri())
        view = page.locator('.sa-view[data-ready=map]')
        view.wait_for(timeout=60_000)
        assert 'no WebGL' in view.locator('.sa-notice').inner_text()
        driver.click_pair(page, view, 12, 60)
        assert view.get_attribute('data-selection') == '12,60'
        page.screenshot(path=shots/'page_no_webgl.png')
        assert page.outside == []


def test_pointing_is_cheap(tmp_path):
    "At 1,000 residues, pointing at the map costs less than a frame of a film"
    import numpy as np
    from sa_toolkit.core import make_chain
    from sa_toolkit.widgets import explore
    n, rng = 1000, np.random.default_rng(0)
    at = np.arange(n)
    ca = np.stack([2.3*np.cos(at*1.745), 2.3*np.sin(at*1.745), 1.5*at], -1)
    chain = make_chain('helix', 'A'*n, ca[:, None] + rng.normal(scale=.3, size=(1, 4, 3)))
    explore(chain, rng.random((n, n))).to_html(tmp_path/'long.html')
    with driver.browse(webgl=False, size=(860, 700)) as page:
        page.goto((tmp_path/'long.html').as_uri())
        page.locator('.sa-view[data-ready=map]').wait_for(timeout=60_000)
        spent = page.evaluate("""() => {
            const map = document.querySelector('.sa-map'), box = map.getBoundingClientRect(), times = [];
            for (let k = 0; k < 200; k++) {
                const start = performance.now();
                map.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + 1.7 * k, clientY: box.top + 1.3 * k }));
                times.push(performance.now() - start);
            }
            return times.sort((a, b) => a - b)[180];
        }""")
        assert spent < 33
        view = page.locator('.sa-view')
        driver.click_pair(page, view, 319, 777) # cells are smaller than a pixel
        assert view.get_attribute('data-selection') == '319,777' and 'A320 – A778' in view.locator('.sa-readout').inner_text()
