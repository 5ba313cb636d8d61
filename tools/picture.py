"""Make the landing page's picture, `nbs/images/compare.png`, and the predictions behind it, `nbs/images/ubiquitin.npz`.

    python tools/picture.py [sa-demo]

With the folder of a finished `sa-toolkit demo` the base's and the aligned model's contacts of ubiquitin are stored anew; without one the picture
alone is made, of those that are stored. Needs the extra `dev` and a Chromium.
"""
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sa_toolkit.core import example_chain
from sa_toolkit.plm import load_plm
from sa_toolkit.widgets import compare_models

ROOT = Path(__file__).parents[1]
IMAGES, PAIR = ROOT/'nbs'/'images', [42, 69] # two strands that alignment brought together

def predict(run):
    "Store contacts before and after, in 256 steps"
    sequence = example_chain('1UBI').sequence
    maps = {name: load_plm(model).contacts(sequence) for name, model in dict(before='esm2-8M', after=str(Path(run)/'model')).items()}
    np.savez_compressed(IMAGES/'ubiquitin.npz', **{k: (255*x).round().astype(np.uint8) for k, x in maps.items()})

def photograph(folder):
    "Open the view's page in a browser, and take its picture"
    sys.path.insert(0, str(ROOT/'tests'))
    from lab import browse
    with np.load(IMAGES/'ubiquitin.npz') as maps: view = compare_models('1UBI', maps['before']/255, maps['after']/255)
    view.selection = PAIR
    file = Path(folder)/'view.html'
    view.to_html(file)
    with browse(size=(1180, 900), scale=1.5) as page:
        page.goto(file.as_uri())
        page.locator('canvas').first.wait_for()
        page.wait_for_timeout(3000) # until the cartoon is drawn
        box = page.locator('.sa-panels').locator('..').bounding_box()
        page.screenshot(path=IMAGES/'compare.png', clip=dict(x=box['x']-40, y=box['y']-16, width=box['width']+56, height=box['height']+32))

if __name__ == '__main__':
    if sys.argv[1:]: predict(sys.argv[1])
    with TemporaryDirectory() as folder: photograph(folder)
