"Drive views in a real browser: JupyterLab, Notebook and Voilà on this machine, Chromium through playwright"
import json, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

FLAGS = ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--use-angle=swiftshader', '--enable-unsafe-swiftshader']
NO_WEBGL = '''for (const kind of [HTMLCanvasElement, OffscreenCanvas]) {
    const getContext = kind.prototype.getContext;
    kind.prototype.getContext = function (name, ...rest) { return name.includes('webgl') ? null : getContext.call(this, name, ...rest); };
}'''
STRUCTURE = '.sa-view[data-ready=structure]' # a view whose 3D half is drawn


def chromium():
    "The browser's path: SA_CHROMIUM, or what is installed; None where there is none"
    names = (os.environ.get('SA_CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome')
    return next((path for name in names if name and (path := shutil.which(name))), None)


def browser_or_reason():
    "None where a browser test can run; else the reason it cannot, raised where a browser is required"
    if chromium(): return None
    reason = 'No Chromium found: install chromium (apt-get install chromium) or name one in SA_CHROMIUM.'
    if os.environ.get('CI') or os.environ.get('SA_REQUIRE_BROWSER'): raise RuntimeError(reason)
    return reason


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait_for_server(url, process, log, seconds=120):
    for _ in range(seconds*2):
        if process.poll() is not None: break
        try: return urllib.request.urlopen(url, timeout=2)
        except OSError: time.sleep(.5)
    raise RuntimeError(f'JupyterLab did not start: {log.read_text()[-2000:]}')


@contextmanager
def lab(
    root_dir, # folder whose notebooks are opened
    home, # empty folder for settings, so that the user's own play no part
):
    "A running JupyterLab, with Notebook and Voilà in the same server; gives the address of its notebooks, token and all"
    home, port, token = Path(home), free_port(), secrets.token_hex(16)
    dirs = {f'JUPYTER_{k}_DIR': str(home/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | dict(IPYTHONDIR=str(home/'ipython'))
    dirs |= {f'JUPYTERLAB_{k}_DIR': str(home/k.lower()) for k in ('SETTINGS', 'WORKSPACES')}
    quiet = home/'settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings' # no question about news over the views
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')
    log = home/'lab.log'
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
        f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={Path(root_dir).resolve()}', '--LabApp.expose_app_in_browser=True', '--JupyterNotebookApp.expose_app_in_browser=True', '--LabApp.news_url=',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    with log.open('w') as out: process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | dirs | dict(OMP_NUM_THREADS='1'))
    try:
        wait_for_server(f'http://127.0.0.1:{port}/api', process, log)
        yield f'http://127.0.0.1:{port}/lab/tree/{{name}}?token={token}&reset'
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def browse(
    dark=False, # the system's colour scheme
    size=(1400, 1000),
    scale=1, # screen pixels per CSS pixel
    webgl=True, # False: a browser that gives no WebGL context
):
    "A page; `page.outside` lists requests that left this machine, `page.errors` errors on the console"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = chrome.new_page(viewport=dict(width=size[0], height=size[1]), device_scale_factor=scale, color_scheme='dark' if dark else 'light')
        if not webgl: page.add_init_script(NO_WEBGL)
        page.set_default_timeout(120_000) # for a machine that others use, too
        page.outside, page.errors = [], []
        local = ('http://127.0.0.1:', 'ws://127.0.0.1:', 'blob:', 'data:', 'file:')
        page.on('request', lambda r: None if r.url.startswith(local) else page.outside.append(r.url))
        page.on('pageerror', lambda e: page.errors.append(f'{e} {e.stack}'))
        page.on('console', lambda m: page.errors.append(f'{m.text} {m.location["url"]}') if m.type=='error' else None)
        try: yield page
        finally: chrome.close()


def write_notebook(path, *cells):
    "A notebook of code cells"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.metadata.kernelspec = dict(name='python3', display_name='Python 3', language='python')
    nbformat.write(nb, path)


FRONTS = dict(lab='lab/tree', notebook='notebooks', voila='voila/render')

def open_notebook(
    page,
    url, # of `lab`
    name, # below the lab's root
    run=True,
    front='lab', # or notebook
):
    "Open a notebook and run it whole; raises where a cell fails"
    page.goto(url.replace(FRONTS['lab'], FRONTS[front]).format(name=name))
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=120_000)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=120_000)
    if run and not page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')"):
        raise AssertionError(f'{name}: a cell failed: ' + ' '.join(page.locator('.jp-RenderedText[data-mime-type*=error]').all_inner_texts())[-2000:])


def python(page, code):
    "What code prints in the open notebook's kernel"
    return page.evaluate("""async code => {
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel, out = [];
        const asked = kernel.requestExecute({ code, store_history: false });
        asked.onIOPub = ({ header, content }) => {
            if (header.msg_type === 'stream') out.push(content.text);
            if (header.msg_type === 'error') out.push(`${content.ename}: ${content.evalue}`);
        };
        await asked.done;
        return out.join('').trim();
    }""", code)


def python_has(
    page,
    expected, # positions
    name='view', # the view's variable in the notebook
    seconds=10, # a change waits until Python has answered the one before
):
    "A view's selection in Python becomes what is expected"
    for _ in range(seconds*5):
        got = json.loads(python(page, f'print({name}.selection)'))
        if got == list(expected): return
        page.wait_for_timeout(200)
    raise AssertionError(f'{name}.selection is {got} in Python; expected {list(expected)}.')


def change_theme(page, name):
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
    page.wait_for_timeout(1500)


def bring(view, part='.sa-map'):
    "Scroll to a view; JupyterLab lays out only the cells that are on the screen"
    view.evaluate("root => { const box = root.getBoundingClientRect(); if (!box.height || box.top < 0 || box.bottom > innerHeight)"
        " (root.closest('.jp-Cell') ?? root).scrollIntoView({ block: 'end' }); }")
    view.locator(part).wait_for()
    view.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def click_pair(page, view, i, j):
    "Click the map of a view where row i meets column j"
    bring(view)
    view.locator('.sa-map').scroll_into_view_if_needed() # on a phone a view is taller than the screen
    box, n = view.locator('.sa-map').bounding_box(), view.locator('.sa-letter').count()
    page.mouse.click(box['x'] + (j+.5)/n*box['width'], box['y'] + (i+.5)/n*box['height'])


def pointable_residues(view):
    "Where each residue's Cα is on the screen: [position, x, y], the nearest to the eye first"
    return view.evaluate("""root => {
        const { scene, data } = root.parentElement.__saView, frame = root.querySelector('.sa-scene').getBoundingClientRect();
        const atoms = scene.viewer.selectedAtoms({ atom: 'CA' });
        const at = scene.viewer.modelToScreen(atoms.map(({ x, y, z }) => ({ x, y, z })));
        const turn = scene.viewer.getView(), rotate = ([qx, qy, qz, qw], { x, y, z }) =>
            2 * (qx * qz - qy * qw) * x + 2 * (qy * qz + qx * qw) * y + (1 - 2 * (qx * qx + qy * qy)) * z;
        return atoms.map((atom, k) => [atom.resi - 1, at[k].x - window.scrollX, at[k].y - window.scrollY, rotate(turn.slice(4), atom)])
            .filter(([, x, y]) => x > frame.left + 8 && x < frame.right - 8 && y > frame.top + 8 && y < frame.bottom - 8)
            .sort((a, b) => b[3] - a[3]).map(([i, x, y]) => [i, x, y]);
    }""")


def contrast(view, part):
    "How far the ink of a part is from the ground it stands on (WCAG 2: 1 to 21, and 4.5 is asked of text)"
    return view.locator(part).first.evaluate("""node => {
        const numbers = color => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
        const over = ([r, g, b, a], ground) => [r, g, b].map((value, k) => value * a + ground[k] * (1 - a));
        const chain = [];
        for (let at = node; at; at = at.parentElement) chain.unshift(numbers(getComputedStyle(at).backgroundColor));
        const ground = chain.reduce((below, color) => over(color, below), [255, 255, 255]), ink = over(numbers(getComputedStyle(node).color), ground);
        const light = color => color.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0.05);
        const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
        return high / low;
    }""")


def accent_pixels(png):
    "How many pixels of a screenshot show the selection's colour, shaded or not"
    import io

    import numpy as np
    from matplotlib.image import imread
    r, g, b = np.moveaxis(imread(io.BytesIO(png))[..., :3], -1, 0)
    return int(((r > .4) & (g < .45*r) & (b > .5*r) & (b < .9*r)).sum())
